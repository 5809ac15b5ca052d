"""The page "Searches": information gain of every recorded search against the outcome of its episode.

The figures are computed here, for every choice of step and place that the page offers; `searches_*.js` display them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from algorithms.common.evaluation.auc import auc, auc_interval
from algorithms.common.evaluation.clustered import clustered_mean_ci95
from algorithms.common.report.fitting import fitting
from algorithms.common.report.page import assets, data, header, page
from algorithms.common.run.recorded_trajectories import RecordedStep, rounded

SCRIPTS = (
    "trajectories_elements",
    "analysis_elements",
    "searches_data",
    "searches_plot",
    "searches_table",
    "searches_page",
)
MAX_PAGE = 5_000_000  # bytes
RESAMPLES = 400
LAST = 6  # place of a search in its episode, from which on searches are counted together
NOSCRIPT = "<noscript><p>This page needs JavaScript to show the searches.</p></noscript>\n"


@dataclass(frozen=True)
class Search:
    """A search with a gain. `question` and `episode` are names within the page; `place` in the episode is from 1."""

    step: int
    question: int
    episode: str
    place: int
    gain: float
    correct: bool
    outcome: float
    query: str


def searches_page(recorded: Sequence[RecordedStep], title: str, bar: str = "", notes: Sequence[str] = ()) -> str:
    """One HTML document; arguments as of `training_page`, with the files `step-*.json.gz` of a run."""
    body = f"{header(title, bar, notes)}\n<main></main>\n{NOSCRIPT}"
    css, js = assets("css", ("analysis", "searches")), assets("js", SCRIPTS)
    return page(title, body + data("searches", content(recorded)), css=css, js=js)


def fitting_searches_page(
    recorded: Sequence[RecordedStep], title: str, bar: str = "", notes: Sequence[str] = ()
) -> str:
    """`searches_page` with at most `MAX_PAGE` bytes (`fitting`)."""
    return fitting(recorded, lambda shown, said: searches_page(shown, title, bar, said), notes, MAX_PAGE)


def content(recorded: Sequence[RecordedStep]) -> dict[str, Any]:
    """The data for the scripts."""
    questions: dict[tuple[str, str], int] = {}
    texts: list[dict[str, str]] = []
    for file in recorded:
        for asked in (group["question"] for group in file.groups):
            name = (asked["dataset"], asked["id"])
            if name not in questions:
                questions[name] = len(questions)
                texts.append(
                    {"text": asked["text"], "dataset": asked["dataset"], "golds": " · ".join(asked["golden_answers"])}
                )
    searches = [search for file in recorded for search in _searches(file, questions)]
    return {
        "steps": sorted({search.step for search in searches}),
        "last": LAST,
        "questions": texts,
        "searches": [[*vars(search).values()] for search in searches],
        "figures": dict(_all_figures(searches)),
    }


def _searches(file: RecordedStep, questions: dict[tuple[str, str], int]) -> Iterator[Search]:
    """The searches of a file. An episode is named as in the addresses of the trajectory page."""
    seen: dict[str, int] = {}
    for group in file.groups:
        asked = group["question"]
        copy = seen[asked["id"]] = seen.get(asked["id"], 0) + 1
        for number, row in enumerate(group["trajectories"], start=1):
            episode = f"{'' if file.step is None else file.step}:{asked['id']}:{number}" + (
                f".{copy}" if copy > 1 else ""
            )
            turns = [turn for turn in row["turns"] if turn["action"] == "search"]
            for place, turn in enumerate(turns, start=1):
                gain = turn["gain"] and turn["gain"]["value"]
                if gain is not None and row["outcome"] is not None:
                    key = questions[asked["dataset"], asked["id"]]
                    correct, outcome = row["correct"], row["outcome"]
                    yield Search(file.step or 0, key, episode, place, gain, correct, outcome, turn["content"] or "")


def _all_figures(searches: Sequence[Search]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The figures of the searches at each step and place, by "step,place"; "" stands for all."""
    steps = np.array([search.step for search in searches])
    places = np.array([min(search.place, LAST) for search in searches])
    gains = np.array([search.gain for search in searches], dtype=np.float64)
    correct = np.array([search.correct for search in searches], dtype=np.bool_)
    questions = np.array([search.question for search in searches], dtype=np.int64)
    for step in ["", *np.unique(steps).tolist()]:
        for place in ["", *np.unique(places).tolist()]:
            chosen = np.ones(len(searches), dtype=np.bool_)
            if step != "":
                chosen &= steps == step
            if place != "":
                chosen &= places == place
            if chosen.any():
                yield f"{step},{place}", figures(gains[chosen], correct[chosen], questions[chosen])


def figures(
    gains: np.ndarray[Any, Any], correct: np.ndarray[Any, Any], questions: np.ndarray[Any, Any]
) -> dict[str, Any]:
    """Mean gain of the searches of correct and of wrong episodes, and the AUC, each as [value, low, high].

    Intervals (95%) resample questions, since the searches of one depend on each other; None where there is none.
    """
    clusters = np.unique(questions, return_inverse=True)[1]
    found: dict[str, Any] = {"n": len(gains), "questions": int(clusters.max()) + 1}
    for name, chosen in (("correct", correct), ("wrong", ~correct)):
        found[f"n_{name}"] = int(chosen.sum())
        found[name] = None
        if chosen.any():
            own = np.unique(clusters[chosen], return_inverse=True)[1]
            limits = clustered_mean_ci95(gains[chosen], own, resamples=RESAMPLES) if own.max() else (math.nan, math.nan)
            found[name] = [rounded(float(value)) for value in (gains[chosen].mean(), *limits)]
    found["auc"] = None
    if 0 < correct.sum() < len(correct):
        limits = auc_interval(gains, correct, clusters, resamples=RESAMPLES) if clusters.max() else (math.nan, math.nan)
        found["auc"] = [rounded(value) for value in (auc(gains, correct), *limits)]
    return found
