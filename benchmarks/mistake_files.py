"""The folder in which the mistakes of `mistakes_table.py` are made: models, questions, corpora, runs and results."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from algorithms.common.config import as_dict
from algorithms.common.evaluation.results import write_result
from algorithms.common.evaluation.scores import QuestionResult, score_rows
from algorithms.ig_grpo import IGGRPOConfig
from igsearch_env.world.bundled import POLICY_FOLDER
from retrievers import BM25Retriever
from retrievers.base import Passage

WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer*"


def write_files(folder: Path) -> None:
    """Write everything that a mistake may name into an empty folder."""
    write_models(folder)
    write_texts(folder)
    write_runs(folder)
    (folder / "notes.txt").write_text("a few notes\n", encoding="utf-8")
    (folder / "empty").mkdir()
    settings = {
        "unknown-key.yaml": "steps: 3\nstpes: 4\n",
        "other-section.yaml": "learning_rate: 1.0e-5\n",
        "invalid.yaml": "steps: [3\n  a: b: c\n",
        "wrong-value.yaml": "optimizer:\n  lr: fast\n",
        "presets.yaml": "presets:\n  small:\n    steps: 1\n",
        "list.yaml": "- steps\n",
    }
    for name, text in settings.items():
        (folder / name).write_text(text, encoding="utf-8")


def write_models(folder: Path) -> None:
    """Folders of the bundled policy that lack a part, and a file that only ends in .gguf."""
    for name, lacks in (("model", ""), ("no-tokenizer", TOKENIZER), ("no-weights", WEIGHTS)):
        shutil.copytree(POLICY_FOLDER, folder / name, ignore=shutil.ignore_patterns(lacks))
    shutil.copytree(folder / "model", folder / "damaged-model")
    (folder / "damaged-model" / "config.json").write_text('{"model_type": "qwen2",', encoding="utf-8")
    (folder / "model.gguf").write_bytes(b"GGUF" + bytes(60))
    (folder / "text.gguf").write_text("no model\n", encoding="utf-8")


def write_texts(folder: Path) -> None:
    """Questions, corpora and an index."""
    rows = [
        {"id": f"q{i}", "question": f"Who wrote book {i}?", "golden_answers": ["Ann"], "dataset": "mine"}
        for i in range(4)
    ]
    _write_lines(folder / "questions.jsonl", rows)
    _write_lines(folder / "train-only.jsonl", [{**row, "dataset": "nq", "split": "train"} for row in rows])
    _write_lines(folder / "no-answers.jsonl", [{"id": "q0", "question": "Who?"}])
    text = (folder / "questions.jsonl").read_text(encoding="utf-8")
    (folder / "broken.jsonl").write_text(text + '{"id": "q4", "question": }\n', encoding="utf-8")
    (folder / "empty.jsonl").touch()
    (folder / "questions.parquet").write_bytes(b"PAR1" + bytes(60) + b"PAR1")
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(60))
    for name, author in (("corpus", "Ann"), ("other-corpus", "Bob")):
        passages = [Passage(str(i), f"Book {i}", f"Book {i} was written by {author}.") for i in range(30)]
        plain = [{"id": p.id, "title": p.title, "text": p.text} for p in passages]
        _write_lines(folder / f"{name}.jsonl", plain)
        if name == "corpus":
            BM25Retriever(passages).save(folder / "index")


def write_runs(folder: Path) -> None:
    """A run that has begun, damaged ones, and results of evaluations."""
    run = folder / "run"
    run.mkdir()
    settings = {"algorithm": "ig_grpo", **as_dict(IGGRPOConfig(run_dir=Path("run"), steps=5, threads=1))}
    (run / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    _write_lines(run / "metrics.jsonl", [{"step": 1, "reward": 0.1, "searches": 1.0, "policy/entropy": 1.0}])
    for name, file, content in (
        ("damaged-settings", "config.yaml", "algorithm: [\n"),
        ("damaged-metrics", "metrics.jsonl", "[1]\n[2]\n"),
        ("damaged-test", "test_before.json", '{"datasets": 3}'),
    ):
        shutil.copytree(run, folder / name)
        settings["run_dir"] = name
        (folder / name / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        (folder / name / file).write_text(content, encoding="utf-8")
    for name, word in (("before", "book"), ("after", "book"), ("others", "song")):
        scored = [_scored(f"Who wrote {word} {i}?", i) for i in range(4)]
        write_result(folder / f"{name}.json", scored, score_rows(scored), policy="bundled")
    (folder / "no-result.json").write_text("{}", encoding="utf-8")


def _scored(question: str, number: int) -> QuestionResult:
    return QuestionResult("mine", f"q{number}", question, ["Ann"], "Ann", 1.0, 1.0, 1, ["who"], "answered")


def _write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
