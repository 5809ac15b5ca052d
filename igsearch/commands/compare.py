"""Compare two outputs of `igsearch evaluate`, question by question: is the second better than the first?

    igsearch compare before.json after.json --output comparison.json

Only questions with a score in both files are compared. The verdict is `better` or `worse` if the paired 95% bootstrap
interval excludes 0 and, for a single data set, McNemar's exact test agrees (p < 0.05). Differences of the evaluations
other than the model are printed as warnings; the exit code is still 0.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from algorithms.common.base.command_line import parse_options
from algorithms.common.base.output_path import check_output_file
from algorithms.common.evaluation.fingerprint import MODEL, RECORDED, UNSAID, Fingerprint, differences
from algorithms.common.evaluation.intervals import Float64s, mcnemar, paired_difference
from algorithms.common.evaluation.results import Result, read_result
from algorithms.common.evaluation.scores import QuestionResult
from igsearch_env.errors import ConfigurationError, IGSearchError
from igsearch_env.question_sets import FAMILIES
from retrievers.program import ends_in_one_line

WIDTH = 130  # of the table


@dataclass(frozen=True)
class Args:
    """Options of the command."""

    before: Annotated[Path, tyro.conf.Positional]
    """First result file, the baseline."""
    after: Annotated[Path, tyro.conf.Positional]
    """Second result file, compared with the first."""
    output: Path | None = None
    """JSON file to write the comparison to."""


@dataclass(frozen=True)
class Comparison:
    """One data set or macro-average: EM before and after on the `n` common questions, and the paired difference.

    `dropped`: questions that only one of the two answered. `p`: of McNemar's test; None for a macro-average.
    """

    n: int
    dropped: int
    before: float
    after: float
    difference: float
    ci95: tuple[float, float]
    p: float | None
    verdict: str


def main(args: Args) -> None:
    """Compare, print the table, write the file."""
    check_output_file(args.output)
    before, after = read_result(args.before), read_result(args.after)
    pairs = {name: common(before.rows[name], after.rows[name]) for name in before.rows if name in after.rows}
    pairs = {name: found for name, found in pairs.items() if found[0]}
    if not pairs:
        raise ConfigurationError(f"{args.before} and {args.after} have no question in common: evaluate the same ones")
    warnings = incomparable(before, after, pairs)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    dropped = {name: len(before.rows[name]) + len(after.rows[name]) - 2 * len(pairs[name][0]) for name in pairs}
    datasets = {name: compare({name: pairs[name]}, dropped[name]) for name in pairs}
    macro = {}
    for family, names in {**FAMILIES, "all": tuple(pairs)}.items():
        members = {name: pairs[name] for name in names if name in pairs}
        if members:
            macro[family] = compare(members, sum(dropped[name] for name in members))
    print_table(Console(width=max(WIDTH, Console().width)), args, warnings, datasets, macro)
    if args.output is not None:
        content = {
            "before": str(args.before),
            "after": str(args.after),
            "warnings": warnings,
            "datasets": {name: asdict(found) for name, found in datasets.items()},
            "macro_averages": {family: asdict(found) for family, found in macro.items()},
        }
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


Pair = tuple[list[QuestionResult], list[QuestionResult]]


def common(before: Sequence[QuestionResult], after: Sequence[QuestionResult]) -> Pair:
    """The rows of common questions (same id, text and golden answers) that have a score in both, in the same order."""
    left, right = ({_asked(row): row for row in rows if not row.failed} for rows in (before, after))
    keys = [key for key in left if key in right]
    return [left[key] for key in keys], [right[key] for key in keys]


def _asked(row: QuestionResult) -> tuple[str, ...]:
    return row.id, row.question, *row.golden_answers


def incomparable(before: Result, after: Result, pairs: Mapping[str, Pair]) -> list[str]:
    """Warnings about differences that make the comparison unreliable."""
    lonely = {*before.rows, *after.rows} - {*pairs}
    warnings = [f"{name}: no question in common, left out" for name in sorted(lonely)]
    left, right = before.fingerprint, after.fingerprint
    for side, found in (("first", left), ("second", right)):
        if found is None:
            warnings.append(f"no fingerprint in the {side} file: its evaluation settings can't be checked")
        elif found.get(RECORDED):
            warnings.append(
                f"the {side} file scores recorded answers: their search engine, prompt and decoding are not known"
            )
    if left is not None and right is not None:
        ignored: tuple[str, ...] = MODEL
        if left.get(RECORDED) or right.get(RECORDED):
            ignored = tuple({*MODEL, RECORDED, *(left.keys() ^ right.keys()), *UNSAID})
        warnings += differences(_of(left, pairs), _of(right, pairs), ignore=ignored)
    return warnings


def _of(fingerprint: Fingerprint, names: Collection[str]) -> Fingerprint:
    """The fingerprint of an evaluation restricted to these data sets."""
    asked = {name: facts for name, facts in fingerprint["questions"].items() if name in names}
    return {**fingerprint, "questions": asked}


def compare(pairs: Mapping[str, Pair], dropped: int) -> Comparison:
    """EM of the second minus EM of the first, macro-averaged over data sets."""
    before, after = ({name: _ems(pair[side]) for name, pair in pairs.items()} for side in (0, 1))
    found = paired_difference(after, before)
    p = None
    if len(pairs) == 1:
        ((left,), (right,)) = before.values(), after.values()
        p = mcnemar(int((right > left).sum()), int((right < left).sum()))
    means = [float(np.mean([values.mean() for values in side.values()])) for side in (before, after)]
    if not found.clear or (p is not None and p >= 0.05):
        verdict = "inside the noise"
    else:
        verdict = "better" if found.mean > 0 else "worse"
    n = sum(len(rows) for rows, _ in pairs.values())
    return Comparison(n, dropped, means[0], means[1], found.mean, found.bootstrap, p, verdict)


def _ems(rows: Sequence[QuestionResult]) -> Float64s:
    """EM, of shape [1, questions], for one seed."""
    return np.array([[row.em for row in rows]])


def print_table(
    console: Console,
    args: Args,
    warnings: Sequence[str],
    datasets: Mapping[str, Comparison],
    macro: Mapping[str, Comparison],
) -> None:
    """Print the warnings, each data set, then the macro-averages."""
    lines = [f"EM of {args.after} minus EM of {args.before}", *(f"warning: {warning}" for warning in warnings)]
    table = Table(title=escape("\n".join(lines)), title_justify="left")
    table.add_column("data set", no_wrap=True)
    for head in ("n", "dropped", "before", "after", "difference", "95% interval", "p", "verdict"):
        table.add_column(head, justify="right", no_wrap=True)
    for name, found in datasets.items():
        table.add_row(escape(name), *_cells(found))
    table.add_section()
    for family, found in macro.items():
        table.add_row(f"macro-average, {family}", *_cells(found))
    console.print(table)


def _cells(found: Comparison) -> list[str]:
    return [
        f"{found.n:,}",
        f"{found.dropped:,}",
        f"{found.before:.3f}",
        f"{found.after:.3f}",
        f"{found.difference:+.3f}",
        f"{found.ci95[0]:+.3f} to {found.ci95[1]:+.3f}",
        "" if found.p is None else f"{found.p:.3f}",
        found.verdict,
    ]


def command() -> None:
    """Compare from the command line."""
    with ends_in_one_line(IGSearchError, OSError):
        main(parse_options(Args, description=__doc__))
