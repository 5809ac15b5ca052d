"""The scores of an evaluation as metrics."""

from __future__ import annotations

from math import isnan, nan

import pytest

from algorithms.common.evaluation.scores import Score
from algorithms.common.run.evaluation_metrics import score_metrics


def test_metrics_are_macro_averages_of_the_split() -> None:
    scores = {"a": Score(2, 0.5, 0.75, 1.0, 0, 0.5, 1.0), "b": Score(4, 0.25, 0.25, 2.0, 0, 0.25, 0.0)}
    found = score_metrics("dev", scores)
    assert found == pytest.approx(
        {
            "dev/em": 0.375,
            "dev/em/a": 0.5,
            "dev/em/b": 0.25,
            "dev/f1": 0.5,
            "dev/searches": 1.5,
            "dev/answer_found": 0.375,
            "dev/em_found": 2 / 3,
        }
    )


@pytest.mark.parametrize("unknown", [Score(2, 0.5, 0.5, 1.0), Score(0, nan, nan, nan, failed=2)])
def test_shares_that_are_not_known_are_left_out(unknown: Score) -> None:
    metrics = score_metrics("test", {"a": unknown})
    assert not {"test/answer_found", "test/em_found"} & {*metrics}
    nothing_found = score_metrics("test", {"a": Score(2, 0.5, 0.5, 1.0, 0, 0.0)})
    assert nothing_found["test/answer_found"] == 0.0
    assert "test/em_found" not in nothing_found
    assert isnan(metrics["test/em"]) is (unknown.n == 0)
