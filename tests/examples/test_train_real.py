"""One command from a folder of data to a trained model; here the data are small and the model is the bundled one."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

from algorithms.common.run.metrics_log import read_metrics
from examples.train_real import DEV, TEST, data_options
from igsearch_env.errors import ConfigurationError
from igsearch_env.world.bundled import bundled_world


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    """A file of JSON lines, packed if its name ends with .gz."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def question(number: int, split: str) -> dict[str, object]:
    """A question of the bundled world as a row of a file."""
    questions = bundled_world().questions["train"]
    found = questions[number % len(questions)]
    text, answers = found.text, list(found.golden_answers)
    return {"id": f"{split}_{number}", "question": text, "golden_answers": answers, "split": split}


def corpus(folder: Path) -> Path:
    """The passages of the bundled world."""
    contents = [f'"{passage.title}"\n{passage.text}' for passage in bundled_world().passages]
    return write(folder / "corpus.jsonl", [{"id": str(n), "contents": text} for n, text in enumerate(contents)])


def options_of(folder: Path) -> dict[str, list[str]]:
    """`data_options`, by option."""
    found: dict[str, list[str]] = {}
    for word in data_options(folder):
        if word.startswith("--"):
            values = found.setdefault(word, [])
        else:
            values.append(word)
    return found


def test_splits_are_found_in_rows_and_in_names_of_files(tmp_path: Path) -> None:
    corpus(tmp_path)
    both = [question(n, "train") for n in range(3)] + [question(n, "test") for n in range(TEST + DEV)]
    nq = write(tmp_path / "nq.jsonl.gz", both)
    train = write(tmp_path / "hotpotqa.train.jsonl", [question(n, "train") for n in range(2)])
    dev = write(tmp_path / "hotpotqa.dev.jsonl", [question(n, "dev") for n in range(5)])
    popqa = write(tmp_path / "popqa.jsonl", [question(n, "test") for n in range(TEST + DEV - 1)])
    assert options_of(tmp_path) == {
        "--env.corpus": [str(tmp_path / "corpus.jsonl")],
        "--env.questions": [f"{nq}:train", f"{train}:train"],
        "--env.eval-questions": [f"{nq}:test[:{TEST}]", f"{popqa}:test[:{TEST}]", f"{dev}:dev[:{TEST}]"],
        # Sets that are too small for both are evaluated at the end only.
        "--env.dev-questions": [f"{nq}:test[{TEST}:{TEST + DEV}]"],
    }


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "it has no corpus.jsonl or corpus.jsonl.gz; python -m retrievers.build_corpus"),
        (("corpus",), "no question file of nq, .* has rows of split train; their files are NAME.jsonl"),
        (("corpus", "test"), "has rows of split train"),
        (("corpus", "train"), "has rows of split dev or test"),
    ],
)
def test_what_a_folder_lacks_is_named(files: tuple[str, ...], message: str, tmp_path: Path) -> None:
    if "corpus" in files:
        corpus(tmp_path)
    for split in {"train", "test"} & {*files}:
        write(tmp_path / "nq.jsonl", [question(0, split)])
    with pytest.raises(ConfigurationError, match=message):
        data_options(tmp_path)


def test_one_command_warm_starts_trains_and_evaluates(tmp_path: Path) -> None:
    data, run, cache = tmp_path / "data", tmp_path / "runs/smollm2-135m-minutes-grpo-seed0", tmp_path / "cache"
    data.mkdir()
    corpus(data)
    wrong = {**question(60, "train"), "golden_answers": ["nowhere to be found"]}
    train = [question(n, "train") for n in range(60)]
    write(data / "nq.jsonl", [*train, wrong, *(question(n, "test") for n in range(3))])
    command = [
        *(sys.executable, str(ROOT / "examples/train_real.py"), "--data", str(data)),
        *("--preset", "minutes", "--algorithm", "grpo", "--policy.path", "bundled"),
        *("--warm-start.folder", str(tmp_path / "warm"), "--warm-start.demonstrations", "8"),
        *("--steps", "1", "--rollout.questions-per-step", "2", "--threads", "1"),
    ]
    environment = {**os.environ, "IGSEARCH_CACHE": str(cache)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "python examples/select_questions.py --corpus" in done.stderr
    (chosen,) = (cache / "data").glob("answerable-*.jsonl")
    assert f"--env.questions {chosen}" in done.stderr
    ids = [json.loads(line)["id"] for line in chosen.read_text().splitlines()]
    assert 0 < len(ids) <= 60  # bridges of two hops are not found by the question alone
    assert {row["id"] for row in train} >= {*ids}
    assert "python algorithms/grpo.py --config algorithms/configs/smollm2-135m.yaml --preset minutes" in done.stderr
    assert "time: about" in done.stdout
    rows = read_metrics(run / "metrics.jsonl")
    assert [row["step"] for row in rows if "reward" in row] == [1]
    assert [row["step"] for row in rows if "test/em" in row] == [0, 1]
    assert f"path: {tmp_path / 'warm' / 'policy'}" in (run / "config.yaml").read_text()
    assert (run / "report.html").is_file()

    further = [*command, "--steps", "2"]  # the same run, of a model that is the warm start's by now
    done = subprocess.run(
        further, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [row["step"] for row in read_metrics(run / "metrics.jsonl") if "reward" in row] == [1, 2]


def test_a_folder_that_does_not_exist_is_a_line_and_exit_code_2(tmp_path: Path) -> None:
    command = [sys.executable, "examples/train_real.py", "--data", str(tmp_path / "no"), "--policy.path", "bundled"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --data")
    assert "Traceback" not in done.stderr
