"""The result of a finished run for the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from algorithms.common.evaluation.results import read_tests
from algorithms.common.evaluation.tables import print_scores
from algorithms.common.run.metrics_log import read_metrics


def print_outcome(console: Console, run_dir: Path, title: str) -> None:
    """Print the test scores, and how many episodes of training were left out because retrieval failed."""
    before, after = read_tests(run_dir)
    assert after is not None  # the run is finished
    limit = after.header.get("test_limit")
    some = f" on the first {limit} of each data set" if limit else ""
    print_scores(console, f"{title}: greedy test EM{some}", before.scores if before else None, after.scores)
    failed = sum(row.get("retrieval_failures", 0) for row in read_metrics(run_dir / "metrics.jsonl"))
    if failed:
        console.print(f"retrieval failed for {failed:.0f} episodes: excluded from loss and group statistics")
