"""What the benchmark of one large step times, and that it runs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from benchmarks import large
from benchmarks.watched_step import StepWatch


def test_what_a_gpu_was_asked_before_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append("wait"))
    policy = SimpleNamespace(device=torch.device("cuda"), forward_packed=None, logits=None)
    run = SimpleNamespace(sampler=SimpleNamespace(policy=policy, decoder=None), policy=policy)

    def clock() -> float:
        calls.append("clock")
        return 0.0

    watch = StepWatch(run, clock)  # type: ignore[arg-type]
    with watch.timed("part"):
        calls.append("run")
    assert calls == ["wait", "clock", "run", "wait", "clock"]


def test_a_small_step_on_a_cpu() -> None:
    args = large.Args(
        device="cpu",
        shape="small",
        layers=1,
        vocabulary=1_225,
        questions_per_step=2,
        group_size=2,
        max_searches=1,
        max_new_tokens=4,
        observation=30,
        compute_dtype=None,
        sampler_dtype="bfloat16",
    )
    lines = {line.name: line for line in large.lines(args)}
    assert lines["information gain over its own floor"].value > 1
    assert {"  prefill", "  decode", "  update", "  weights to the sampler"} <= lines.keys()
