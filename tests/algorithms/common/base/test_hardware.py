"""The free memory of a machine, and what a cgroup and other processes leave of it."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch

from algorithms.common.base import hardware
from algorithms.common.base.hardware import bfloat16_speedup, free_memory, prefers_bfloat16, release_memory

CPU = torch.device("cpu")
GIB = 2**30


@pytest.mark.parametrize(
    ("limit", "used", "free"), [("max", 0, None), (str(2 * GIB), GIB, 1.25 * GIB), (str(2**60), GIB, None)]
)
def test_a_cgroup_may_allow_less(tmp_path: Path, limit: str, used: int, free: float | None) -> None:
    (tmp_path / "memory.max").write_text(f"{limit}\n", encoding="ascii")
    (tmp_path / "memory.current").write_text(f"{used}\n", encoding="ascii")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {GIB // 4}\n", encoding="ascii")
    found = free_memory(CPU, tmp_path)[0]
    assert found == (pytest.approx(psutil.virtual_memory().available, rel=0.2) if free is None else int(free))


def test_processes_of_one_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    alone = free_memory(CPU, tmp_path)[0]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_memory(CPU, tmp_path)[0] == pytest.approx(alone / 4, rel=0.2)


def test_memory_that_is_no_longer_used_is_returned() -> None:
    """Blocks that are too small to be returned one by one, with some between them that stay."""
    process = psutil.Process()
    blocks = [bytearray(60_000) for _ in range(6_000)]  # 360 MB
    kept = blocks[::50]
    held = process.memory_info().rss
    del blocks
    release_memory()
    assert held - process.memory_info().rss > 200_000_000
    assert len(kept) == 120


@pytest.mark.parametrize(
    ("gpu", "supported", "speedup", "preferred"),
    [(True, True, 0.5, True), (True, False, 9.0, False), (False, False, 3.2, True), (False, True, 1.1, False)],
)
def test_bfloat16_is_preferred_where_it_is_supported_by_the_gpu_or_faster_on_the_processor(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, supported: bool, speedup: float, preferred: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: supported)
    monkeypatch.setattr(hardware, "bfloat16_speedup", lambda: speedup)
    assert prefers_bfloat16() == preferred


def test_the_speed_of_bfloat16_is_measured() -> None:
    """Between an emulation that is far slower and the best matrix units."""
    assert 1e-3 < bfloat16_speedup() < 100
