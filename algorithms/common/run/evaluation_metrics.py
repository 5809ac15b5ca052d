"""Names of scores in metrics.jsonl: `dev/...` for dev questions, `test/...` for test questions.

SPLIT/em (macro-average)  SPLIT/em/DATASET  SPLIT/f1  SPLIT/searches
SPLIT/answer_found  SPLIT/em_found (`MacroAverage`; only where they are known)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any, Literal, get_args

from algorithms.common.evaluation.scores import MacroAverage, Score

Split = Literal["dev", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
OLD_PREFIX = "eval/"  # earlier versions wrote the scores of both splits under it


def score_metrics(split: Split, scores: Mapping[str, Score]) -> dict[str, float]:
    """Scores of an evaluation on the questions of `split`, by data set, as metrics."""
    average = MacroAverage.of(scores)
    metrics = {f"{split}/em": average.em}
    metrics |= {f"{split}/em/{name}": s.em for name, s in scores.items()}
    metrics |= {f"{split}/f1": average.f1, f"{split}/searches": average.searches}
    known = {"answer_found": average.answer_found, "em_found": average.em_found}
    return metrics | {f"{split}/{name}": mean for name, mean in known.items() if not isnan(mean)}


def with_split_names(rows: Sequence[dict[str, Any]], last_step: int | None = None) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl, those of earlier versions under the present names.

    Earlier versions evaluated test questions before and after training and dev questions in between, and wrote both as
    `eval/...`; later ones added `dev/em` to the rows of dev questions. In files without any `dev/em`, rows at step 0
    and at `last_step`, the number of steps in the configuration, are of test questions. Without `last_step`, the split
    of a row after step 0 is unknown there; the row keeps its old names, so that it is not taken for either.
    """
    marked = any("dev/em" in row for row in rows)
    return [_renamed(row, marked, last_step) for row in rows]


def _renamed(row: dict[str, Any], marked: bool, last_step: int | None) -> dict[str, Any]:
    if not any(key.startswith(OLD_PREFIX) for key in row):
        return row
    if marked:
        split = "dev" if "dev/em" in row else "test"
    elif row["step"] in (0, last_step):
        split = "test"
    elif last_step is not None:
        split = "dev"
    else:
        return row
    return {f"{split}/{key.removeprefix(OLD_PREFIX)}" if key.startswith(OLD_PREFIX) else key: row[key] for key in row}
