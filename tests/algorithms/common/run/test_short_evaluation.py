"""Runs that evaluate few test questions, or none before training: what they write, and what is made of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from training_runs import question_file, run_ig_grpo, without_times

from algorithms.common.evaluation.results import read_tests
from algorithms.common.model.config import PolicyConfig
from algorithms.common.report.comparison_report import comparison_report
from algorithms.common.report.run_report import run_report
from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.rollout.environment import EnvConfig
from algorithms.common.run.checkpoint import CheckpointError
from igsearch.commands import compare, export


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a run of one step."""
    questions = question_file(tmp_path_factory.mktemp("small") / "questions.jsonl", 40)
    return {
        "steps": 1,
        "eval_every": 0,
        "threads": 1,
        "policy": PolicyConfig(path="bundled"),
        "env": EnvConfig(questions=(questions,), eval_questions=(questions,)),
        "rollout": RolloutConfig(questions_per_step=2, group_size=2, max_new_tokens=12),
    }


@pytest.fixture(scope="module")
def short(small: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that evaluates two test questions of each data set, after training alone."""
    folder = tmp_path_factory.mktemp("short") / "run"
    return run_ig_grpo(small, folder, test_limit=2, skip_initial_evaluation=True)


@pytest.fixture(scope="module")
def whole(small: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that evaluates all test questions, before training, too."""
    return run_ig_grpo(small, tmp_path_factory.mktemp("whole") / "run")


def test_only_the_first_test_questions_are_evaluated(short: Path, whole: Path) -> None:
    before, after = read_tests(short)
    assert before is None
    assert after is not None
    _, all_of_them = read_tests(whole)
    assert all_of_them is not None
    assert {name: [row.id for row in rows] for name, rows in after.rows.items()} == {
        name: [row.id for row in rows][:2] for name, rows in all_of_them.rows.items()
    }
    assert max(map(len, all_of_them.rows.values())) > 2
    assert after.header["test_limit"] == 2
    assert "test_limit" not in all_of_them.header
    assert after.fingerprint is not None
    assert {part["n"] for part in after.fingerprint["questions"].values()} <= {1, 2}
    assert [row["step"] for row in without_times(short) if "test/em" in row] == [1]


def test_the_result_says_so_and_does_without_an_evaluation_before(
    short: Path, small: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run_ig_grpo(small, short, test_limit=2)  # it has finished; and another evaluation before training is not made
    assert not (short / "test_before.json").exists()
    said = capsys.readouterr().out
    assert "greedy test EM on the first 2 of each" in " ".join(said.split())
    assert "before" not in said
    report = run_report(short)
    assert "Only the first 2 test questions of each data set were evaluated" in report
    assert "Test EM, after training" in report
    assert "EM before" not in report


def test_a_card_says_so_and_publishes_no_score(short: Path, whole: Path, tmp_path: Path) -> None:
    cards = {}
    for run in (short, whole):
        export.main(export.Args(run, tmp_path / run.parent.name))
        cards[run] = (tmp_path / run.parent.name / "README.md").read_text(encoding="utf-8")
    assert "Greedy decoding, after step 1, the exported checkpoint." in cards[short]
    assert "Only the first 2 test questions of each data set were evaluated." in cards[short]
    assert " --limit 2 " in cards[short]
    assert "Greedy decoding, before training and after step 1" in cards[whole]
    assert "Only the first" not in cards[whole]
    assert "--limit" not in cards[whole]
    for run, published in ((short, False), (whole, True)):
        assert ("model-index" in yaml.safe_load(cards[run].split("---\n")[1])) == published


def test_it_is_not_compared_with_another_silently(short: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = comparison_report([short, whole])
    assert "has other test questions" in page
    assert "was evaluated differently" in page
    compare.main(compare.Args(short / "test_after.json", whole / "test_after.json"))
    assert "questions." in " ".join(capsys.readouterr().out.split())


def test_a_run_keeps_its_test_questions(short: Path, small: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"test_limit=2, this command has 0"):
        run_ig_grpo(small, short, steps=2)


def test_a_run_of_an_earlier_version_is_resumed(whole: Path, small: dict[str, Any], tmp_path: Path) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    settings = yaml.safe_load((run / "config.yaml").read_text())
    del settings["test_limit"], settings["skip_initial_evaluation"]
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    run_ig_grpo(small, run, steps=2)
    assert [row["step"] for row in without_times(run) if "test/em" in row] == [0, 1, 2]
