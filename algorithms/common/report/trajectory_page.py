"""The trajectory page: generated tokens, observations, and the advantage of each token under each algorithm.

    write(path, trajectory_page([load_recorded(file) for file in files], "a title"))

Everything that needs the project's own rules (which answer is correct, where a gold answer occurs) is computed here;
the scripts in this folder only display it. Repeated texts are stored once, and advantages are run-length encoded.
"""

from __future__ import annotations

import html
import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.resources import files
from itertools import groupby
from typing import Any

from algorithms.common.report.page import data, page
from algorithms.common.run.recorded_trajectories import RecordedStep
from igsearch_env.rewards import normalize_answer

SCRIPTS = ("elements", "data", "list", "tokens", "evidence", "views", "page")  # trajectories_*.js: one script, in order
MAX_PAGE = 5_000_000  # bytes
NOSCRIPT = "<noscript><p>This page needs JavaScript to show the trajectories.</p></noscript>\n"

Span = tuple[int, int]


def trajectory_page(recorded: Sequence[RecordedStep], title: str, bar: str = "") -> str:
    """One HTML document with all recorded trajectories; files of several steps or algorithms may be mixed.

    `bar` is inserted above the title as it is: the `navigation` of a run.
    """
    folder = files("algorithms.common.report")
    css = (folder / "trajectories.css").read_text(encoding="utf-8")
    js = "\n".join((folder / f"trajectories_{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)
    body = f"<header>{bar}<h1>{html.escape(title)}</h1></header>\n<main></main>\n{NOSCRIPT}" + data(
        "trajectories", content(recorded)
    )
    return page(title, body, css=css, js=js)


def fitting_page(recorded: Sequence[RecordedStep], title: str, bar: str = "") -> str:
    """`trajectory_page` with at most `MAX_PAGE` bytes: drops every other step, then the last half of the groups.

    Keeps the first and the last step with at least one group each; the title states how many groups are shown.
    """
    shown = list(recorded)
    document = trajectory_page(shown, title, bar)
    while len(document.encode(errors="replace")) > MAX_PAGE:
        if len(shown) > 2:
            shown = [*shown[:-1:2], shown[-1]] if len(shown) > 3 else [shown[0], shown[-1]]
        elif all(len(file.groups) < 2 for file in shown):
            break
        else:
            shown = [replace(file, groups=file.groups[: (len(file.groups) + 1) // 2]) for file in shown]
        heading = f"{title} ({_groups(shown)} of {_groups(recorded)} recorded groups: the page size is limited)"
        document = trajectory_page(shown, heading, bar)
    return document


def _groups(recorded: Sequence[RecordedStep]) -> int:
    return sum(len(file.groups) for file in recorded)


def content(recorded: Sequence[RecordedStep]) -> dict[str, Any]:
    """The data for the scripts. Texts are indices into `texts`, passages into `passages`."""
    texts, passages = _Pool(), _Pool()
    groups = [_group(group, file.step, texts, passages) for file in recorded for group in file.groups]
    algorithms = list(dict.fromkeys(name for file in recorded for name in file.algorithms))
    return {"algorithms": algorithms, "groups": groups, "texts": list(texts), "passages": list(passages)}


class _Pool(dict[Any, int]):
    """Maps each value to an index; equal values have the same index."""

    def __missing__(self, key: Any) -> int:
        self[key] = len(self)
        return self[key]


def _group(group: dict[str, Any], step: int | None, texts: _Pool, passages: _Pool) -> dict[str, Any]:
    question = group["question"]
    golds = question["golden_answers"]
    return {
        "step": step,
        "question": question["text"],
        "golds": golds,
        "family": question["dataset"],
        "prompt": texts[group["prompt"]],
        "outcomes": _outcomes(group["trajectories"]),
        "trajectories": [_trajectory(t, golds, texts, passages) for t in group["trajectories"]],
    }


def _outcomes(trajectories: Sequence[dict[str, Any]]) -> str:
    """Class of the outcomes of a group, over all attempts: equal or mixed, and whether any answer is correct."""
    outcomes = {attempt[2] for row in trajectories for attempt in row["attempts"] or [[0, None, row["outcome"]]]}
    correct = [row["correct"] for row in trajectories]
    if len(outcomes) > 1:
        return "mixed" if any(correct) or len(trajectories[0]["attempts"]) > 1 else "mixed, none correct"
    return "all fail" if outcomes == {0} else "all succeed" if all(correct) else "all equal"


def _trajectory(row: dict[str, Any], golds: Sequence[str], texts: _Pool, passages: _Pool) -> dict[str, Any]:
    return {**row, "turns": [_turn(turn, golds, texts, passages) for turn in row["turns"]]}


def _turn(turn: dict[str, Any], golds: Sequence[str], texts: _Pool, passages: _Pool) -> dict[str, Any]:
    def shared(gain: dict[str, Any] | None) -> dict[str, Any] | None:
        return gain and {**gain, "baseline_evidences": [texts[text] for text in gain["baseline_evidences"]]}

    found = [
        {
            "passage": passages[p["id"], p["title"], p["text"]],
            "score": p["score"],
            "supporting": p["supporting"],
            "title_spans": gold_spans(p["title"], golds),
            "text_spans": gold_spans(p["text"], golds),
        }
        for p in turn["passages"]
    ]
    return {
        **turn,
        "advantages": {name: runs(values) for name, values in turn["advantages"].items()},
        "observation": texts[turn["observation"]],
        "passages": found,
        "gain": shared(turn["gain"]),
        "gain_of": {name: shared(gain) for name, gain in turn.get("gain_of", {}).items()},
    }


def runs(values: Sequence[float]) -> list[tuple[float, int]]:
    """Run-length encoding, as (value, count)."""
    return [(value, len(list(run))) for value, run in groupby(values)]


def gold_spans(text: str, golds: Sequence[str]) -> list[Span]:
    """Occurrences of gold answers in the text, as character spans [start, end): whole words, normalised like answers.

    Overlapping spans are merged; surrounding punctuation is not part of a span.
    """
    words = list(_words(text))
    hits: list[Span] = []
    for gold in golds:
        wanted = normalize_answer(gold).split()
        for first in range(len(words) - len(wanted) + 1 if wanted else 0):
            place = words[first : first + len(wanted)]
            if [word for word, _, _ in place] == wanted:
                hits.append((place[0][1], place[-1][2]))
    spans: list[Span] = []
    for start, end in sorted(hits):
        if spans and start < spans[-1][1]:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((start, end))
    return spans


def _words(text: str) -> Iterator[tuple[str, int, int]]:
    """The words of `normalize_answer(text)`, each with its character span without surrounding punctuation."""
    for match in re.finditer(r"\S+", text):
        raw = match.group()
        start = match.start() + len(raw) - len(raw.lstrip(string.punctuation))
        end = match.end() - len(raw) + len(raw.rstrip(string.punctuation))
        for word in normalize_answer(raw).split():
            yield word, start, end
