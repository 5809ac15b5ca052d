"""What the benchmark of one large step times."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from benchmarks import large


def test_what_a_gpu_was_asked_before_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: told.append("wait"))
    monkeypatch.setattr(large, "time", SimpleNamespace(perf_counter=lambda: float(told.append("clock") or 0)))
    large._timed(large.Args(device="cuda"), {}, "part", lambda: told.append("run"))
    assert told == ["wait", "clock", "run", "wait", "clock"]
