"""Which parameters of a model text reaches: a multimodal model also has those of its images and sounds."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from algorithms.common.model.checkpointing import layers_of
from igsearch_env.errors import ConfigurationError

PROBE = 8  # tokens


def freeze_parameters_without_text(model: Any) -> list[str]:
    """Freeze the parameters that no text reaches, and return their names.

    These are outside the layers that a text passes through and have no gradient. Within such layers every parameter
    stays trainable: which experts are reached depends on the text.
    """
    called: set[nn.Module] = set()
    layers = layers_of(model)
    hooks = [layer.register_forward_pre_hook(lambda layer, _: called.update(layer.modules())) for layer in layers]
    parameters = [p for p in model.parameters() if p.requires_grad]
    training = model.training
    model.eval()
    try:
        with torch.enable_grad():
            ids = torch.arange(PROBE, device=model.device)[None] % model.get_input_embeddings().num_embeddings
            output = model(input_ids=ids, use_cache=False).logits.float().sum()
        inside = {p for layer in called for p in layer.parameters(recurse=False)}
        candidates = [p for p in parameters if p not in inside]
        gradients = torch.autograd.grad(output, candidates, allow_unused=True) if candidates else ()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # code of any architecture
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ConfigurationError(
            f"policy: {type(model).__name__} does not read plain text ({reason}); train another architecture"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
        model.train(training)
    unreached = {p for p, gradient in zip(candidates, gradients, strict=True) if gradient is None}
    for parameter in unreached:
        parameter.requires_grad_(False)
    return [name for name, parameter in model.named_parameters() if parameter in unreached]


def modules_without_text(model: nn.Module) -> list[str]:
    """Names of the outermost modules that have parameters, all of them frozen."""
    found: list[str] = []
    for name, part in model.named_modules():
        parameters = list(part.parameters())
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if parameters and not inside and not any(p.requires_grad for p in parameters):
            found.append(name)
    return found
