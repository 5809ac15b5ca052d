"""DDP and FSDP2: how a module is wrapped, and how what is sharded becomes whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    pass


def gather_full_tensor(tensor: Tensor) -> Tensor:
    """A tensor that may be sharded, as a whole. Every process must ask."""
    gather = getattr(tensor, "full_tensor", None)
    whole: Tensor = gather() if gather is not None else tensor
    return whole.detach()


def _blocks(module: torch.nn.Module) -> list[torch.nn.Module]:
    """The decoder layers: the modules that transformers says must not be split."""
    names = {name for part in module.modules() for name in (getattr(part, "_no_split_modules", None) or ())}
    return [part for part in module.modules() if type(part).__name__ in names]
