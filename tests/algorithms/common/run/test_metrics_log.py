"""metrics.jsonl as it is read back: what a crash left is not read when a run is resumed, and is named in its report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from algorithms.common.run.metrics_log import MetricsLog, read_metrics, rows_before, scan_metrics
from igsearch_env.errors import ConfigurationError

LINES = ['{"step": 0}', '{"step": 1}', '{"ste', '{"step": 3}', '{"st']


def test_reading_stops_at_a_damaged_line_and_scanning_names_it(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert (read_metrics(path), scan_metrics(path)) == ([], ([], {}))
    path.write_text("\n".join(LINES))
    assert read_metrics(path) == [{"step": 0}, {"step": 1}]
    rows, damaged = scan_metrics(path)
    assert rows == [{"step": 0}, {"step": 1}, None, {"step": 3}, None]
    assert list(damaged) == [3, 5]
    assert f"{path}, line 3: not JSON" in damaged[3]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"[1, 2]", "no record of metrics"),
        (b'{"step": "3"}', "no record of metrics"),
        (b'{"step": 2, "reward": "high"}', "reward is 'high', not a number"),
        (b'{"step": 2, "loss/policy": null}', "loss/policy is 'None'"),
        (b'{"step": 2, "note": "caf\xe9"}', "not UTF-8"),
        (b"[" * 100_000, "nested 100000 deep"),
        (b'{"step": ' + b"1" * 5_000 + b"}", "digits"),
    ],
)
def test_a_damaged_record_of_a_step_that_a_run_keeps_is_an_error(line: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3, "note": "text"}\n')
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match=rf"metrics\.jsonl, line 2: .*{reason}.*delete it") as error:
        MetricsLog(tmp_path, first_step=4)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == before
    assert rows_before(path, 2) == [{"step": 1}]  # what follows is written again


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
