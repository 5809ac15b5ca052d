"""Reading a saved policy back: what transformers saves is not always what it loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from algorithms.common.model.policy import Policy
from algorithms.common.model.pretrained import load_model
from algorithms.common.model.untrusted import unreadable
from igsearch_env.errors import ConfigurationError


def load_saved_weights(folder: Path, policy: Policy) -> None:
    """Load the weights of the model in `folder`, which `Policy.save` wrote, into a policy.

    They are read by transformers, as some architectures are saved under other names than those of their parameters.

    Raises:
        ConfigurationError: weights are missing, or a file is damaged.
        RuntimeError: they do not fit the policy's model.
    """
    try:
        saved = load_model(str(folder), dtype=policy.model.dtype)
    except (ConfigurationError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a damaged file gives errors of transformers, safetensors and torch
        raise unreadable(str(folder), error) from error
    policy.model.load_state_dict(saved.state_dict())


def verify_saved(folder: Path, policy: Policy, weights: dict[str, Any] | None = None) -> None:
    """Raise `ConfigurationError` unless `folder`, which `Policy.save` wrote, holds the policy's weights exactly.

    `weights`: the policy's state dict, if the policy itself holds only a shard of it.
    """
    if policy.adapter is not None:
        from peft import get_peft_model_state_dict
        from safetensors.torch import load_file

        expected = get_peft_model_state_dict(policy.adapter, state_dict=weights)
        found = {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
    else:
        expected = weights or policy.model.state_dict()
        found = load_model(str(folder), dtype=policy.model.dtype).state_dict()
    for name in sorted({*expected, *found}):
        apart = _apart(expected.get(name), found.get(name))
        if apart:
            raise ConfigurationError(
                f"{folder}: {name} is {apart} after saving and reading it back; this version of transformers does not "
                f"save {type(policy.model).__name__} as it is: train another architecture, or change the version"
            )


def _apart(expected: Tensor | None, found: Tensor | None) -> str:
    """How a tensor that was read back differs; empty if it does not."""
    if expected is None or found is None:
        return "absent" if found is None else "unexpected"
    if expected.shape != found.shape:
        return f"of shape {list(found.shape)}, not {list(expected.shape)},"
    mine, theirs = expected.detach().cpu(), found.cpu()
    return "" if torch.equal(mine, theirs) else f"off by {float((mine.float() - theirs.float()).abs().max()):.2g}"
