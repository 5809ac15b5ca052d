"""Summaries of finished runs for comparisons: one line of JSON per run, and groups of runs over several seeds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from algorithms.common.base.typed import as_type
from algorithms.common.evaluation.intervals import Float64s
from algorithms.common.evaluation.results import read_result
from algorithms.common.run.evaluation_metrics import Split
from algorithms.common.run.metrics_log import read_metrics
from igsearch_env.errors import ConfigurationError
from igsearch_env.reward_hacking import KINDS
from retrievers.reading import FileError, read_json, read_json_lines

ELAPSED = "elapsed.json"
SPLITS: dict[Split, str] = {"dev": "dev/em", "test": "test/em"}  # with their metric
HACKING = tuple(f"searches/{kind}" for kind in KINDS)  # not in records of earlier versions
MEANS = ("all_fail", "attempts", "searches", "time/step", "time/information_gain")
Key = tuple[str, int, str]
"""Label, seed and start of a run."""
Cost = Literal["attempts", "seconds"]
MEAN_OF: dict[Cost, str] = {"attempts": "attempts", "seconds": "time/step"}  # in `means`


@dataclass(frozen=True)
class RunSummary:
    """Summary of one finished run for a report, one line of JSON."""

    label: str
    seed: int
    start: str
    command: list[str]
    """Command that trained it, without paths."""
    exact_matches: dict[str, str]
    """By data set, a 0 or 1 for each test question, in order of their ids."""
    searches: dict[str, float]
    """By data set, searches per test question."""
    curves: dict[Split, list[tuple[int, float]]]
    """Step and EM of each evaluation, by the questions evaluated."""
    rewards: list[float]
    """Mean outcome of each training step."""
    means: dict[str, float]
    """Metrics of the training steps, averaged over them."""
    hardware: str = ""
    """Processors, GPU and version of torch. This and what follows: absent from records of earlier versions."""
    attempts: list[int] = field(default_factory=list)
    """Rollouts of each training step, counted as attempts at a question."""
    seconds: list[float] = field(default_factory=list)
    """Wall-clock time of each training step, without evaluations and checkpoints."""
    tokens_read: list[int] = field(default_factory=list)
    """Tokens of prompts and observations in the trajectories of each step; what scoring a gain reads is not counted."""
    tokens_written: list[int] = field(default_factory=list)
    """Tokens that the policy generated for the trajectories of each step."""
    elapsed: float | None = None
    """Seconds that the command ran, with evaluations, and without pauses between interruption and resumption."""

    @property
    def steps(self) -> int:
        """Number of training steps."""
        return len(self.rewards)

    def cost_of_steps(self, cost: Cost) -> Float64s:
        """Rollouts or seconds of each training step; their mean where the record has no more."""
        each: list[int] | list[float] = self.attempts if cost == "attempts" else self.seconds
        return np.array(each or [self.means[MEAN_OF[cost]]] * self.steps, dtype=np.float64)

    @property
    def key(self) -> Key:
        """Identifies the run; unique in a comparison."""
        return self.label, self.seed, self.start

    @classmethod
    def of_run(cls, folder: Path, label: str, seed: int, start: str, command: Sequence[str]) -> RunSummary:
        """The summary of a finished run. Test questions must be scored 0 or 1."""
        result = read_result(folder / "test_after.json")
        metrics = read_metrics(folder / "metrics.jsonl", result.header.get("step"))
        steps = [row for row in metrics if "reward" in row]
        ordered = {name: sorted(found, key=lambda row: row.id) for name, found in result.rows.items()}
        return cls(
            label,
            seed,
            start,
            list(command),
            {name: "".join(str(int(row.em)) for row in found) for name, found in ordered.items()},
            {name: round(score.searches, 4) for name, score in result.scores.items()},
            {split: [(r["step"], round(r[key], 5)) for r in metrics if key in r] for split, key in SPLITS.items()},
            [round(row["reward"], 5) for row in steps],
            {
                key: round(float(np.mean([row.get(key, 0.0) for row in steps])), 5)
                for key in (*MEANS, *(key for key in HACKING if all(key in row for row in steps)))
            },
            result.header.get("hardware", ""),
            **_costs(steps),
            elapsed=read_elapsed(folder),
        )


def _costs(steps: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Costs of the training steps, from their metrics."""

    def each(of_row: Callable[[Mapping[str, float]], float], digits: int | None = None) -> list[Any]:
        try:
            return [round(of_row(row), digits) for row in steps]
        except KeyError:  # a run of an earlier version
            return []

    def trajectories(row: Mapping[str, float]) -> float:
        return row["episodes"] - row["retrieval_failures"]

    return {
        "attempts": each(lambda row: row["attempts"]),
        "seconds": each(lambda row: row["time/step"], 3),
        "tokens_read": each(lambda row: (row["length/total_mean"] - row["response_tokens"]) * trajectories(row)),
        "tokens_written": each(lambda row: row["response_tokens"] * trajectories(row)),
    }


