"""Environments made from the names of question files and corpora."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from helpers import PASSAGES, QUESTIONS, answer, search, small_retriever
from official_files import HOTPOT, write_list

from igsearch_env import ENV_ID, ConfigurationError, QuestionError
from igsearch_env.world.bundled import bundled_retriever, bundled_world, named_retriever, named_world
from retrievers import CorpusError


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A question file of HotpotQA and a corpus."""
    questions = Path(write_list(tmp_path / "hotpot_dev_distractor_v1.json", HOTPOT))
    corpus = tmp_path / "corpus.jsonl"
    rows = [{"id": p.id, "contents": f"{p.title}\n{p.text}"} for p in PASSAGES]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return questions, corpus


@pytest.mark.parametrize("part", ["", ":dev[1:]"])
@pytest.mark.parametrize("form", [str, Path, lambda path: [str(path)], lambda path: (Path(path),)])
def test_make_takes_paths(files: tuple[Path, Path], form: Any, part: str) -> None:
    questions, corpus = files
    env = gymnasium.make(ENV_ID, questions=form(f"{questions}{part}"), corpus=corpus)
    made = env.unwrapped.stepper  # type: ignore[attr-defined]
    assert [question.id for question in made.questions] == [row["_id"] for row in HOTPOT][1 if part else 0 :]
    assert {question.dataset for question in made.questions} == {"hotpotqa"}
    env.reset(seed=0)
    observation, _, _, _, info = env.step(search("river Ostue"))
    assert "Karith stands on the river Ostue." in observation
    assert len(info["passages"]) == 3
    env.close()


def test_make_takes_a_retriever_as_corpus(files: tuple[Path, Path]) -> None:
    env = gymnasium.make(ENV_ID, questions=[*QUESTIONS, files[0]], corpus=small_retriever())
    assert len(env.unwrapped.stepper.questions) == len(QUESTIONS) + 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("mode", ["vector_entry_point", "sync"])
def test_make_vec_takes_paths(files: tuple[Path, Path], mode: str) -> None:
    questions, corpus = files
    envs = gymnasium.make_vec(
        ENV_ID, num_envs=2, vectorization_mode=mode, questions=f"{questions}:dev[:1]", corpus=str(corpus)
    )
    prompts, _ = envs.reset(seed=0)
    assert all(HOTPOT[0]["question"] in prompt for prompt in prompts)
    _, rewards, terminations, _, _ = envs.step((answer("1902"), answer("1903")))
    assert rewards.tolist() == [1.0, 0.0]
    assert terminations.all()
    envs.close()


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        (
            {"questions": "Q"},
            ConfigurationError,
            "no corpus is given, and question '5a8b57f25542995d1e6f1371' of hotpot",
        ),
        ({"questions": QUESTIONS}, ConfigurationError, "no corpus is given, and question 'q0' of birthplace is not"),
        ({"corpus": "C"}, ConfigurationError, "corpus is given but no questions: pass both"),
        ({"questions": "Q", "corpus": "C.gz"}, CorpusError, "no such file"),
        ({"questions": "Q.gz", "corpus": "C"}, QuestionError, "no such file"),
        ({"questions": "Q:train", "corpus": "C"}, QuestionError, "no rows of split 'train'"),
        ({"questions": 7, "corpus": "C"}, ConfigurationError, "questions is '7': it must be a path"),
        ({"questions": [7], "corpus": "C"}, ConfigurationError, "questions has '7': it must be a Question"),
        ({"questions": "Q", "corpus": 7}, ConfigurationError, "corpus is '7': it must be a path"),
        ({"questions": "Q", "retriever": "C"}, ConfigurationError, r"retriever is '.*'.*pass this name as corpus"),
        (
            {"questions": "Q", "corpus": "C", "retriever": bundled_retriever()},
            ConfigurationError,
            "two search engines: pass one",
        ),
    ],
)
def test_what_does_not_belong_together_is_refused(
    files: tuple[Path, Path], options: dict[str, Any], error: type[Exception], said: str, vector: bool
) -> None:
    named = {
        key: value.replace("Q", str(files[0])).replace("C", str(files[1])) if isinstance(value, str) else value
        for key, value in options.items()
    }
    with pytest.raises(error, match=said):
        gymnasium.make_vec(ENV_ID, num_envs=2, **named) if vector else gymnasium.make(ENV_ID, **named)


@pytest.mark.parametrize(
    "options", [{}, {"questions": "bundled"}, {"questions": ["bundled"], "corpus": "bundled"}, {"corpus": "bundled"}]
)
def test_the_bundled_world_has_a_name(options: dict[str, Any]) -> None:
    env = gymnasium.make(ENV_ID, **options)
    assert env.unwrapped.stepper.questions == bundled_world().questions["train"]  # type: ignore[attr-defined]
    assert env.unwrapped.stepper.retriever is bundled_retriever()  # type: ignore[attr-defined]


def test_other_questions_of_the_bundled_world_need_no_corpus() -> None:
    asked = bundled_world().questions["test"][:3]
    assert gymnasium.make(ENV_ID, questions=asked).unwrapped.stepper.questions == asked  # type: ignore[attr-defined]


def test_make_takes_a_generated_world_by_name() -> None:
    env = gymnasium.make(ENV_ID, questions="world:hard,passages=800")
    stepper = env.unwrapped.stepper  # type: ignore[attr-defined]
    world = named_world("world:hard,passages=800")
    assert stepper.questions == world.questions["train"]
    assert stepper.retriever is named_retriever("world:hard,passages=800")
    quiet = gymnasium.make(ENV_ID, questions="world:hard,passages=800", corpus="world:hard,passages=800,noise=0")
    assert quiet.unwrapped.stepper.retriever.passages == world.passages  # type: ignore[attr-defined]


@pytest.mark.parametrize("corpus", ["bundled", "world:depth=2,seed=1"])
def test_a_world_does_not_answer_the_questions_of_another(corpus: str) -> None:
    with pytest.raises(ConfigurationError, match=f"questions world:depth=2 with corpus {corpus}: the passages of one"):
        gymnasium.make(ENV_ID, questions=["world:depth=2"], corpus=corpus)
    with pytest.raises(ConfigurationError, match=r"no corpus is given, and question .* is not of the bundled world"):
        gymnasium.make(ENV_ID, questions=["world:hard,passages=800", "bundled"])
