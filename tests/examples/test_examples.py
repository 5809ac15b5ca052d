"""The scripts that a person types."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from paths import ROOT


def script(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command as a user does."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, input=stdin, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize("policy", ["search-question", "oracle-titles", "bundled"])
def test_evaluate_real_questions(policy: str, mini_data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    files = [str(mini_data / f"{name}.jsonl") for name in ("hotpotqa", "nq")]
    done = script(
        *("examples/evaluate.py", "--questions", *files, "--corpus", str(mini_data / "corpus.jsonl")),
        *("--policy", policy, "--limit", "10", "--output", str(output)),
    )
    assert done.returncode == 0, done.stderr
    datasets = json.loads(output.read_text())["datasets"]
    assert set(datasets) == {"hotpotqa", "nq"}
    for result in datasets.values():
        assert result["n"] == len(result["rows"]) == 10
        assert result["em"] == pytest.approx(sum(row["em"] for row in result["rows"]) / 10)
        low, high = result["em_ci95"]
        assert 0 <= low <= result["em"] <= high <= 1
        assert 0 <= result["f1"] <= 1
        assert result["searches"] >= 0
    if policy == "oracle-titles":
        assert datasets["hotpotqa"]["em"] >= 0.6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--questions", "bundled", "--policy", "no/such/model", "--corpus", "missing.jsonl"),
            "missing.jsonl: no such",
        ),
        (("--corpus", "tests/golden/igpo.json"), "--corpus tests/golden/igpo.json is given but no questions"),
        (("--policy", "serch-question"), "did you mean 'search-question'?"),
        (("--output", "."), "--output .: a folder"),
        (("--output", "README.md/x.json"), "README.md is not a folder"),
        (("--output", "README.md", "--policy", "search-question", "--limit", "1"), "README.md: not a result file"),
        (("--questions", "missing.jsonl"), "missing.jsonl: no such file"),
        (("--policy", "./nowhere"), "policy='./nowhere': no such folder"),
        (("--where", "split=test"), "no question matches"),
        (("--protocol", "autorefin"), "did you mean 'autorefine'"),
        (("--top-k", "100000", "--policy", "search-question"), "top_k=100000"),
        (("--split", "tets"), "has no row of split 'tets'"),
        (("--questions", "hf:nq"), "not hf:REPO/CONFIG:SPLIT"),
        (("--retriever", "bm25+docs"), "the bundled corpus supports only BM25"),
        (("--max-failure-rate", "2"), "max_failure_rate=2.0: must be from 0 to 1"),
        (("--batch-size", "0"), "batch_size=0: must be at least 1"),
    ],
)
def test_evaluate_refuses_in_one_line(arguments: tuple[str, ...], message: str) -> None:
    done = script("examples/evaluate.py", *arguments)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_evaluation_is_stopped_by_ctrl_c_and_resumed(tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    command = ["examples/evaluate.py", "--policy", "bundled", "--limit", "20", "--batch-size", "4"]
    started = subprocess.Popen(
        [sys.executable, *command, "--output", str(output)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    partial = tmp_path / "out.json.partial.jsonl"
    deadline = time.time() + 120
    while time.time() < deadline and not (partial.is_file() and len(partial.read_bytes().splitlines()) > 1):
        time.sleep(0.02)
    started.send_signal(signal.SIGINT)
    _, said = started.communicate(timeout=120)
    assert started.returncode == -signal.SIGINT
    assert said.strip().splitlines()[-1] == f"interrupted: the same command resumes from {partial}"
    assert "Traceback" not in said
    assert not output.exists()

    done = script(*command, "--output", str(output))
    assert done.returncode == 0, done.stderr
    assert "questions are already answered" in done.stderr
    assert not partial.exists()
    assert {found["n"] for found in json.loads(output.read_text())["datasets"].values()} == {20}


def test_two_results_are_compared(tmp_path: Path) -> None:
    for policy in ("search-question", "oracle-titles"):
        arguments = ("--policy", policy, "--limit", "10", "--output", str(tmp_path / f"{policy}.json"))
        assert script("examples/evaluate.py", *arguments).returncode == 0
    files = [str(tmp_path / f"{policy}.json") for policy in ("search-question", "oracle-titles")]
    done = script("examples/compare_results.py", *files, "--output", str(tmp_path / "c.json"))
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads((tmp_path / "c.json").read_text())
    assert found["macro_averages"]["all"]["verdict"] == "better"
    assert found["warnings"] == []
    done = script("examples/compare_results.py", files[0], "missing.json")
    assert done.returncode == 2
    assert "missing.json: not a result file" in done.stderr
    assert "Traceback" not in done.stderr


def test_play_an_episode() -> None:
    done = script("examples/play.py", "--max-searches", "2", stdin="born\n= nobody\n")
    assert done.returncode == 0, done.stderr
    assert "information gain" in done.stdout
    assert "answered: outcome 0.00" in done.stdout
    assert script("examples/play.py", stdin="").returncode == 0  # end of input is a way to stop


def test_a_configuration_error_of_training_is_one_line() -> None:
    done = script("algorithms/grpo.py", "--config", "nowhere.yaml")
    assert done.returncode != 0
    assert "nowhere.yaml: no such file" in done.stderr
    assert "Traceback" not in done.stderr
