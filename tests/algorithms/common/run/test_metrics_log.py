"""metrics.jsonl as it is read back: what a crash left is not read when a run is resumed, and is named in its report."""

from __future__ import annotations

import json
from pathlib import Path

from algorithms.common.run.metrics_log import MetricsLog, read_metrics, scan_metrics

LINES = ['{"step": 0}', '{"step": 1}', '{"ste', '{"step": 3}', '{"st']


def test_reading_stops_at_a_damaged_line_and_scanning_names_it(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert (read_metrics(path), scan_metrics(path)) == ([], ([], []))
    path.write_text("\n".join(LINES))
    assert read_metrics(path) == [{"step": 0}, {"step": 1}]
    assert scan_metrics(path) == ([{"step": 0}, {"step": 1}, {"step": 3}], [3, 5])


def test_opening_a_log_drops_later_steps_and_damaged_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join(LINES))
    log = MetricsLog(tmp_path, first_step=1)
    log.write(1, {"reward": 0.5})
    log.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"step": 0}, {"step": 1, "reward": 0.5}]
    assert not list(tmp_path.glob(".partial-*"))


def test_scores_of_earlier_versions_are_read_only_where_their_questions_are_known(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": step, "eval/em": em, "eval/f1": em} for step, em in ((0, 0.1), (2, 0.3), (4, 0.6))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    start, middle, end = read_metrics(path)
    assert start == {"step": 0, "test/em": 0.1, "test/f1": 0.1}
    assert (middle, end) == tuple(rows[1:])  # either could be of dev questions
    _, middle, end = read_metrics(path, last_step=4)
    assert middle == {"step": 2, "dev/em": 0.3, "dev/f1": 0.3}
    assert end == {"step": 4, "test/em": 0.6, "test/f1": 0.6}
