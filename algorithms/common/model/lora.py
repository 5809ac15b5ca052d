"""Low-rank adapters with peft: adding, loading and merging them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from algorithms.common.distributed.sharding import gather_full_tensor
from algorithms.common.model.config import LoraConfig
from algorithms.common.model.text_parameters import modules_without_text
from algorithms.common.model.untrusted import check_model_folder, unreadable
from igsearch_env.errors import ConfigurationError


def add_adapter(model: Any, config: LoraConfig) -> Any:
    """The peft model around `model`, whose linear layers get adapters in place; only these are trained.

    The adapters' product starts at 0, so the policy is unchanged at first. Adapters are float32 for any model.
    """
    import peft

    _check_targets(model, config.target_modules)
    targets = config.target_modules[0] if config.target_modules == ("all-linear",) else list(config.target_modules)
    without_text = "|".join(map(re.escape, modules_without_text(model)))
    settings = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=0.0,
        target_modules=targets,
        exclude_modules=rf"({without_text})(\..*)?" if without_text else None,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft uses a deprecated name of transformers
        return peft.get_peft_model(model, settings)


def _check_targets(model: Any, targets: Sequence[str]) -> None:
    """Raise `ConfigurationError` for a target that matches no linear layer: peft raises only if no target matches."""
    from transformers.pytorch_utils import Conv1D

    names = [name for name, part in model.named_modules() if isinstance(part, (torch.nn.Linear, Conv1D))]
    for target in targets if targets != ("all-linear",) else ():
        if not any(name == target or name.endswith(f".{target}") for name in names):
            alone = "must stand alone" if target == "all-linear" else f"matches no layer of {type(model).__name__}"
            ends = sorted({name.rpartition(".")[2] for name in names})
            raise ConfigurationError(
                f"policy.lora.target_modules={list(targets)}: {target!r} {alone}; its linear layers end in "
                f"{', '.join(ends)}; all-linear selects all but the output layer"
            )


def adapter_base(folder: str | Path) -> str:
    """Folder or name of the model that an adapter belongs to. Raises `ConfigurationError` for a damaged folder."""
    import peft

    check_model_folder(folder)
    try:
        return str(peft.PeftConfig.from_pretrained(str(folder)).base_model_name_or_path)
    except (TypeError, ValueError, KeyError) as error:
        raise unreadable(f"policy.path={str(folder)!r}", error) from error


def merge_adapter(model: Any, folder: str | Path) -> Any:
    """`model` with the adapter in `folder` merged into its weights. Raises `ConfigurationError` if some are missing."""
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # as above
        warnings.filterwarnings("error", message="Found missing adapter keys")
        try:
            return peft.PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
        except UserWarning as error:
            raise ConfigurationError(f"{folder}: {error}; give a complete adapter") from error


def load_adapter(adapter: Any, weights: dict[str, Tensor]) -> list[str]:
    """Load saved weights into a peft model; returns the unexpected keys."""
    import peft

    unexpected: list[str] = peft.set_peft_model_state_dict(adapter, weights).unexpected_keys
    return unexpected


def merged_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Names and full tensors of a transformers model with adapters merged, for an engine with its own weights.

    Every process must iterate over it, since sharded tensors are gathered one by one.
    """
    from peft.tuners.lora import LoraLayer

    layers = {name: part for name, part in model.named_modules() if isinstance(part, LoraLayer)}
    for name, parameter in model.named_parameters():
        owner, _, last = name.rpartition(".")
        layer = owner.removesuffix(".base_layer")
        if layer in layers and last == "weight":
            part = layers[layer]
            up, down = (gather_full_tensor(half["default"].weight) for half in (part.lora_B, part.lora_A))
            product = (up @ down) * part.scaling["default"]
            weight = gather_full_tensor(parameter)
            yield f"{layer}.weight", (weight + (product.T if part.fan_in_fan_out else product)).to(weight.dtype)
        elif "lora_" not in name:
            yield name.replace(".base_layer.", "."), gather_full_tensor(parameter)


def adapted_layers(model: Any) -> list[str]:
    """Names of the layers of a transformers model that have an adapter; [] if it has none."""
    from peft.tuners.lora import LoraLayer

    return [name for name, part in model.named_modules() if isinstance(part, LoraLayer)]


def adapter_config(model: Any) -> Any:
    """peft's configuration of the adapter in a transformers model; None if it has none."""
    return model.peft_config["default"] if adapted_layers(model) else None


def adapter_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Names, as in the files of peft, and full tensors of the adapter in a transformers model.

    Every process must iterate over it, as over `merged_weights`.
    """
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            yield f"base_model.model.{name.replace('.default.', '.')}", gather_full_tensor(parameter)
