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

from igsearch_env import ENV_ID, Answer, ConfigurationError, ReflectionWrapper, Search
from igsearch_env.plain import plain
from igsearch_env.spaces import SharedTexts, UnicodeText

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


def check_same(one: Any, other: Any) -> None:
    """Values of a step are equal, in keys, types and shapes too."""
    if isinstance(other, dict):
        assert one.keys() == other.keys()
        for key in other:
            check_same(one[key], other[key])
    elif isinstance(other, np.ndarray):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tolist() == other.tolist()
    else:
        assert tuple(one) == tuple(other)


@pytest.mark.parametrize(
    ("mode", "options", "autoreset", "arguments"),
    [
        ("sync", {}, "NextStep", {}),
        ("sync", {}, "SameStep", {}),
        ("sync", {}, "NextStep", {"json_info": True}),
        ("sync", {}, "SameStep", {"json_info": True}),
        ("sync", {}, "SameStep", {"attempts": 2}),
        ("sync", {}, "NextStep", {"protocol": "autorefine"}),
        ("async", {"context": "fork"}, "NextStep", {}),
        ("async", {"context": "fork"}, "SameStep", {}),
        ("async", {"context": "fork", "copy": False}, "NextStep", {"json_info": True}),
        ("async", {"context": "spawn", "shared_memory": False}, "SameStep", {}),
    ],
)
def test_all_forms_return_the_same(
    mode: str, options: dict[str, Any], autoreset: str, arguments: dict[str, Any], files: dict[str, str]
) -> None:
    arguments = {**files, "top_k": 2, "max_searches": 2, "information_gain": {"random_source": "corpus"}, **arguments}
    ours = gymnasium.make_vec(
        ENV_ID, num_envs=3, vectorization_mode="vector_entry_point", autoreset_mode=autoreset, **arguments
    )
    attempts = arguments.pop("attempts", 1)
    theirs = gymnasium.make_vec(
        ENV_ID,
        num_envs=3,
        vectorization_mode=mode,
        vector_kwargs={**options, "autoreset_mode": autoreset},
        wrappers=[lambda env: ReflectionWrapper(env, attempts)] if attempts > 1 else None,
        **arguments,
    )
    assert ours.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"]
    shown = plain if arguments.get("json_info") else lambda infos: infos  # arrays, or lists on request
    mine, yours = ours.reset(seed=3), theirs.reset(seed=3)
    check_same(yours[0], mine[0])
    check_same(shown(yours[1]), mine[1])
    right = [Answer(trajectory.question.golden_answers[0]) for trajectory in ours.unwrapped.trajectories]  # type: ignore[attr-defined]
    keys, ends = set(), 0
    for actions in (
        (right[0], "hm", Search("Karith </search> x")),
        (search("Alan Brin"), Search("Ostue"), Answer("wrong")),
        (search("zzz"), "hm", search("Lurm")),
        ("hm", search("Karith"), answer("<answer> x")),
        (Search("Mira Sorel"), answer("x"), answer("y")),
        (answer("x"), answer("x"), answer("x")),
    ):
        assert theirs.action_space.contains(actions)
        mine, yours = ours.step(actions), theirs.step(actions)
        for one, other in zip(yours[:4], mine[:4], strict=True):
            check_same(one, other)
        check_same(shown(yours[4]), mine[4])
        keys |= mine[4].keys()
        ends += int((mine[2] | mine[3]).sum())
    assert ends >= (3 if attempts > 1 else 5)
    assert keys >= {"information_gain", "invalid", "passages"}
    assert {"final_info", "final_obs"} <= keys if autoreset == "SameStep" else {"outcome", "stop_reason"} <= keys
    theirs.close()
    ours.close()


def test_all_forms_return_the_same_of_a_reset_in_part(files: dict[str, str]) -> None:
    ours, theirs = (
        gymnasium.make_vec(ENV_ID, num_envs=3, vectorization_mode=mode, scorer=None, top_k=2, **files, **arguments)
        for mode, arguments in (
            ("vector_entry_point", {"autoreset_mode": "Disabled"}),
            ("sync", {"vector_kwargs": {"autoreset_mode": "Disabled"}}),
        )
    )
    ours.reset(seed=3)
    theirs.reset(seed=3)
    actions = (answer("x"), search("Karith"), answer("x"))
    check_same(theirs.step(actions)[4], ours.step(actions)[4])
    mine, yours = (envs.reset(options={"reset_mask": np.array([True, False, True])}) for envs in (ours, theirs))
    check_same(yours[0], mine[0])
    check_same(yours[1], mine[1])
    assert mine[1]["_question_id"].tolist() == [True, False, True]


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
