"""Results on disk: the file of a finished evaluation, and the rows of an unfinished one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from math import isnan, nan
from pathlib import Path
from typing import Any

from algorithms.common.base.files import atomic_write
from algorithms.common.base.resumable_lines import append_lines, resume_lines
from algorithms.common.base.typed import as_record
from algorithms.common.evaluation.fingerprint import Fingerprint, differences
from algorithms.common.evaluation.scores import QuestionResult, Score, by_dataset, macro_average, macro_averages
from igsearch_env.errors import ConfigurationError
from retrievers.reading import FileError, read_json_object


def write_result(
    path: Path,
    rows: Sequence[QuestionResult],
    scores: Mapping[str, Score],
    facts: Mapping[str, Mapping[str, Any]] | None = None,
    **header: Any,
) -> None:
    """Write a result file atomically: `header`, then for each data set its score, its `facts` and its rows."""
    datasets = {}
    for name, members in by_dataset(rows).items():
        plain = [{key: value for key, value in asdict(row).items() if key != "dataset"} for row in members]
        found = scores[name]
        means = {**_known(asdict(found)), "em_ci95": found.em_ci95}
        datasets[name] = {**means, **(facts or {}).get(name, {}), "rows": plain}
    averages = {name: _known(asdict(average)) for name, average in macro_averages(rows).items()}
    content = {**header, "macro_average": macro_average(scores), "macro_averages": averages, "datasets": datasets}
    with atomic_write(path, durable=True) as file:  # the rows of `PartialResult` are deleted afterwards
        file.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


_MAY_BE_UNKNOWN = ("searches", "answer_found", "em_found")


def _known(means: dict[str, Any]) -> dict[str, Any]:
    """Means for a JSON file, which has no NaN: null where a mean is not known."""
    return {**means, **{name: None for name in _MAY_BE_UNKNOWN if isnan(means[name])}}


def _with_nan(means: dict[str, Any]) -> dict[str, Any]:
    """The opposite of `_known`; earlier versions did not write all of these means."""
    return {**means, **{name: nan for name in _MAY_BE_UNKNOWN if name in means and means[name] is None}}


@dataclass(frozen=True)
class Result:
    """A result file: the header passed to `write_result`, and scores and rows by data set."""

    header: dict[str, Any]
    scores: dict[str, Score]
    rows: dict[str, list[QuestionResult]]

    @property
    def fingerprint(self) -> Fingerprint | None:
        """The fingerprint of the evaluation; None if the file has none."""
        return self.header.get("fingerprint")


def read_result(path: Path) -> Result:
    """Read a file that `write_result` wrote. Raises `ConfigurationError` for anything else."""
    try:
        content = read_json_object(path)
        found = _datasets(content.pop("datasets", None))
        rows = {name: _rows(name, part.get("rows")) for name, part in found.items()}
        scores = {name: as_record(Score, _with_nan(part), f"scores of {name}") for name, part in found.items()}
        if not isinstance(content.get("fingerprint", {}), dict | None):
            raise FileError(path, "its fingerprint is not an object")
    except FileError as error:
        raise ConfigurationError(
            f"{path}: not a result file ({error.inside(path)}); give one that igsearch evaluate wrote"
        ) from error
    return Result(content, scores, rows)


def check_replaced(output: Path | None, fingerprint: Fingerprint, *, partial: bool = False) -> None:
    """Raise `ConfigurationError` if a file of another evaluation, or of another program, would be replaced.

    `partial`: compare only the keys that `fingerprint` has.
    """
    if output is None or not output.is_file() or not output.stat().st_size:
        return
    repair = "give another --output, or delete the file"
    try:
        found = read_result(output).fingerprint or {}
    except ConfigurationError as error:
        raise ConfigurationError(
            f"--output {error.args[0].partition(';')[0]} and would be replaced; {repair}"
        ) from error
    if partial:
        found = {key: found[key] for key in fingerprint if key in found}
    unlike = differences(found, fingerprint, ignore=("igsearch",))
    if unlike:
        shown = "; ".join(unlike[:3]) + (f"; {len(unlike) - 3} more" if len(unlike) > 3 else "")
        raise ConfigurationError(f"{output} has the result of another evaluation ({shown}); {repair}")


def _datasets(found: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(found, dict) or not all(isinstance(part, dict) for part in found.values()):
        raise FileError("datasets", "must be an object with an object for each data set")
    return found


def _rows(name: str, rows: Any) -> list[QuestionResult]:
    if not isinstance(rows, list):
        raise FileError(f"rows of {name}", f"a {type(rows).__name__}; it must be a list")
    return [
        as_record(QuestionResult, {**row, "dataset": name} if isinstance(row, dict) else row, f"row {number} of {name}")
        for number, row in enumerate(rows, 1)
    ]


def read_tests(run: Path) -> tuple[Result | None, Result | None]:
    """The test results before and after training in a run folder; None for one that is not there."""
    before, after = (run / f"test_{when}.json" for when in ("before", "after"))
    return read_result(before) if before.is_file() else None, read_result(after) if after.is_file() else None


class PartialResult:
    """The rows of an unfinished evaluation on disk, one per line after the fingerprint, for the same command to resume.

    Raises `ConfigurationError` if the file belongs to an evaluation with another fingerprint, or is damaged. An
    incomplete last line that a crash left behind is removed.
    """

    def __init__(self, path: Path, fingerprint: Fingerprint) -> None:
        self.path = path
        self.rows: dict[tuple[str, str], QuestionResult] = {}
        resume_lines(path, {"fingerprint": fingerprint}, partial(self._read, fingerprint))

    def _read(self, fingerprint: Fingerprint, number: int, found: Any) -> None:
        where = f"{self.path}, line {number}"
        if number > 1:
            row = as_record(QuestionResult, found, where)
            self.rows[row.key] = row
            return
        started = found.get("fingerprint") if isinstance(found, dict) else None
        if not isinstance(started, dict):
            raise FileError(where, "it has no fingerprint")
        unlike = differences(started, fingerprint)
        if unlike:
            raise ConfigurationError(
                f"{self.path} was started with other settings ({'; '.join(unlike)}); run that command again, "
                "give another --output, or delete the file to start over"
            )

    def add(self, rows: Sequence[QuestionResult]) -> None:
        """Append rows; they are in the file when this returns."""
        append_lines(self.path, map(asdict, rows))
        self.rows |= {row.key: row for row in rows}