def add_elapsed(folder: Path, seconds: float) -> None:
    """Add the seconds of a command to those of the same run before it was interrupted."""
    (folder / ELAPSED).write_text(json.dumps(round((read_elapsed(folder) or 0.0) + seconds, 1)), encoding="utf-8")


def read_elapsed(folder: Path) -> float | None:
    """Seconds that the commands of a run took; None where it was not recorded."""
    path = folder / ELAPSED
    return as_type(float, read_json(path), str(path)) if path.is_file() else None


def read_records(path: Path) -> list[RunSummary]:
    """The summaries in a file that `write_report` wrote."""
    try:
        rows = ((f"{path}, line {number}", _with_split_curves(row)) for number, row in read_json_lines(path))
        return [as_type(RunSummary, row, where) for where, row in rows]
    except FileError as error:
        raise ConfigurationError(f"{error}; give a file that write_report wrote") from error


def _with_split_curves(row: Any) -> Any:
    """A row with its curves by split. Earlier versions joined them: test questions at both ends, dev in between."""
    if not isinstance(row, dict) or not isinstance(joined := row.pop("curve", None), list) or len(joined) < 2:
        return row
    return {**row, "curves": {"dev": joined[1:-1], "test": [joined[0], joined[-1]]}}


@dataclass(frozen=True)
class SeedGroup:
    """The runs of one algorithm from one start, in order of seeds."""

    label: str
    records: tuple[RunSummary, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the runs."""
        return tuple(record.seed for record in self.records)

    def exact_matches(self, seeds: Sequence[int]) -> dict[str, Float64s]:
        """EM [seeds, questions] on the test questions, by data set."""
        chosen = [self.records[self.seeds.index(seed)].exact_matches for seed in seeds]
        return {name: np.array([[float(bit) for bit in found[name]] for found in chosen]) for name in chosen[0]}

    @cached_property
    def families(self) -> dict[str, Float64s]:
        """Test EM of each run, by data set."""
        return {name: values.mean(axis=1) for name, values in self.exact_matches(self.seeds).items()}

    @property
    def final(self) -> Float64s:
        """Macro-averaged test EM of each run."""
        return np.mean(list(self.families.values()), axis=0)  # type: ignore[no-any-return] # numpy's mean is Any

    @property
    def searches(self) -> float:
        """Searches per test question, macro-averaged."""
        return float(np.mean([list(record.searches.values()) for record in self.records]))

    def curve(self, split: Split) -> tuple[list[int], Float64s]:
        """Steps of the evaluations on these questions that all runs have, and EM [seeds, steps] there."""
        points = [dict(record.curves[split]) for record in self.records]
        steps = sorted(set.intersection(*(set(p) for p in points)))
        return steps, np.array([[p[step] for step in steps] for p in points]).reshape(len(points), len(steps))

    @property
    def area(self) -> float | None:
        """Area under the curve of dev EM divided by its length: mean EM during training. None below two points."""
        steps, values = self.curve("dev")
        if len(steps) < 2:
            return None
        return float((np.trapezoid(values, steps, axis=1) / (steps[-1] - steps[0])).mean())

    def spent(self, cost: Cost) -> Float64s:
        """Rollouts or seconds of training after 0, 1, ... steps; of each step, the median over the runs.

        The median leaves out what other programs on the machine did to single runs.
        """
        steps = min(record.steps for record in self.records)
        each = np.median([record.cost_of_steps(cost)[:steps] for record in self.records], axis=0)
        return np.concatenate([[0.0], np.cumsum(each)])

    def per_step(self, key: str) -> float:
        """A metric of the training steps, mean over steps and runs."""
        return float(np.mean([record.means[key] for record in self.records]))

    @property
    def gain_share(self) -> float:
        """Share of a training step's time spent on information gain."""
        return self.per_step("time/information_gain") / max(self.per_step("time/step"), 1e-9)


def make_seed_groups(records: Sequence[RunSummary]) -> list[SeedGroup]:
    """The runs by algorithm, in order of first appearance."""
    labels = dict.fromkeys(record.label for record in records)
    by_seed = sorted(records, key=lambda record: record.seed)
    return [SeedGroup(label, tuple(record for record in by_seed if record.label == label)) for label in labels]
