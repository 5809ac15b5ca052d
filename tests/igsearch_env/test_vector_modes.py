"""Gymnasium's own vector environments: "sync" in this process and "async" in others, forked or spawned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector.utils import create_shared_memory, read_from_shared_memory, write_to_shared_memory
from helpers import PASSAGES, QUESTIONS, answer, search

from igsearch_env import ENV_ID, Answer, ConfigurationError, Search
from igsearch_env.spaces import SharedTexts, UnicodeText

MODES = [("sync", {}), ("async", {"context": "fork"}), ("async", {"context": "spawn"}), ("async", {"copy": False})]
IDS = ["sync", "fork", "spawn", "fork without copies"]
TEXTS = ["", "a", "é 東京 👩‍🚀 \x00 \ud800", "x" * 100, "shorter"]

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """The small world as a question file and a corpus file."""
    rows = [question.to_dict() for question in QUESTIONS]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    corpus = [{"id": p.id, "contents": f"{p.title}\n{p.text}"} for p in PASSAGES]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus), encoding="utf-8")
    return {"questions": str(tmp_path / "questions.jsonl"), "corpus": str(tmp_path / "corpus.jsonl")}


@pytest.mark.parametrize(("mode", "options"), MODES, ids=IDS)
@pytest.mark.parametrize("json_info", [False, True])
def test_plays_as_the_vector_environment_does(
    mode: str, options: dict[str, Any], json_info: bool, files: dict[str, str]
) -> None:
    arguments = {**files, "top_k": 2, "json_info": json_info, "information_gain": {"random_source": "corpus"}}
    ours = gymnasium.make_vec(ENV_ID, num_envs=2, vectorization_mode="vector_entry_point", **arguments)
    theirs = gymnasium.make_vec(ENV_ID, num_envs=2, vectorization_mode=mode, vector_kwargs=options, **arguments)
    assert tuple(theirs.reset(seed=3)[0]) == ours.reset(seed=3)[0]
    for actions in (
        (Search("Karith </search> x"), search("Alan Brin")),
        ("hm", Answer("<answer> Tolona")),
        (Search("Ostue"), answer("x")),
        (Answer("Ostue"), Search("Lurm")),
    ):
        assert theirs.action_space.contains(actions)
        mine, yours = ours.step(actions), theirs.step(actions)
        assert tuple(yours[0]) == mine[0]
        for one, other in zip(mine[1:4], yours[1:4], strict=True):
            assert one.tolist() == other.tolist()
        assert list(yours[4]["query"]) == list(mine[4]["query"])
        for one, other in zip(mine[4]["passages"], yours[4]["passages"], strict=True):
            assert list(one or ()) == list(other or ())
    theirs.close()
    ours.close()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_works_by_default(mode: str) -> None:
    envs = gymnasium.make_vec(ENV_ID, num_envs=2, vectorization_mode=mode)
    observations, _ = envs.reset(seed=0)
    assert isinstance(observations, tuple)
    assert envs.observation_space.contains(observations)
    before = observations
    observations, *_ = envs.step(envs.action_space.sample())
    assert before != observations  # the first ones were copied
    assert all("Find the answer" in prompt for prompt in before)
    envs.close()


def test_shared_texts() -> None:
    import copy
    import multiprocessing

    space = UnicodeText(100)
    memory = create_shared_memory(space, n=2, ctx=multiprocessing.get_context("spawn"))
    texts = read_from_shared_memory(space, memory, n=2)
    assert isinstance(texts, SharedTexts)
    assert list(texts) == ["", ""]
    for text in TEXTS:
        write_to_shared_memory(space, 1, text, memory)
        assert texts[1] == text
        assert texts[0] == ""
    copied = copy.deepcopy(texts)
    assert copied == texts[:] == ("", "shorter")
    write_to_shared_memory(space, 0, "new", memory)
    assert (texts[0], copied[0]) == ("new", "")
    with pytest.raises(ConfigurationError, match=r"101 characters, and at most 100 fit .*shared_memory"):
        write_to_shared_memory(space, 0, "x" * 101, memory)
    assert texts[0] == "new"
    assert np.array(texts).tolist() == ["new", "shorter"]
