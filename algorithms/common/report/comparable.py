"""Groups runs that differ only by seed, pairs their results, and finds differences that make runs incomparable."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from algorithms.common.base.flat import flat
from algorithms.common.config import TrainConfig
from algorithms.common.evaluation.fingerprint import MODEL, differences
from algorithms.common.evaluation.intervals import Difference, Float64s, paired_difference
from algorithms.common.evaluation.results import Result
from algorithms.common.evaluation.simultaneous import Paired, simultaneous_differences
from algorithms.common.report.figures import exact_matches
from algorithms.common.run.folder import EARLIER, resumable_settings
from algorithms.common.run.saved_run import SavedRun

# Settings that may differ within a group of seeds, besides the seed; `steps` may not, it changes the result.
NOT_COMPUTED = (resumable_settings(TrainConfig) - {"steps"}) | {"seed", "threads"}
# Settings that affect the results of an evaluation.
EVALUATED = ("env.", "test_limit", "policy.chat", "policy.context_length", "rollout.max_new_tokens")
HASH = re.compile(r"[0-9a-f]{12}")
NOT_EVALUATED = ("env.questions", "env.dev_questions", "env.outcome_reward", "env.max_failure_rate")


@dataclass(frozen=True)
class SeedGroup:
    """Runs that differ only by seed, in order of seeds."""

    label: str
    runs: tuple[SavedRun, ...]

    @property
    def results(self) -> dict[int, Result]:
        """Results after training, by seed."""
        return {run.seed: run.after for run in self.runs if run.after is not None}


def make_seed_groups(runs: Sequence[SavedRun]) -> list[SeedGroup]:
    """Group runs whose settings are equal except for the seed, in order of first appearance, with unique labels."""
    groups: list[list[SavedRun]] = []
    for run in runs:
        fitting = (
            group
            for group in groups
            if run.config and _alike(run, group[0]) and run.seed not in {r.seed for r in group}
        )
        group = next(fitting, None)
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    return [
        SeedGroup(label, tuple(sorted(group, key=lambda run: run.seed)))
        for label, group in zip(_labels(groups), groups, strict=True)
    ]


def _settings_of(run: SavedRun) -> dict[str, Any]:
    return {key: value for key, value in _all_settings(run).items() if key not in NOT_COMPUTED}


def _all_settings(run: SavedRun) -> dict[str, Any]:
    """The flat settings, with those that an earlier version did not have; empty if they are not known."""
    return {**EARLIER, **flat(run.config)} if run.config else {}


def _alike(a: SavedRun, b: SavedRun) -> bool:
    return _settings_of(a) == _settings_of(b)


def _labels(groups: Sequence[Sequence[SavedRun]]) -> list[str]:
    """A short name for each group: that of its algorithm; of several groups of one, the folder's without its seed."""
    runs = [group[0] for group in groups]
    algorithms, names = [run.algorithm for run in runs], [run.name for run in runs]
    labels = [_stem(run) if algorithms.count(run.algorithm) > 1 else run.algorithm for run in runs]
    places = [str(run.folder) if names.count(run.name) > 1 else run.name for run in runs]
    return [
        f"{label} [{place}]" if labels.count(label) > 1 else label for label, place in zip(labels, places, strict=True)
    ]


def _stem(run: SavedRun) -> str:
    return re.sub(rf"[-_.]?(seed)?[-_]?{run.seed}$", "", run.name) or run.name


def _pairs(ours: SeedGroup, theirs: SeedGroup) -> tuple[list[Result], list[Result], list[int]]:
    """Results of both, paired by seed, or by order if they share no seed; and the seeds of `ours`."""
    left, right = ours.results, theirs.results
    seeds = [(seed, seed) for seed in left if seed in right] or list(zip(left, right, strict=False))
    return [left[seed] for seed, _ in seeds], [right[seed] for _, seed in seeds], [seed for seed, _ in seeds]


