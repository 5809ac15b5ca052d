"""Reports: of a real run and of files made by hand, read as text and in a browser."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT
from run_folders import HOSTILE, append, scored_row, training_row, write_run

from algorithms.common.config import as_dict
from algorithms.common.evaluation.results import write_result
from algorithms.common.evaluation.scores import score_rows
from algorithms.common.model.config import PolicyConfig
from algorithms.common.report.charts import Chart, Line, chart_html, smooth, summary
from algorithms.common.report.comparable import SeedGroup, make_seed_groups
from algorithms.common.report.comparison_charts import comparison_charts
from algorithms.common.report.comparison_report import comparison_report
from algorithms.common.report.live import MAX_CONNECTIONS, LiveServer
from algorithms.common.report.live_state import run_state
from algorithms.common.report.run_charts import run_charts, time_parts
from algorithms.common.report.run_report import run_report, write_reports
from algorithms.common.report.run_sections import final_scores
from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.rollout.environment import EnvConfig
from algorithms.common.run.saved_run import SavedRun, read_run
from algorithms.common.trainer import train
from algorithms.common.training.config import OptimizerConfig
from algorithms.ig_grpo import IGGRPO, IGGRPOConfig
from igsearch_env.errors import ConfigurationError
from igsearch_env.reward_hacking import KINDS
from igsearch_env.world.bundled import bundled_world
from retrievers.lock import OWNER, ProcessLock


class Document(HTMLParser):
    """Text, JSON and elements of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.json: dict[str, Any] = {}
        self.words: list[str] = []
        self.inside: str | None = None
        self.broken = False  # after <wbr>, which may break a word
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.broken = tag == "wbr"
        if tag in ("script", "style"):
            self.inside = dict(attrs).get("id") or ""

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self.inside = None

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.json[self.inside] = json.loads(data, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
        elif self.inside is None:
            before = self.words.pop() if self.broken else ""
            self.words.append(before + data)
            self.broken = False

    @property
    def text(self) -> str:
        """What a person reads, white space as single spaces."""
        return " ".join(" ".join(self.words).split())

    @property
    def charts(self) -> dict[str, dict[str, Any]]:
        """Data of the charts by title."""
        return {spec["title"]: spec for spec in self.json.values()}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of IG-GRPO."""
    folder = tmp_path_factory.mktemp("real")
    questions = folder / "questions.jsonl"
    rows = [
        {"id": q.id, "question": q.text, "golden_answers": list(q.golden_answers), "dataset": q.dataset}
        for q in bundled_world().questions["train"][:14]
    ]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = IGGRPOConfig(
        steps=4,
        eval_every=2,
        eval_limit=1,
        save_every=4,
        run_dir=folder / "run",
        policy=PolicyConfig(path="bundled"),
        env=EnvConfig(questions=(str(questions),), eval_questions=(str(questions),)),
        rollout=RolloutConfig(questions_per_step=3, group_size=3, max_new_tokens=12),
        optimizer=OptimizerConfig(token_budget=600),
    )
    train(IGGRPO(config), config)
    return folder / "run"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A run whose every text tries to become part of the page."""
    rows: list[dict[str, Any]] = [{"step": 0, "test/em": 0.2, f"test/em/{HOSTILE}": 0.2}]
    rows += [training_row(step, **{f"stop/{HOSTILE}": 0.5, f"time/{HOSTILE}": 0.1}) for step in (1, 2, 3)]
    rows += [{"step": 3, "test/em": 0.5, f"test/em/{HOSTILE}": 0.5}]
    run = write_run(tmp_path / "run", rows, {HOSTILE: [0, 1, 1]}, policy={"path": HOSTILE}, algorithm=HOSTILE)
    (run / "transcripts").mkdir()
    for step in (1, 2, 3):
        (run / "transcripts" / f"step-{step:06d}.txt").write_text(f"{step} {HOSTILE}", encoding="utf-8")
    return run


# ---------------------------------------------------------------- one run, as text


def test_the_report_of_a_real_run_says_what_its_files_say(real: Path) -> None:
    document = Document(run_report(real))
    run = read_run(real)
    assert run.before is not None
    assert run.after is not None
    before, after = run.before.header["macro_average"], run.after.header["macro_average"]
    assert f"{before:.3f} → {after:.3f}" in document.text
    assert "4 of 4 finished" in document.text
    rewards = next(line for line in document.charts["Reward and exact match"]["lines"] if line["faint"])["values"]
    assert [value for value in rewards if value is not None] == pytest.approx(
        [row["reward"] for row in run.training], rel=1e-4
    )
    for title in ("Information gain", "Searches", "Entropy", "Clipping", "Failures", "Step time by part"):
        assert title in document.charts
    assert "Slowest steps, seconds" in document.text
    assert "Question (" in document.text  # a sampled episode
    assert "group_size: 3" in document.text


def test_the_setup_and_what_is_not_default_stand_at_the_top(tmp_path: Path) -> None:
    config = as_dict(IGGRPOConfig(steps=3, alpha=0.5, rollout=RolloutConfig(group_size=4)))
    run = write_run(
        tmp_path / "run", [training_row(1)], {"a": [0.0] * 20, "b": [1.0]}, **{**config, "algorithm": "ig_grpo"}
    )
    text = Document(run_report(run)).text
    top = text[: text.index("Test questions, greedy")]
    assert "test questions bundled: 21 in 2 data sets" in top
    assert "a step 16 questions x 4 rollouts = 64 episodes" in top
    for line in ("steps 3 40", "rollout.group_size 4 8", "alpha 0.5 0.3"):
        assert line in top[top.index("option value default") :]
    assert "lr 0.0003" not in top
    assert "a 0.000 [0.000, 0.161]" in text
    own = write_run(tmp_path / "own", [training_row(1)], algorithm="my own", mine=True, steps=40)
    assert "option value default mine true not known" in Document(run_report(own)).text


def test_parts_of_a_step_add_up_to_it(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [training_row(1), training_row(2)])
    chart = Document(run_report(run)).charts["Step time by part"]
    assert [line["label"] for line in chart["lines"]] == ["rollout", "update", "rest"]
    assert [sum(values) for values in zip(*(line["values"] for line in chart["lines"]), strict=True)] == [3.5, 3.5]


def test_dev_and_test_questions_are_told_apart(tmp_path: Path) -> None:
    rows = [{"step": 0, "test/em": 0.1}, training_row(1), {"step": 1, "dev/em": 0.3, "dev/em/a": 0.3}]
    rows += [training_row(2), {"step": 2, "dev/em": 0.4}, {"step": 2, "test/em": 0.6}]
    # As written before the scores of the two had different names, and before that.
    older = [rows[1], {"step": 0, "eval/em": 0.1}, {"step": 1, "eval/em": 0.3, "eval/em/a": 0.3, "dev/em": 0.3}]
    older += [{"step": 2, "dev/em": 0.4}, {"step": 2, "eval/em": 0.6}]
    oldest = [{"step": 0, "eval/em": 0.1}, {"step": 1, "eval/em": 0.3, "eval/em/a": 0.3}, {"step": 2, "eval/em": 0.6}]
    both = [(1, 0.3), (2, 0.4)]
    for name, found, dev in (("new", rows, both), ("older", older, both), ("oldest", oldest, both[:1])):
        run = read_run(write_run(tmp_path / name, found, steps=2))
        assert [(row["step"], row["dev/em"]) for row in run.dev] == dev
        assert run.dev[0]["dev/em/a"] == 0.3
        assert [(row["step"], row["test/em"]) for row in run.test] == [(0, 0.1), (2, 0.6)]
        assert not any(key.startswith("eval/") for row in run.rows for key in row)


def test_what_was_found_and_how_it_was_read_are_in_the_table_and_a_chart(tmp_path: Path) -> None:
    scored = [training_row(step, **{"dev/em": 0.5, "dev/em/a": 0.5}) for step in (1, 2)]
    found = [{**row, "dev/answer_found": 0.25 * row["step"], "dev/em_found": 0.75} for row in scored]
    older = read_run(write_run(tmp_path / "older", scored, {"a": [1.0, 0.0], "b": [1.0]}))
    assert "answer found" not in final_scores(older)
    assert not [chart for chart in run_charts(older) if chart.title.startswith("Searching")]
    folder = write_run(tmp_path / "run", found)
    rows = [replace(scored_row("a", n, float(n < 1)), answer_found=n < 2) for n in range(4)]
    rows.append(scored_row("b", 0, 1.0))
    write_result(folder / "test_after.json", rows, score_rows(rows), algorithm="grpo")
    words = re.sub(r"<[^>]+>", " ", final_scores(read_run(folder)))
    assert "answer found EM where found questions" in " ".join(words.split())
    assert "a 0.250 [0.046, 0.699] 0.250 1.000 0.500 0.500 4 0" in " ".join(words.split())
    assert "1.000 5 0" not in words  # unknown of b, so those of a are the averages
    assert "0.500 0.500 5 0" in " ".join(words.split())
    (chart,) = (
        chart for chart in run_charts(read_run(folder)) if chart.title == "Searching and reading, dev questions"
    )
    assert [(line.label, list(line.values)) for line in chart.lines] == [
        ("answer found", [0.25, 0.5]),
        ("EM where it was found", [0.75, 0.75]),
    ]


def test_nothing_in_a_run_becomes_part_of_its_page(hostile: Path) -> None:
    document = Document(run_report(hostile))
    assert not [attributes for tag, attributes in document.elements if tag == "img" or "onerror" in attributes]
    assert len([tag for tag, attributes in document.elements if tag == "script" and "type" not in attributes]) == 1
    assert document.text.count("<img src=x") >= 5  # heading, table, three transcripts
    labels = [line["label"] for line in document.charts["Stop reasons"]["lines"]]
    assert labels == [HOSTILE.replace("_", " ")]
    compared = Document(comparison_report([hostile, write_run(hostile.parent / "b", [training_row(1)])]))
    assert not [attributes for tag, attributes in compared.elements if tag == "img" or "onerror" in attributes]
    assert "<img src=x" in compared.text


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "No step has been logged yet."),
        ([{"step": 0, "test/em": 0.1}], "0 of 3 unfinished"),
        ([training_row(1)], "1 of 3 unfinished"),
        ([{"step": 1, "reward": 0.5}], "1 of 3 unfinished"),
        ([training_row(1), {"reward": 1.0}, training_row(2)], "2 of 3 unfinished"),
    ],
)
def test_unfinished_and_older_runs_have_a_report(tmp_path: Path, rows: list[dict[str, Any]], said: str) -> None:
    assert said in Document(run_report(write_run(tmp_path / "run", rows))).text


