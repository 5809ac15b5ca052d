"""Gains of guesses: right ones pay over random evidence and not over the query, and the rows hold no text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from examples.guessed_queries import BASELINES, Args, main


def test_a_right_guess_pays_unless_the_query_is_the_baseline(tmp_path: Path) -> None:
    main(Args(per_dataset=2, output=tmp_path / "rows.jsonl"))
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {*rows[0]} == {"dataset", "id", "query", "supported", "nats", "probability"}
    assert all(row["nats"].keys() == row["probability"].keys() == set(BASELINES) for row in rows)
    means = {
        (query, baseline): np.mean([row["nats"][baseline] for row in rows if row["query"] == query])
        for query in {row["query"] for row in rows}
        for baseline in BASELINES
    }
    assert means["answer", "random"] > 3 > 0 > means["answer", "query"]
    assert means["title", "query"] > 3
    assert not any(row["supported"] for row in rows if row["query"] == "wrong")
