"""From the official files of a benchmark to an evaluation and a training run: what `build_corpus` makes is used."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
from official_files import write_all

from algorithms.common import trainer
from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.rollout.environment import EnvConfig
from algorithms.common.run.metrics_log import read_metrics
from algorithms.ig_grpo import IGGRPO, IGGRPOConfig
from igsearch.commands import evaluate
from igsearch_env.questions import load_questions
from igsearch_env.scripted import OracleTitles, play_scripted
from igsearch_env.stepper import EpisodeStepper
from retrievers import open_retriever
from retrievers.build_corpus import Args, build
from retrievers.build_index import Args as IndexArgs
from retrievers.build_index import build as build_index

FILES = ("hotpotqa.dev", "2wikimultihopqa.train", "musique.train")


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A corpus of the official files of all three benchmarks."""
    build(Args(tuple(write_all(tmp_path)), tmp_path / "made"))
    return tmp_path / "made"


def test_questions_find_their_evidence_in_an_index_of_the_corpus(made: Path, tmp_path: Path) -> None:
    build_index(IndexArgs(corpus=made / "corpus.jsonl", output=tmp_path / "index", index="bm25"))
    questions = [question for name in FILES for question in load_questions(made / f"{name}.jsonl")]
    assert [question.dataset for question in questions] == ["hotpotqa", "hotpotqa", "2wikimultihopqa", "musique"]
    with closing(open_retriever(str(tmp_path / "index"))) as retriever:
        assert len(retriever) == 9
        played = play_scripted(OracleTitles(), EpisodeStepper(questions, retriever, None), questions)
    assert [trajectory.outcome for trajectory in played] == [1.0, 1.0, 1.0, 1.0]
    assert {passage.title for passage in played[0].turns[0].passages} >= {"Mira Solm"}


def test_evaluation_reads_what_was_made(made: Path, tmp_path: Path) -> None:
    files = tuple(str(made / f"{name}.jsonl") for name in FILES)
    result = tmp_path / "result.json"
    corpus = str(made / "corpus.jsonl")
    evaluate.main(evaluate.Args(questions=files, corpus=corpus, policy="oracle-titles", split="all", output=result))
    datasets = json.loads(result.read_text(encoding="utf-8"))["datasets"]
    assert {name: scores["em"] for name, scores in datasets.items()} == dict.fromkeys(
        ("hotpotqa", "2wikimultihopqa", "musique"), 1.0
    )


def test_training_reads_what_was_made(made: Path, tmp_path: Path) -> None:
    train, dev = str(made / "musique.train.jsonl"), str(made / "hotpotqa.dev.jsonl")
    config = IGGRPOConfig(
        steps=1,
        run_dir=tmp_path / "run",
        env=EnvConfig(questions=(train,), eval_questions=(dev,), corpus=str(made / "corpus.jsonl")),
        rollout=RolloutConfig(questions_per_step=1, group_size=2, max_new_tokens=8),
    )
    trainer.train(IGGRPO(config), config)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if "reward" in row] == [1]
    assert [row["step"] for row in rows if "test/em/hotpotqa" in row] == [0, 1]
