"""Reads a run folder for reports, including unfinished runs, runs of older versions and incomplete last lines."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from algorithms.common.config import with_present_names
from algorithms.common.evaluation.fingerprint import Fingerprint
from algorithms.common.evaluation.results import Result, read_tests
from algorithms.common.run.collapse import CollapseWatch
from algorithms.common.run.evaluation_metrics import with_split_names
from algorithms.common.run.metrics_log import scan_metrics
from igsearch_env.errors import ConfigurationError
from retrievers.credentials import masked
from retrievers.reading import FileError, read_yaml


@dataclass(frozen=True)
class SavedRun:
    """The current content of a run folder."""

    folder: Path
    config: dict[str, Any]
    """config.yaml, under the current option names; empty if there is no such file."""
    rows: list[dict[str, Any]]
    """metrics.jsonl, under the current names."""
    before: Result | None
    after: Result | None
    damaged: tuple[int, ...] = ()
    """Numbers of the unreadable lines of metrics.jsonl, except a last line, which may still be being written."""

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.resolve().name

    @property
    def algorithm(self) -> str:
        """Name of the algorithm from config.yaml or a result file; "unknown" if neither has it."""
        headers = [result.header for result in (self.after, self.before) if result is not None]
        return str(next((found["algorithm"] for found in (self.config, *headers) if found.get("algorithm")), "unknown"))

    @property
    def seed(self) -> int:
        """Seed of config.yaml; 0, the default, without the file."""
        seed = self.config.get("seed")
        return seed if isinstance(seed, int) else 0

    @cached_property
    def training(self) -> list[dict[str, Any]]:
        """Rows of training steps, in order; the last row of a step that was logged twice."""
        return _last_of_each_step(row for row in self.rows if "reward" in row)

    @property
    def done(self) -> int:
        """The last step logged; 0 before the first."""
        return self.training[-1]["step"] if self.training else 0

    @property
    def planned(self) -> int | None:
        """Number of steps in config.yaml; None without the file."""
        steps = self.config.get("steps")
        return steps if isinstance(steps, int) else None

    @cached_property
    def dev(self) -> list[dict[str, Any]]:
        """Rows of evaluations on dev questions."""
        return _last_of_each_step(row for row in self.rows if math.isfinite(row.get("dev/em", math.nan)))

    @cached_property
    def test(self) -> list[dict[str, Any]]:
        """Rows of evaluations on test questions."""
        return _last_of_each_step(row for row in self.rows if "test/em" in row)

    @property
    def warnings(self) -> list[str]:
        """The collapse warnings of the run, and a warning about unreadable lines."""
        watch = CollapseWatch()
        warnings = [message for row in self.training for message in watch.observe(row["step"], row)]
        if self.damaged:
            lines = ", ".join(map(str, self.damaged))
            warnings.append(f"metrics.jsonl is damaged in line {lines}. The content of these lines is missing here.")
        return warnings

    @property
    def transcripts(self) -> list[Path]:
        """Files of sampled episodes, in order of steps."""
        return sorted((self.folder / "transcripts").glob("step-*.txt"))

    @property
    def fingerprint(self) -> Fingerprint | None:
        """The evaluation fingerprint of the run, if it has one."""
        return next((r.fingerprint for r in (self.after, self.before) if r is not None and r.fingerprint), None)


def _last_of_each_step(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    by_step = {row["step"]: row for row in rows}
    return [by_step[step] for step in sorted(by_step)]


def read_run(folder: Path) -> SavedRun:
    """Read a run folder. Raises `ConfigurationError` if it is not a run folder, or if one of its files is damaged."""
    if not folder.is_dir():
        raise ConfigurationError(f"{folder}: no such folder; give the --run-dir of a run, e.g. runs/grpo-seed0")
    metrics, settings = folder / "metrics.jsonl", folder / "config.yaml"
    if not metrics.is_file() and not settings.is_file():
        raise ConfigurationError(
            f"{folder} holds neither metrics.jsonl nor config.yaml, so it is not a run; give the --run-dir of a run"
        )
    try:
        lines, unreadable = scan_metrics(metrics)
    except FileError as error:
        raise ConfigurationError(f"{error}; restore it, or delete it to do without it") from error
    rows = [row for row in lines if row is not None]
    damaged = tuple(number for number in unreadable if number < len(lines))  # the last may still be being written
    try:
        before, after = read_tests(folder)
    except ConfigurationError as error:
        raise ConfigurationError(f"{error}, restore it, or delete it to do without it") from error
    config = _config(settings)
    steps = config.get("steps")
    rows = with_split_names(rows, steps if isinstance(steps, int) else None)
    return SavedRun(folder, config, rows, before, after, damaged)


def _config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = read_yaml(path)
    except FileError as error:
        raise ConfigurationError(f"{error}; restore it, or delete it to do without it") from error
    return with_present_names(masked(content)) if isinstance(content, dict) else {}  # older versions saved passwords
