"""Costs of runs, EM at equal cost, steps to an EM, and the choice of learning rates."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paths import ROOT
from rich.console import Console
from run_summaries import run_summary

from algorithms.comparison.costs import common_cost, cost_table, em_at, steps_to, steps_to_em_table
from algorithms.comparison.learning_rates import at_rate, rate_of, rate_table, rates_by_method, shown_rate
from algorithms.comparison.run_summary import RunSummary, make_seed_groups, read_records
from algorithms.comparison.seeds_report import differences, write_report


def test_em_at_equal_cost_is_interpolated_between_evaluations() -> None:
    fast = run_summary("fast", seconds=[1.0, 1.0, 1.0, 1.0], attempts=[10] * 4)
    slow = run_summary("slow", seconds=[1.0, 2.0, 3.0, 4.0], attempts=[20] * 4)
    entries = make_seed_groups([fast, slow])
    assert common_cost(entries, "seconds") == 4.0  # of the fast one
    assert common_cost(entries, "attempts") == 40.0
    assert em_at(entries[0], "seconds", 4.0).tolist() == pytest.approx([0.6])
    assert em_at(entries[1], "seconds", 4.0).tolist() == pytest.approx([0.2 + 0.4 * 1 / 7])  # 3 s at step 2, 10 at 4
    assert em_at(entries[1], "attempts", 40.0).tolist() == pytest.approx([0.2])
    slower = make_seed_groups([run_summary("slow", attempts=[30] * 4)])  # evaluated first when the fast one has ended
    assert math.isnan(common_cost([entries[0], *slower], "attempts"))
    head, *rows = cost_table(entries, entries[0])
    assert head[-2:] == ["dev EM, 40 rollouts", "dev EM, 4 s of training"]
    assert [row[head.index("times fast's")] for row in rows] == ["1.00", "2.50"]


def test_the_time_of_a_step_is_the_median_over_runs() -> None:
    seconds = ([1.0, 1.0, 1.0, 9.0], [1.1, 50.0, 1.0, 2.0], [0.9, 1.2, 1.0, 2.0])
    (entry,) = make_seed_groups([run_summary(seed=n, seconds=found) for n, found in enumerate(seconds)])
    assert entry.spent("seconds").tolist() == pytest.approx([0, 1.0, 2.2, 3.2, 5.2])


def test_records_of_earlier_versions_have_costs_too() -> None:
    for path in ("bundled-world.jsonl", "cold-start-60-steps.jsonl"):
        entries = make_seed_groups([r for r in read_records(ROOT / "docs/results" / path) if r.start == "cold"])
        steps = entries[0].records[0].steps
        assert entries[0].spent("attempts")[-1] == pytest.approx(128 * steps)
        head, *rows = cost_table(entries, None)
        assert len(rows) == len(entries)
        assert all(row[head.index("tokens read/step")] == "" for row in rows)


def test_a_run_that_does_not_reach_an_em_is_counted_and_named() -> None:
    curves = ([(2, 0.6), (4, 0.4), (6, 0.7)], [(2, 0.1), (4, 0.2), (6, 0.3)], [(2, 0.1), (4, 0.2), (6, 0.5)])
    (entry,) = make_seed_groups([run_summary(seed=seed, dev=dev) for seed, dev in enumerate(curves)])
    first, last = steps_to(entry, 0.5)
    assert (first.tolist(), last) == ([2, math.inf, 6], 6)
    _, half, high = steps_to_em_table([entry], [0.5, 0.9])
    assert half == ["x", "0.50", "2 of 3", "6", "4.7", "2, > 6, 6"]  # (2 + 6 + 6) / 3
    assert high == ["x", "0.90", "not reached", "not reached by 6", "6.0", "> 6, > 6, > 6"]


@given(st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4), min_size=1, max_size=6), st.floats(0.01, 0.99))
def test_a_higher_em_is_never_reached_earlier(curves: list[list[float]], em: float) -> None:
    runs = [run_summary(seed=n, dev=list(zip((1, 2, 3, 4), dev, strict=True))) for n, dev in enumerate(curves)]
    (entry,) = make_seed_groups(runs)
    assert (steps_to(entry, em)[0] <= steps_to(entry, em + 0.01)[0]).all()


def test_tokens_and_time_are_those_of_the_metrics(tmp_path: Path) -> None:
    row = {"reward": 0.5, "attempts": 8.0, "episodes": 8.0, "retrieval_failures": 2.0, "time/step": 1.23456}
    row |= {"response_tokens": 5.0, "length/total_mean": 30.0}
    found = ROOT / "docs/gallery/runs-data"
    folder = next(path.parent for path in sorted(found.rglob("test_after.json")))
    (tmp_path / "test_after.json").write_bytes((folder / "test_after.json").read_bytes())
    step = json.loads((tmp_path / "test_after.json").read_text())["step"]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row | {"step": n + 1}) + "\n" for n in range(step)))
    (tmp_path / "elapsed.json").write_text("99.5")
    record = RunSummary.of_run(tmp_path, "x", 0, "bundled", [])
    assert record.tokens_written == [30] * step  # 6 trajectories of 5
    assert record.tokens_read == [150] * step
    assert (record.attempts, record.seconds, record.elapsed) == ([8] * step, [1.235] * step, 99.5)
    assert "torch" in record.hardware
    assert len(json.dumps(asdict(record))) < 10_000


# ---------------------------------------------------------------- learning rates


def test_the_rate_with_the_best_dev_em_is_chosen_whatever_the_test_em() -> None:
    runs = []
    for rate, ems, bits in (("6e-4", (0.5, 0.7), "1000"), ("3e-4", (0.6, 0.5), "1111"), ("1.5e-4", (0.4, 0.4), "1111")):
        for seed, em in enumerate(ems):
            runs.append(run_summary(at_rate("m", rate), seed, dev=[(2, 0.9), (4, em)], bits=bits))
    runs.append(run_summary("other"))
    (found,) = rates_by_method(make_seed_groups(runs))
    assert list(found.groups) == ["1.5e-4", "3e-4", "6e-4"]
    assert (found.chosen, found.at_edge) == ("6e-4", True)
    head, *rows = rate_table([found])
    assert [row[head.index("test EM")] for row in rows] == ["1.000", "1.000", "0.250"]
    assert [row[-1] for row in rows] == ["", "", "yes, at the edge of the grid"]


def test_of_equal_rates_the_lowest_is_chosen() -> None:
    (found,) = rates_by_method(make_seed_groups([run_summary("m@6e-4"), run_summary("m@3e-4"), run_summary("m@1e-4")]))
    assert found.chosen == "1e-4"


@given(st.floats(1e-7, 10))
def test_labels_name_rates(rate: float) -> None:
    method, shown = rate_of(at_rate("ig_grpo", shown_rate(rate)))
    assert method == "ig_grpo"
    assert shown is not None
    assert float(shown) == pytest.approx(rate, rel=1e-6)
    assert rate_of("ig_grpo") == ("ig_grpo", None)


# ---------------------------------------------------------------- the report


def test_verdicts_are_those_of_the_corrected_interval() -> None:
    """IG-GRPO over GRPO, five seeds: clear as the only comparison, not among nine; MR-Search is clear among nine."""
    records = [r for r in read_records(ROOT / "docs/results/bundled-world.jsonl") if r.start == "bundled"]
    grpo, ig_grpo, *others = make_seed_groups(records)
    head, only = differences([grpo, ig_grpo], grpo)
    assert (head[-2:], only[-1]) == (["95%, this row", "verdict"], "better")
    head, first, *rows = differences([grpo, ig_grpo, *others], grpo)
    assert head[3:5] == ["95%, this row alone", "95%, all 9 rows"]
    assert first[:4] == only[:4]
    assert first[-1] == "inside the noise"
    assert {row[0]: row[-1] for row in rows}["mr_search"] == "worse"


def test_a_report_compares_with_a_method_at_its_learning_rate(tmp_path: Path) -> None:
    runs = [run_summary(label, seed) for label in ("grpo@3e-4", "ig_grpo@6e-4") for seed in (0, 1)]
    write_report(runs, ["grpo"], tmp_path, "command", Console(quiet=True), [0.5, 0.7])
    report = (tmp_path / "report.md").read_text()
    assert "against grpo@3e-4" in report
    assert "--jobs 1" in report  # when times can be compared
    assert "| ig_grpo@6e-4 | 0.70 | not reached |" in report
    assert "learning rates" not in report
    assert read_records(tmp_path / "runs.jsonl") == runs
