"""Gradient checkpointing: a layer's activations are computed again in the backward pass instead of being stored.

That of transformers works in training mode only, in which models are random: dropout has many names, and there are
other sources. Here the model stays in evaluation mode.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from igsearch_env.errors import ConfigurationError


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The outermost modules that transformers marks as layers: for checkpointing, or as not to be split."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    names = {name for part in model.modules() for name in (getattr(part, "_no_split_modules", None) or ())}
    found: list[nn.Module] = []
    inside: set[nn.Module] = set()
    for part in model.modules():  # parents come before their children
        marked = isinstance(part, GradientCheckpointingLayer) or type(part).__name__ in names
        if marked and part not in inside:
            found.append(part)
            inside.update(part.modules())
    return found


def checkpoint_activations(model: nn.Module) -> None:
    """Checkpoint every layer wherever gradients are computed. Raises `ConfigurationError` if no layer is known."""
    layers = layers_of(model)
    if not layers:
        raise ConfigurationError(
            f"policy.gradient_checkpointing: {type(model).__name__} does not name its layers; set it to false"
        )
    for layer in layers:
        # Replaced on the instance and below its hooks: those of FSDP2 must not run again in the backward pass.
        layer.forward = functools.partial(_checkpointed, layer.forward)


def _checkpointed(forward: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*arguments, **options)
    # No random state to restore: in evaluation mode nothing is drawn.
    return checkpoint(forward, *arguments, use_reentrant=False, preserve_rng_state=False, **options)
