"""The scripts that a person types."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


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
        (("--policy", "no/such/model", "--corpus", "missing.jsonl"), "missing.jsonl: no such file"),
        (("--questions", "missing.jsonl"), "missing.jsonl: no such file"),
        (("--policy", "./nowhere"), "no config.json"),
        (("--where", "split=test"), "no question has it"),
        (("--protocol", "autorefin"), "did you mean 'autorefine'"),
        (("--top-k", "100000", "--policy", "search-question"), "top_k=100000"),
    ],
)
def test_evaluate_refuses_in_one_line(arguments: tuple[str, ...], message: str) -> None:
    done = script("examples/evaluate.py", *arguments)
    assert done.returncode != 0
    assert message in done.stderr
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
