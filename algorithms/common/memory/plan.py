"""Estimates the memory of a training run before any weight is loaded, and suggests settings that save memory.

In bytes per process. Only an estimate: allocators round up and fragment, kernels need workspaces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table

from algorithms.common.base.hardware import free_memory
from algorithms.common.base.memory_line import MemoryLine
from algorithms.common.config import TrainConfig
from algorithms.common.memory.breakdown import PHASES, memory_lines
from algorithms.common.memory.footprint import footprint
from algorithms.common.rollout.config import BUILTIN
from algorithms.common.rollout.sampler import EVAL_SLOTS
from igsearch_env.errors import ConfigurationError

GIB = 2**30
SMALL = GIB  # a smaller plan is printed in one line
MARGIN = 0.9  # share of the available memory that a plan may take


@dataclass(frozen=True)
class MemoryPlan:
    """Memory of a run and memory available, in bytes. `alternatives`: (settings, plan with them) to save it.

    `begun`: what the process has taken before the models are loaded (Python, its libraries, the search engine), which
    is part of the total, but no longer available.
    """

    lines: tuple[MemoryLine, ...]
    available: int
    begun: int
    alternatives: Callable[[], Iterator[tuple[str, MemoryPlan]]] = field(repr=False, compare=False)

    @property
    def total(self) -> int:
        """The peak that is expected: permanent memory plus that of the largest phase."""
        return self.begun + self._of("always") + max(map(self._of, PHASES))

    def _of(self, phase: str) -> int:
        return sum(line.bytes for line in self.lines if line.phase == phase)

    def fits(self) -> bool:
        """Whether what is still to be allocated is at most `MARGIN` of the available memory."""
        return self.total - self.begun <= MARGIN * self.available

    def advice(self) -> list[str]:
        """Settings that save memory, each on its own, largest saving first. Empty if the plan fits."""
        if self.fits():
            return []
        saving = [(self.total - plan.total, text, plan.fits()) for text, plan in self.alternatives()]
        return [
            f"{text} saves {_gib(saved)}{', which is enough' if enough else ''}"
            for saved, text, enough in sorted(saving, reverse=True)
            if saved > 0.01 * self.total
        ]

    def render(self, console: Console) -> None:
        """Print one line for a small run, else a table; a warning with advice if it may not fit."""
        says = f"about {_gib(self.total)}, {_gib(self.available)} free"
        if self.total - self.begun >= SMALL or not self.fits():
            table = Table("", "GiB", "when", "", title="memory (estimated)")
            table.columns[1].justify = "right"
            if self.begun:
                table.add_row("Python, search engine", f"{self.begun / GIB:.2f}", "always", "in use already")
            for line in self.lines:
                table.add_row(line.name, f"{line.bytes / GIB:.2f}", line.phase, line.detail)
            console.print(table)
            says += f"; peak phase: {max(PHASES, key=self._of)}"
        console.print(f"memory: {says}", highlight=False)
        if not self.fits():
            console.print("[yellow]this may not fit[/yellow]; settings that save memory, each alone:", highlight=False)
            for text in self.advice():
                console.print(f"  {text}", highlight=False)


def check_model(config: TrainConfig, device: torch.device | None = None) -> None:
    """Raise `ConfigurationError` if there is no model at `policy.path`. Its configuration alone is read."""
    device = device or _device(config)
    footprint(replace(config.policy, gradient_checkpointing=False), device.type == "cuda")


def _device(config: TrainConfig) -> torch.device:
    """The device that a configuration chooses."""
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(auto if config.policy.device == "auto" else config.policy.device)


def plan_memory(
    config: TrainConfig,
    *,
    needs_reference: bool,
    needs_critic: bool,
    world_size: int = 1,
    device: torch.device | None = None,
    eval_questions: int = EVAL_SLOTS,
) -> MemoryPlan:
    """Plan a run of `world_size` processes on `device` (default: that of the configuration).

    `eval_questions`: of the largest evaluation.

    Raises `ConfigurationError` if there is no model at `policy.path`, or if its weights alone, whose size is exact,
    exceed the available memory; anything else is only a warning, since it is an estimate.
    """
    device = device or _device(config)
    check_model(config, device)  # imports what stays in memory
    available, device_bytes = free_memory(device)
    begun = 0 if device.type == "cuda" else psutil.Process().memory_info().rss

    def plan(config: TrainConfig, reference: bool, processes: int) -> MemoryPlan:
        lines = tuple(memory_lines(config, reference, needs_critic, processes, device, device_bytes, eval_questions))
        return MemoryPlan(lines, available, begun, lambda: _alternatives(config, reference, processes, device, plan))

    result = plan(config, needs_reference, world_size)
    weights = result.lines[0].bytes
    if weights > available:
        raise ConfigurationError(
            f"policy.path={config.policy.path!r}: its weights in {config.policy.dtype} take {_gib(weights)}, but only "
            f"{_gib(available)} are available on {device}; use a smaller model, policy.dtype bfloat16 or more memory"
        )
    return result


# ---------------------------------------------------------------- settings that save memory


def _alternatives(
    config: TrainConfig,
    reference: bool,
    processes: int,
    device: torch.device,
    plan: Callable[[TrainConfig, bool, int], MemoryPlan],
) -> Iterator[tuple[str, MemoryPlan]]:
    """Settings that may save memory, each on its own, with their plan."""
    policy, rollout, optimizer, loss = config.policy, config.rollout, config.optimizer, config.loss

    def changed(text: str, **sections: Any) -> tuple[str, MemoryPlan]:
        return text, plan(replace(config, **sections), reference, processes)

    if policy.dtype == "float32" and rollout.dtype is None and rollout.engine == BUILTIN:
        yield changed("rollout.dtype bfloat16", rollout=replace(rollout, dtype="bfloat16"))
    if not policy.gradient_checkpointing:
        yield changed("policy.gradient_checkpointing True", policy=replace(policy, gradient_checkpointing=True))
    if not policy.lora.rank:
        yield changed("policy.lora.rank 16", policy=replace(policy, lora=replace(policy.lora, rank=16)))
    if reference and loss.kl_coef:
        without = replace(config, loss=replace(loss, kl_coef=0.0))
        yield "loss.kl_coef 0", plan(without, False, processes)
    yield from _enough(
        changed(f"optimizer.token_budget {budget}", optimizer=replace(optimizer, token_budget=budget))
        for budget in _halves(optimizer.token_budget, 256)
    )
    yield from _enough(
        changed(f"rollout.kv_cache_tokens {tokens}", rollout=replace(rollout, kv_cache_tokens=tokens))
        for tokens in _halves(rollout.kv_cache_tokens, 1_024)
    )
    if rollout.engine == "vllm":
        yield from _enough(
            changed(f"rollout.gpu_memory_utilization {share}", rollout=replace(rollout, gpu_memory_utilization=share))
            for share in (0.6, 0.4, 0.3, 0.2)
            if share < rollout.gpu_memory_utilization
        )
    if device.type == "cuda" and config.distributed.sharding == "none":  # processes on a CPU share its memory
        fsdp2 = replace(config, distributed=replace(config.distributed, sharding="fsdp2"))
        yield from _enough(
            (f"distributed.sharding fsdp2 with {n} processes", plan(fsdp2, reference, n))
            for n in ((processes,) if processes > 1 else (2, 4, 8))
        )


def _halves(value: int, least: int) -> Iterator[int]:
    while value // 2 >= least:
        value //= 2
        yield value


def _enough(settings: Iterable[tuple[str, MemoryPlan]]) -> list[tuple[str, MemoryPlan]]:
    """The first plan that fits, else the smallest one, as a list; [] if there is none."""
    tried = []
    for text, plan in settings:
        tried.append((text, plan))
        if plan.fits():
            return tried[-1:]
    return [min(tried, key=lambda row: row[1].total)] if tried else []


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB"
