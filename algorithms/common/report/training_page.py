"""The page "Over training": the groups of each tracked question at several steps of a run, side by side.

`run/tracked.py` records them; `training_*.js` display what this file makes of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from algorithms.common.evaluation.intervals import wilson_ci95
from algorithms.common.report.fitting import fitting
from algorithms.common.report.page import assets, data, header, page
from algorithms.common.run.recorded_trajectories import RecordedStep, rounded

# One script, in this order. `trajectories_diff.js` compares texts; the two before it make elements.
SCRIPTS = (
    *("trajectories_elements", "analysis_elements", "trajectories_diff"),
    *("training_data", "training_charts", "training_queries", "training_page"),
)
MAX_PAGE = 5_000_000  # bytes
NOSCRIPT = "<noscript><p>This page needs JavaScript to show the questions.</p></noscript>\n"


def training_page(recorded: Sequence[RecordedStep], title: str, bar: str = "", notes: Sequence[str] = ()) -> str:
    """One HTML document.

    Args:
        recorded: the files `tracked-*.json.gz` of a run, in order of their steps.
        title: of the page, escaped.
        bar: inserted above the title as it is: the `navigation` of a run.
        notes: sentences below the title, escaped.
    """
    body = f"{header(title, bar, notes)}\n<main></main>\n{NOSCRIPT}"
    css, js = assets("css", ("analysis", "training")), assets("js", SCRIPTS)
    return page(title, body + data("training", content(recorded)), css=css, js=js)


def fitting_training_page(
    recorded: Sequence[RecordedStep], title: str, bar: str = "", notes: Sequence[str] = ()
) -> str:
    """`training_page` with at most `MAX_PAGE` bytes (`fitting`)."""
    return fitting(recorded, lambda shown, said: training_page(shown, title, bar, said), notes, MAX_PAGE)


def content(recorded: Sequence[RecordedStep]) -> dict[str, Any]:
    """The data for the scripts: each question with its group at each step."""
    questions: dict[tuple[str, str], dict[str, Any]] = {}
    for file in recorded:
        for group in file.groups:
            asked = group["question"]
            name = (asked["dataset"], asked["id"])
            question = questions.setdefault(
                name,
                {
                    "name": ":".join(name),
                    "text": asked["text"],
                    "golds": asked["golden_answers"],
                    "dataset": asked["dataset"],
                    "groups": [],
                },
            )
            question["groups"].append(_group(group, file))
    return {"steps": [file.step for file in recorded], "questions": list(questions.values())}


def _group(group: dict[str, Any], file: RecordedStep) -> dict[str, Any]:
    rows = group["trajectories"]
    algorithm = file.algorithms[0] if file.algorithms else None
    share = sum(row["correct"] for row in rows) / len(rows)
    return {
        "step": file.step,
        "share": share,
        "interval": [rounded(limit) for limit in wilson_ci95(share, len(rows))],
        "episodes": [_episode(row, algorithm) for row in rows],
    }


def _episode(row: dict[str, Any], algorithm: str | None) -> dict[str, Any]:
    turns = [_turn(turn, algorithm) for turn in row["turns"]]
    return {
        "prediction": row["prediction"],
        "correct": row["correct"],
        "outcome": row["outcome"],
        "stop": row["stop_reason"],
        "advantage": None if algorithm is None else rounded(sum(turn["advantage"] for turn in turns)),
        "turns": turns,
    }


def _turn(turn: dict[str, Any], algorithm: str | None) -> dict[str, Any]:
    """`text`: the query, the answer, or all tokens of an invalid turn; `found`: titles of the passages.

    `advantage`: the sum over the turn's tokens.
    """
    values = turn["advantages"].get(algorithm, [])
    return {
        "action": turn["action"],
        "text": "".join(turn["tokens"]) if turn["content"] is None else turn["content"],
        "found": [passage["title"] or passage["text"][:80] for passage in turn["passages"]],
        "gain": turn["gain"] and turn["gain"]["value"],
        "advantage": None if algorithm is None else rounded(sum(value or 0.0 for value in values)),
    }
