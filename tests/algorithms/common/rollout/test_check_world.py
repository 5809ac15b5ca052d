"""Commands do not ask questions about passages that do not answer them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from algorithms.common.rollout.environment import (
    EnvConfig,
    check_corpus,
    check_named_world,
    check_questions,
    make_retriever,
)
from igsearch_env.errors import ConfigurationError, QuestionError
from igsearch_env.world.bundled import bundled_world


def write(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def foreign(tmp_path: Path) -> str:
    """A file with a question that is not of the bundled world."""
    return write(tmp_path / "q.jsonl", [{"id": "a", "question": "Who?", "golden_answers": ["Ada"]}])


@pytest.mark.parametrize(
    "words", [[], ["--env.corpus", "bundled"], ["--env.questions=bundled", "--env.corpus=c.jsonl"]]
)
def test_what_belongs_together_is_accepted(words: list[str]) -> None:
    check_named_world(EnvConfig(corpus="c.jsonl" if "c.jsonl" in str(words) else "bundled"), words)


def test_foreign_questions_need_a_corpus(foreign: str) -> None:
    config = EnvConfig(questions=(foreign,))
    with pytest.raises(
        ConfigurationError, match=r"no corpus is given, and question 'a' .* give --env\.corpus, a corpus"
    ):
        check_named_world(config, ["--env.questions", foreign])
    check_named_world(config, ["--env.questions", foreign, "--env.corpus=bundled"])


def test_a_corpus_needs_questions() -> None:
    with pytest.raises(ConfigurationError, match=r"--env\.corpus c\.jsonl is given but no questions"):
        check_named_world(EnvConfig(corpus="c.jsonl"), ["--env.corpus", "c.jsonl"])


def test_questions_of_the_bundled_world_need_no_corpus_in_a_file_either(tmp_path: Path) -> None:
    question = bundled_world().questions["train"][0]
    row = {"id": question.id, "question": question.text, "golden_answers": question.golden_answers}
    file = write(tmp_path / "own.jsonl", [row | {"dataset": question.dataset}])
    check_named_world(EnvConfig(questions=(file,)), ["--env.questions", file])


def test_a_missing_file_names_the_option_and_how_to_make_it() -> None:
    config = EnvConfig(questions=("gone.jsonl",))
    with pytest.raises(QuestionError, match=r"env\.questions: gone\.jsonl: no such file; .*retrievers\.build_corpus"):
        check_named_world(config, ["--env.questions", "gone.jsonl"])


def test_corpus_and_evaluation_follow_the_world_of_the_questions() -> None:
    config = EnvConfig(questions=("world:hard",))
    assert (config.corpus, config.eval_questions, config.dev_questions) == ("world:hard", ("world:hard",), ())
    check_named_world(config, ["--env.questions", "world:hard"])
    quiet = EnvConfig(questions=("world:hard",), corpus="world:hard,noise=0", eval_questions=("world:hard,noise=0",))
    assert quiet.corpus == "world:hard,noise=0"
    assert EnvConfig().corpus == "bundled"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"questions": ("world:hard",), "corpus": "world:depth=2"},
            r"env\.questions world:hard with env\.corpus w",
        ),
        (
            {"eval_questions": ("world:hard",)},
            r"env\.eval_questions world:hard with env\.corpus bundled",
        ),
        ({"questions": ("world:hrd",)}, "world:hrd: 'hrd' is neither hard nor OPTION=VALUE"),
    ],
)
def test_questions_of_another_world_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        EnvConfig(**options)


def test_a_generated_world_has_one_search_engine() -> None:
    with pytest.raises(ConfigurationError, match="the world:depth=2 corpus supports only BM25"):
        make_retriever("world:depth=2", "bm25+other")
    check_corpus("world:depth=2", "auto")
    check_questions(("world:depth=2",), "train", "env.questions")