def test_a_run_without_config_has_a_report(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [training_row(1)], {"a": [1.0]})
    (run / "config.yaml").unlink()
    assert "Test EM, after training 1.000" in Document(run_report(run)).text


def test_values_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    rows = [training_row(1, searches=float("nan")), training_row(2, searches=float("inf")), training_row(3)]
    chart = Document(run_report(write_run(tmp_path / "run", rows))).charts["Searches"]
    assert chart["lines"][0]["values"] == [None, None, 1.0]


def test_a_collapse_is_told_again(tmp_path: Path) -> None:
    rows = [training_row(step, searches=0.0) for step in range(1, 9)]
    assert "searches is 0, below 0.05 since step 1." in Document(run_report(write_run(tmp_path / "run", rows))).text


def test_a_long_run_shows_means_over_faint_steps(tmp_path: Path) -> None:
    rows = [training_row(step, searches=float(step % 2)) for step in range(1, 202)]
    faint, bold = Document(run_report(write_run(tmp_path / "run", rows, steps=201))).charts["Searches"]["lines"]
    assert (faint["faint"], faint["values"][:4]) == (True, [1.0, 0.0, 1.0, 0.0])
    assert (bold["faint"], bold["values"][200]) == (False, 0.6)  # of 5 steps


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "no such folder; give the --run-dir"),
        (lambda folder: folder.mkdir(), "holds neither metrics.jsonl nor config.yaml"),
        (lambda folder: (folder.mkdir(), (folder / "config.yaml").write_text("{")), "not YAML"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path / "run")
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        run_report(tmp_path / "run")


