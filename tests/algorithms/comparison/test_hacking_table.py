"""Reward hacking of several algorithms, as the report of a comparison shows it."""

from __future__ import annotations

import json
from pathlib import Path

from algorithms.common.evaluation.results import QuestionResult, write_result
from algorithms.common.evaluation.scores import score
from algorithms.comparison.hacking_table import hacking_table
from algorithms.comparison.run_summary import RunSummary, make_seed_groups
from igsearch_env.questions import Question
from igsearch_env.reward_hacking import KINDS
from igsearch_env.trajectory import ANSWERED, Trajectory


def summary(folder: Path, label: str, seed: int, *logged: dict[str, float]) -> RunSummary:
    """The summary of a run whose training steps have logged these metrics."""
    played = [Trajectory(Question("0", "q?", ("yes",), "a"), "q?", [], "yes", 1.0, ANSWERED)]
    run = folder / f"{label}-{seed}"
    run.mkdir()
    write_result(run / "test_after.json", [QuestionResult.of(t) for t in played], score(played), step=len(logged))
    rows = [{"step": step, "reward": 0.0, "time/step": 1.0, **row} for step, row in enumerate(logged, start=1)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return RunSummary.of_run(run, label, seed, "start", [])


def test_shares_are_means_over_steps_and_runs_and_empty_where_they_were_not_logged(tmp_path: Path) -> None:
    shares = {f"searches/{kind}": place / 10 for place, kind in enumerate(KINDS)}
    records = [
        summary(tmp_path, "new", 0, shares, {key: value + 0.2 for key, value in shares.items()}),
        summary(tmp_path, "new", 1, shares),
        summary(tmp_path, "old", 0, {"searches/repeated": 0.5}),
    ]
    _, new, old = hacking_table(make_seed_groups(records))
    assert new == ["new", "0.050", "0.150", "0.250", "0.350"]
    assert old == ["old", "", "", "", ""]
