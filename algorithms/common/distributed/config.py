"""The section `distributed` of a configuration. No torch, so --help is fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from igsearch_env.errors import check_literals, check_range


@dataclass(frozen=True)
class DistributedConfig:
    """Several processes, started by `accelerate launch` or `torchrun`."""

    RESUMABLE: ClassVar[frozenset[str]] = frozenset({"sharding", "timeout_minutes"})

    sharding: Literal["none", "fsdp2"] = "none"
    """none: every process holds all weights (DDP); fsdp2: weights, gradients and optimizer states are sharded."""
    timeout_minutes: float = 30.0
    """Minutes that a process waits for the others before it stops the run."""

    def __post_init__(self) -> None:
        check_literals(self, "distributed")
        check_range("distributed.timeout_minutes", self.timeout_minutes, 0.01)
