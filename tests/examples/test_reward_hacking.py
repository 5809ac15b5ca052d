"""Pay for searches that need no new evidence: which baselines pay it, and that outcomes alone don't."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from examples.reward_hacking import HACKS, LAST_TITLE, Args, main


def test_each_hack_is_paid_by_some_baseline_and_not_by_its_control(tmp_path: Path) -> None:
    main(Args(per_dataset=2, output=tmp_path / "rows.jsonl"))
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["search"] for row in rows] == [LAST_TITLE, *HACKS] * (len(rows) // (1 + len(HACKS)))

    def gain(search: str, baseline: str) -> float:
        return float(np.mean([row["probability"][baseline] for row in rows if row["search"] == search]))

    def pay(search: str, algorithm: str) -> float:
        return float(np.mean([row["pay"].get(algorithm, 0.0) for row in rows if row["search"] == search]))

    assert all(gain(LAST_TITLE, baseline) > 0.4 for baseline in ("random", "previous", "query"))
    assert gain("unseen_answer", "random") > 0.2 > 0 > gain("unseen_answer", "query")
    assert gain("redundant", "random") > 0.2 > gain("redundant", "previous")
    assert gain("read_answer", "random") > gain("read_answer", "previous")
    assert pay("redundant", "ig_grpo return, random") > 2 * pay("redundant", "ig_grpo return, previous")
    assert pay("unseen_answer", "ig_grpo") > 0 > pay("unseen_answer", "ig_grpo query")
    for name in ("grpo", "rloo", "ppo", "reinforce_plus_plus"):
        assert not any(name in row["pay"] for row in rows)
    assert not any(row["pay"] for row in rows if row["search"] == LAST_TITLE)