@dataclass(frozen=True)
class Compared:
    """A group compared with another one: the seeds of its runs, and EM [seeds, questions] less that of the other."""

    seeds: list[int]
    ours: dict[str, Float64s]
    """By data set, on the questions that all of these runs have in common."""
    theirs: dict[str, Float64s]

    @property
    def questions(self) -> int:
        """Number of common questions."""
        return sum(values.shape[1] for values in self.ours.values())

    @property
    def difference(self) -> Difference | None:
        """The difference with its bootstrap interval; None without a common question."""
        return paired_difference(self.ours, self.theirs) if self.ours else None


def against(entry: SeedGroup, first: SeedGroup, names: Sequence[str] | None = None) -> Compared:
    """`entry` minus `first`, macro-averaged over the data sets `names` (default: all)."""
    ours, theirs, seeds = _pairs(entry, first)
    return Compared(seeds, *exact_matches(ours, theirs, names)) if ours else Compared([], {}, {})


def together(found: Sequence[Compared]) -> list[Paired | None]:
    """Intervals that hold for all of these comparisons at once; None for those without a common question."""
    kept = [one for one in found if one.ours]
    values = [{name: one.ours[name] - one.theirs[name] for name in one.ours} for one in kept]
    paired = iter(simultaneous_differences(values, [one.seeds for one in kept]))
    return [next(paired) if one.ours else None for one in found]


def warnings(runs: Sequence[SavedRun]) -> Iterator[tuple[str, str, list[str]]]:
    """Differences that make a run hard to compare with the first one: name of the run, message, and its details."""
    first = runs[0]
    for run in runs:
        if run.after is None:
            yield run.name, "has no evaluation after training, so it is missing from the tables of differences.", []
        elif run.planned is not None and run.done < run.planned:
            yield run.name, f"is unfinished: {run.done} of {run.planned} steps.", []
    for run in runs[1:]:
        if run.after is not None and first.after is not None:
            yield from ((run.name, text, []) for text in _unlike_questions(first.after, run.after))
        if first.done != run.done:
            yield run.name, f"has {run.done} steps, {first.name} has {first.done}.", []
        if first.fingerprint and run.fingerprint:
            unlike = differences(first.fingerprint, run.fingerprint, MODEL)
            if unlike:
                said, details = _summarised(unlike)
                yield run.name, f"was evaluated differently from {first.name}: {said}.", details
            continue
        if bool(first.fingerprint) != bool(run.fingerprint):
            lacking = run if first.fingerprint else first
            yield lacking.name, "has no fingerprint, so its evaluation settings can't be checked.", []
        a, b = _all_settings(first), _all_settings(run)
        keys = [key for key in {**a, **b} if a.get(key) != b.get(key) and key.startswith(EVALUATED)]
        keys = [key for key in keys if key not in NOT_EVALUATED]
        if keys and a and b:
            yield run.name, f"was evaluated with other settings than {first.name}: {', '.join(keys)}.", []


def _summarised(unlike: Sequence[str]) -> tuple[str, list[str]]:
    """Differences of fingerprints in a sentence without hashes, and all of them if something was shortened."""
    sets = {text.split(".")[1] for text in unlike if text.startswith("questions.")}
    others = [text for text in unlike if not text.startswith("questions.")]
    said = [f"the questions of {len(sets)} data {'sets' if len(sets) > 1 else 'set'}"] if sets else []
    said += [text.partition(":")[0] if HASH.search(text) else text for text in others]
    return "; ".join(said), [] if said == list(unlike) else list(unlike)


def _unlike_questions(a: Result, b: Result) -> Iterator[str]:
    left, right = ({row.key: row for rows in result.rows.values() for row in rows} for result in (a, b))
    shared = left.keys() & right.keys()
    alone = len(left.keys() ^ right.keys())
    if alone:
        use = f"differences use the {len(shared)} others" if shared else "so there are no differences to show"
        yield f"has other test questions: {alone} are in only one of the two; {use}."
    changed = [
        key
        for key in shared
        if (left[key].question, left[key].golden_answers) != (right[key].question, right[key].golden_answers)
    ]
    if changed:
        yield f"has {len(changed)} test questions with another text or other golden answers; they are left out."
