"""Pay for searches that need no new evidence: which baselines pay it, and that outcomes alone don't."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from examples import reward_hacking
from examples.reward_hacking import HACKS, LAST_TITLE, Args, main
from igsearch_env import corpus_pages
from retrievers.bm25 import BM25Retriever


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


def test_algorithms_that_read_the_corpus_are_left_out_where_it_cannot_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of a retrieval service; their error would end the script after everything else was measured."""
    few = {name: method for name, method in reward_hacking.methods().items() if name in ("step_search", "gigpo")}
    monkeypatch.setattr(reward_hacking, "methods", lambda: few)
    monkeypatch.setattr(reward_hacking, "BASELINES", ("previous",))
    monkeypatch.setattr(BM25Retriever, "all_passages", lambda self: None)
    monkeypatch.setattr(corpus_pages, "_pages", {})
    main(Args(per_dataset=2, output=tmp_path / "rows.jsonl"))
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {name for row in rows for name in row["pay"]} == {"gigpo"}