def test_recorded_episodes_get_a_page_that_the_report_links_to(real: Path) -> None:
    names = ["report.html", "trajectories.html", "training.html", "searches.html"]
    for name in names:
        (real / name).unlink(missing_ok=True)
    recorded = sorted((real / "trajectories").glob("step-*.json.gz"))
    written = write_reports(real)
    assert written[-1] == real / "report.html"
    links = [a["href"] for tag, a in Document(written[-1].read_text(encoding="utf-8")).elements if tag == "a"]
    assert recorded
    assert links == names
    assert {path.name for path in written} == {*names}
    other = Document(written[0].read_text(encoding="utf-8")).elements
    assert [a["href"] for tag, a in other if tag == "a"] == links
    assert 'href="trajectories.html"' not in run_report(real, alone=True)


def test_a_file_by_hand_gets_a_trajectory_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [training_row(1)])
    (run / "trajectories").mkdir()
    content = {"format": 1, "step": 1, "algorithms": [], "groups": []}
    (run / "trajectories" / "step-000001.json.gz").write_bytes(gzip.compress(json.dumps(content).encode()))
    assert write_reports(run) == [run / "trajectories.html", run / "report.html"]
    assert 'href="trajectories.html"' in (run / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("damaged", [("step-000001.json.gz",), ("step-000001.json.gz", "step-000002.json.gz")])
def test_a_damaged_recorded_step_is_left_out_and_named(tmp_path: Path, damaged: tuple[str, ...]) -> None:
    run = write_run(tmp_path / "run", [training_row(1)])
    (run / "trajectories").mkdir()
    content = gzip.compress(json.dumps({"format": 1, "step": 2, "algorithms": ["grpo"], "groups": []}).encode())
    for name in ("step-000001.json.gz", "step-000002.json.gz"):
        (run / "trajectories" / name).write_bytes(content[:-9] if name in damaged else content)
    assert write_reports(run) == [run / "trajectories.html", run / "report.html"]
    document = Document((run / "trajectories.html").read_text(encoding="utf-8"))
    assert f"Left out, because they are damaged: {', '.join(damaged)}." in document.text
    assert document.json["trajectories"]["algorithms"] == ["grpo"] * (2 - len(damaged))


def test_a_chart_says_in_words_what_it_shows() -> None:
    chart = Chart("A", "x", [1, 2, 3], [Line("reward", [0.5, None, 0.25]), Line("each", [1, 2, 3], faint=True)])
    said = "reward: first 0.5 (step 1), last 0.25 (step 3), minimum 0.25 (step 3), maximum 0.5 (step 1)."
    assert summary(chart) == said
    assert said in Document(chart_html(chart)).text
    assert chart_html(Chart("A", "x", [1], [Line("nothing", [None])])) == ""


def test_smoothing_takes_what_is_there() -> None:
    assert smooth([None, 1.0, None, 3.0, 5.0], 2) == [None, 1.0, 1.0, 3.0, 4.0]
    assert smooth([], 5) == []


@pytest.mark.parametrize("files", [1, 2, 3, 5])
def test_a_page_that_would_be_too_large_shows_fewer_episodes(
    files: int, real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(real, run)
    (one, *_) = sorted((run / "trajectories").glob("*.gz"))
    content = one.read_bytes()
    shutil.rmtree(run / "trajectories")
    (run / "trajectories").mkdir()
    for number in range(files):
        (run / "trajectories" / f"step-{number:06d}.json.gz").write_bytes(content)
    write_reports(run)
    whole = (run / "trajectories.html").stat().st_size
    monkeypatch.setattr("algorithms.common.report.trajectory_page.MAX_PAGE", 10)
    write_reports(run)
    assert (run / "trajectories.html").stat().st_size < whole


def test_a_score_that_is_not_a_number_is_not_the_best(tmp_path: Path) -> None:
    rows = [training_row(1), {"step": 1, "dev/em": float("nan")}, training_row(2), {"step": 2, "dev/em": 0.25}]
    assert "Best dev EM 0.250 at step 2" in Document(run_report(write_run(tmp_path / "run", rows))).text


def test_a_damaged_line_is_left_out_and_told(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [training_row(1), training_row(2), training_row(3)])
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([lines[0], "gar\x00bage", lines[2], lines[1][:9]]))
    text = Document(run_report(run)).text
    assert "3 of 3" in text
    assert "metrics.jsonl is damaged in line 2. The content of these lines is missing" in text
    (run / "test_after.json").write_text("{")
    with pytest.raises(ConfigurationError, match=r"test_after\.json: not a result.*restore it, or delete it"):
        run_report(run)


def test_steps_that_are_done_are_no_finished_run_before_its_evaluation(tmp_path: Path) -> None:
    rows = [training_row(step) for step in (1, 2, 3)]
    assert "3 of 3 done, not evaluated yet" in Document(run_report(write_run(tmp_path / "a", rows))).text
    assert "3 of 3 finished" in Document(run_report(write_run(tmp_path / "b", rows, {"x": [1.0]}))).text


def test_a_folder_whose_name_is_no_unicode_has_a_report(tmp_path: Path) -> None:
    try:
        run = write_run(tmp_path / os.fsdecode(b"run-\xff"), [training_row(1)])
    except OSError:
        pytest.skip("this file system takes no such name")
    assert "run-?" in write_reports(run)[-1].read_text(encoding="utf-8")


# ---------------------------------------------------------------- several runs, as text


def four_runs(folder: Path) -> list[Path]:
    """Two seeds of two algorithms; the second is better at every seed."""
    levels = {("grpo", 1): 20, ("grpo", 2): 21, ("rloo", 1): 80, ("rloo", 2): 81}
    return [
        write_run(
            folder / f"{name}-{seed}",
            [training_row(step) for step in (1, 2, 3)],
            {"a": [float(i < level) for i in range(100)]},
            algorithm=name,
            seed=seed,
            loss={"clip_ratio_low": 0.2},
        )
        for (name, seed), level in levels.items()
    ]


def test_runs_that_differ_by_seed_alone_are_one_entry(tmp_path: Path) -> None:
    folders = four_runs(tmp_path)
    folders.append(
        write_run(tmp_path / "other", [training_row(1)], algorithm="grpo", seed=3, loss={"clip_ratio_low": 0.3})
    )
    entries = make_seed_groups([read_run(folder) for folder in folders])
    assert [(entry.label, [run.seed for run in entry.runs]) for entry in entries] == [
        ("grpo", [1, 2]),
        ("rloo", [1, 2]),
        ("other", [3]),
    ]
    text = Document(comparison_report(folders)).text
    assert "Comparison of grpo, rloo, other" in text
    assert "loss.clip_ratio_low 0.2 0.2 0.3" in text


def test_the_curve_of_a_shorter_run_ends_where_it_ended(tmp_path: Path) -> None:
    long = write_run(tmp_path / "long", [training_row(step) for step in range(1, 7)], steps=6)
    short = write_run(tmp_path / "short", [training_row(step) for step in (1, 2)], steps=6, algorithm="rloo")
    seeds = [
        write_run(tmp_path / f"seed{n}", [training_row(step) for step in range(1, n + 2)], seed=n, algorithm="ppo")
        for n in (1, 2)
    ]
    lines = Document(comparison_report([long, short, *seeds])).charts["Training reward"]["lines"]
    ends = {line["label"]: max(i for i, v in enumerate(line["values"], 1) if v is not None) for line in lines}
    expected = {"grpo": 6, "rloo": 2, "ppo": 2, "ppo, seed 1": 2, "ppo, seed 2": 3}
    assert {label: ends[label] for label in expected} == expected


def test_a_comparison_has_a_verdict_only_with_seeds(tmp_path: Path) -> None:
    folders = four_runs(tmp_path)
    both = Document(comparison_report(folders)).text
    assert "rloo 2 (seeds 1, 2) 0.805 (0.800 to 0.810) +0.600 [+" in both
    assert "better 100 2" in both
    single = Document(comparison_report([folders[0], folders[2]])).text
    assert "one seed: no verdict" in single
    twins = copies(folders[:2], tmp_path)
    alike = Document(comparison_report([*folders[:2], *twins])).text
    assert "inside the noise" in alike
    assert "all rows together [95%]" not in alike
    three = Document(comparison_report([*folders, *twins])).text
    assert "all rows together [95%] verdict" in three


def copies(folders: list[Path], target: Path) -> list[Path]:
    """The same runs under another algorithm's name."""
    made = []
    for folder in folders:
        copy = target / f"copy-{folder.name}"
        copy.mkdir()
        for file in folder.iterdir():
            (copy / file.name).write_text(file.read_text().replace("algorithm: grpo", "algorithm: twin"))
        made.append(copy)
    return made


def test_a_comparison_names_the_settings_that_differ_and_no_others(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", [training_row(1)], optimizer={"lr": 1e-4, "epochs": 1})
    b = write_run(tmp_path / "b", [training_row(1)], optimizer={"lr": 3e-4, "epochs": 1}, env={"top_k": 5})
    text = Document(comparison_report([a, b])).text
    settings = text[text.index("Differences of configuration") : text.index("Runs")]
    assert "optimizer.lr 0.0001 0.0003" in settings
    assert "env.top_k not recorded 5" in settings
    assert "epochs" not in settings
    assert "run_dir" not in settings


def test_a_comparison_warns_of_unlike_evaluations(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", [training_row(3)], {"x": [1, 0, 1]}, env={"top_k": 3})
    b = write_run(tmp_path / "b", [training_row(2)], {"x": [1, 0]}, env={"top_k": 5})
    text = Document(comparison_report([a, b])).text
    assert "1 are in only one of the two; differences use the 2 others" in text
    assert "with other settings than a: env.top_k" in text
    assert "has 2 steps, a has 3" in text
    assert "Differences between runs" not in Document(comparison_report(four_runs(tmp_path))).text


def test_a_comparison_warns_of_unequal_steps_of_runs_with_fingerprints(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"r{n}", [training_row(n)], {"x": [1.0, 0.0]}) for n in (3, 2)]
    for run in runs:
        content = json.loads((run / "test_after.json").read_text())
        content["fingerprint"] = {"model": {"name": run.name}}
        (run / "test_after.json").write_text(json.dumps(content))
    assert "has 2 steps, r3 has 3" in Document(comparison_report(runs)).text


def test_other_questions_under_the_same_ids_are_not_compared(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / name, [training_row(3)], {"x": [1.0, 0.0], "y": [1.0]}, algorithm=name)
        for name in ("grpo", "rloo")
    ]
    path = runs[1] / "test_after.json"
    path.write_text(path.read_text().replace("Question ", "Another question "))
    text = Document(comparison_report(runs)).text
    assert "has 3 test questions with another text" in text
    assert "rloo 1 (seed 0) 0.750 [0.304, 0.953] no common questions not comparable 0 1" in text
    assert "+0.000" not in text


def test_a_comparison_warns_of_more_attempts(tmp_path: Path) -> None:
    a, b = (write_run(tmp_path / f"{n}", [training_row(1)], {"x": [1]}, env={"attempts": n}) for n in (1, 3))
    assert "with other settings than 1: env.attempts" in Document(comparison_report([a, b])).text


def test_unlike_fingerprints_are_told(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, [training_row(3)], {"x": [1.0, 0.0]}) for name in "ab"]
    for run, top_k in zip(runs, (3, 5), strict=True):
        content = json.loads((run / "test_after.json").read_text())
        content["fingerprint"] = {"model": {"name": run.name}, "top_k": top_k}
        (run / "test_after.json").write_text(json.dumps(content))
    text = Document(comparison_report(runs)).text
    assert "was evaluated differently from a: top_k: 3 != 5." in text
    assert "model" not in text


def test_one_run_is_no_comparison(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [training_row(1)])
    with pytest.raises(ConfigurationError, match="give two different run folders"):
        comparison_report([run, run])


# ---------------------------------------------------------------- the command


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """examples/report.py as a person starts it."""
    line = [sys.executable, ROOT / "examples" / "report.py", *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True)


def test_the_command_writes_a_report_and_a_comparison(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, [training_row(1)]) for name in "ab"]
    assert command(runs[0]).stdout.strip() == str(runs[0] / "report.html")
    assert (runs[0] / "report.html").is_file()
    assert command(*runs).stdout.strip() == str(tmp_path / "comparison.html")
    assert "Comparison" in (tmp_path / "comparison.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("arguments", [["nowhere"], ["nowhere", "--live"], ["a", "b", "--live"], []])
def test_mistakes_are_one_line(arguments: list[str]) -> None:
    done = command(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_a_report_that_can_not_be_written_is_one_line(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [training_row(1)])
    (run / "report.html").mkdir()
    done = command(run)
    assert done.returncode == 1
    assert re.fullmatch(r"error: .*report\.html.*\n", done.stderr)


# ---------------------------------------------------------------- the live view


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveServer]:
    """The live view of a run of one step so far."""
    with LiveServer(write_run(tmp_path / "run", [training_row(1)], steps=9), 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def get(url: str, **headers: str) -> str:
    """What a server answers."""
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
        return str(answer.read().decode())


def test_the_live_view_follows_the_run(live: LiveServer) -> None:
    first = json.loads(get(live.url + "state"))["version"]
    assert "1 of 9" in Document(get(live.url)).text
    append(live.run_dir, training_row(2))
    assert json.loads(get(live.url + "state"))["version"] != first
    assert "2 of 9" in Document(get(live.url)).text


def test_the_live_view_shows_recorded_episodes_while_the_run_trains(live: LiveServer) -> None:
    assert "trajectories.html" not in get(live.url)
    folder = live.run_dir / "trajectories"
    folder.mkdir()
    for step, name in ((1, "grpo"), (2, "igpo")):
        content = {"format": 1, "step": step, "algorithms": [name], "groups": []}
        (folder / f"step-{step:06d}.json.gz").write_bytes(gzip.compress(json.dumps(content).encode()))
        assert 'href="trajectories.html"' in get(live.url)
        shown = Document(get(live.url + "trajectories.html")).json["trajectories"]["algorithms"]
        assert shown == ["grpo", "igpo"][:step]
    assert not (live.run_dir / "trajectories.html").exists()


def test_a_run_is_running_silent_interrupted_or_finished(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [training_row(1), training_row(2)], steps=3)

    def state() -> tuple[str, str]:
        found = run_state(read_run(run))
        return found.word, found.text

    def owned(host: str, pid: int, started: float) -> None:
        (run / OWNER).write_text(json.dumps({"host": host, "pid": pid, "started": started}))

    assert state() == ("interrupted", "Interrupted at step 2 of 3; the command that started the run resumes it")
    with ProcessLock(run):
        assert state() == ("running", "Running, at step 2 of 3")
        for file in run.iterdir():
            os.utime(file, (time.time() - 300,) * 2)
        word, text = state()
        assert (word, "nothing has been logged for 5 min; a step usually takes 4 s" in text) == ("silent", True)
        append(run, training_row(3))
        assert state() == ("running", "Running, in the evaluation after step 3")
    assert state()[0] == "interrupted"
    owned(socket.gethostname(), os.getpid(), 1.0)  # another process had this id
    assert state()[0] == "interrupted"
    owned("another-host", os.getpid(), 1.0)
    assert state()[0] == "running"
    os.utime(run / OWNER, (time.time() - 300,) * 2)
    assert state()[0] == "interrupted"
    write_run(tmp_path / "done", [training_row(3)], {"x": [1.0]})
    assert run_state(read_run(tmp_path / "done")).text == "Finished: 3 steps"
    write_run(tmp_path / "new", [])
    assert "before the first step" in run_state(read_run(tmp_path / "new")).text


@pytest.mark.parametrize("path", ["metrics.jsonl", "../run/metrics.jsonl", "policy", "trajectories.html"])
def test_the_live_view_serves_no_other_file(live: LiveServer, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(live.url + path)
    with refused.value as answer:
        assert answer.code == 404


def test_the_live_view_answers_to_its_own_name_alone(live: LiveServer) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(live.url, Host="elsewhere.example")
    with refused.value as answer:
        assert answer.code == 403


@pytest.mark.parametrize("path", ["", "state", "trajectories.html", "x/", "x/state", "%2e%2e/", "é/"])
def test_the_live_view_needs_its_token(live: LiveServer, path: str) -> None:
    host = live.url.removesuffix(f"{live.token}/")
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(host + urllib.parse.quote(path))
    with refused.value as answer:
        assert answer.code == 404
        assert live.token not in answer.read().decode()


def test_live_views_have_different_tokens(live: LiveServer) -> None:
    with LiveServer(live.run_dir, 0) as other:
        assert len(live.token) >= 20
        assert other.token != live.token


def test_many_connections_to_the_live_view_keep_nobody_out(live: LiveServer) -> None:
    with ExitStack() as stack:
        for _ in range(3 * MAX_CONNECTIONS):
            half = stack.enter_context(socket.create_connection(("127.0.0.1", live.server_port)))
            half.sendall(b"GET / HTTP")
        assert "1 of 9" in get(live.url)
        assert threading.active_count() < MAX_CONNECTIONS


def test_a_port_that_is_taken_is_named(live: LiveServer) -> None:
    with pytest.raises(ConfigurationError, match=f"--port {live.server_port} .* give another one"):
        LiveServer(live.run_dir, live.server_port)
    with pytest.raises(ConfigurationError, match="--port 70000"):
        LiveServer(live.run_dir, 70000)


def test_rollouts_during_updates_are_no_part_of_a_step() -> None:
    row = {"time/step": 3.0, "time/rollout": 1.0, "time/update": 1.5, "time/rollout_hidden": 5.0}
    row["time/tokens_per_second"] = 9.0
    assert time_parts([row]) == {"rollout": [1.0], "update": [1.5], "rest": [0.5]}


def test_a_run_with_stale_rollouts_has_charts_of_them(tmp_path: Path) -> None:
    names = ("off_policy/kl", "off_policy/abs_mean", "importance/mean", "importance/capped_share")
    values = {name: float(place) for place, name in enumerate((*names, "staleness/mean", "staleness/max"), start=1)}
    rows: list[dict[str, Any]] = [{"step": step, "reward": 0.0, **values} for step in (1, 2)]
    charts = run_charts(SavedRun(tmp_path, {}, rows, None, None))
    drawn = {line.values[0] for chart in charts for line in chart.lines}
    assert set(values.values()) <= drawn
    assert not any("same weights" in chart.title for chart in charts)


def test_every_kind_of_reward_hacking_is_drawn_for_a_run_and_for_several(tmp_path: Path) -> None:
    forms = ("searches/{}", "information_gain/{}_share", "advantage/{}_mean")
    names = [form.format(kind) for form in forms for kind in KINDS]
    values = {name: float(place) for place, name in enumerate(names, start=1)}
    rows: list[dict[str, Any]] = [{"step": step, "reward": 0.0, **values} for step in (1, 2)]
    run = SavedRun(tmp_path, {}, rows, None, None)
    assert {line.values[0] for chart in run_charts(run) for line in chart.lines} - {0} == set(values.values())
    compared = {line.values[0] for chart in comparison_charts([SeedGroup("one", (run,))]) for line in chart.lines}
    assert compared - {0} == {values[f"searches/{kind}"] for kind in KINDS}
