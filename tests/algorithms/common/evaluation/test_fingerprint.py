"""Fingerprints: they change exactly when something changes that decides the numbers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers import PASSAGES, QUESTIONS

from algorithms.common.evaluation.fingerprint import MODEL, Fingerprint, differences, make_fingerprint, model_identity
from igsearch_env.protocols import make_protocol
from igsearch_env.questions import Question
from igsearch_env.rules import EpisodeRules
from igsearch_env.world.bundled import POLICY_FOLDER
from retrievers import BM25Retriever, HybridRetriever

BASE: dict[str, Any] = {
    "questions": QUESTIONS,
    "retriever": BM25Retriever(PASSAGES).fingerprint(),
    "policy": "someone/policy",
    "protocol": make_protocol("search_r1", "bare"),
    "top_k": 3,
    "max_searches": 4,
    "chat": False,
    "max_new_tokens": 32,
}


RULES = ("top_k", "max_searches", "attempts", "protocol")


def made(**changes: Any) -> Fingerprint:
    """The fingerprint of `BASE` with changes."""
    settings = BASE | changes
    rules = EpisodeRules(**{key: value for key, value in settings.items() if key in RULES})
    return make_fingerprint(rules=rules, **{key: value for key, value in settings.items() if key not in RULES})


def changed(question: Question, **changes: Any) -> list[Question]:
    """The questions, one of them otherwise."""
    fields = {name: getattr(question, name) for name in ("id", "text", "golden_answers", "dataset", "metadata")}
    return [Question(**(fields | changes)) if q is question else q for q in QUESTIONS]


FIRST = QUESTIONS[0]
OTHER_TEXT = [PASSAGES[0].__class__("p0", "Alan Brin", "Alan Brin was born."), *PASSAGES[1:]]
UNLIKE = [
    ({"top_k": 5}, ["top_k: 3 != 5"]),
    ({"max_searches": 2}, ["max_searches: 4 != 2"]),
    ({"attempts": 3}, ["attempts: 1 != 3"]),
    ({"chat": True}, ["chat: False != True"]),
    (
        {"chat": True, "chat_template": {"date": "2026-03-01", "arguments": '{"enable_thinking": false}'}},
        ["chat_template.date: '2024-07-26' != '2026-03-01'", "chat_template.arguments: '' != '", "chat: False != True"],
    ),
    ({"max_new_tokens": 64}, ["decoding.max_new_tokens: 32 != 64"]),
    ({"policy": "oracle-titles"}, ["model.name: 'someone/policy' != 'oracle-titles'"]),
    ({"protocol": make_protocol("autorefine", "bare")}, ["protocol: 'search_r1' != 'autorefine'"]),
    ({"protocol": make_protocol("search_r1", "{question} ?")}, ["prompt.template", "prompt.hash"]),
    ({"retriever": BM25Retriever(PASSAGES[1:]).fingerprint()}, ["retriever.passages: 8 != 7", "retriever.corpus"]),
    ({"retriever": BM25Retriever(OTHER_TEXT).fingerprint()}, ["retriever.corpus"]),
    ({"retriever": BM25Retriever(PASSAGES, stopwords="none").fingerprint()}, ["retriever.stopwords"]),
    ({"questions": QUESTIONS[1:]}, [f"questions.birthplace.{key}" for key in ("split", "n", "hash")]),
    ({"questions": changed(FIRST, text="Where?")}, ["questions.birthplace.hash"]),
    ({"questions": changed(FIRST, golden_answers=("Tolona", "T."))}, ["questions.birthplace.hash"]),
    ({"questions": changed(FIRST, id="q9")}, ["questions.birthplace.hash"]),
    ({"questions": changed(FIRST, metadata={"split": "dev"})}, ["questions.birthplace.split: 'unnamed' != 'dev'"]),
]
ALIKE = [
    {},
    {"chat_template": {"date": "2026-03-01", "arguments": ""}},  # without `chat`, no template is used
    {"questions": QUESTIONS[::-1]},
    {"questions": changed(FIRST, metadata={"supporting_titles": ["x"]})},
    {"protocol": make_protocol("search_r1", "{question}\n")},  # the template of the prompt called bare
    {"retriever": BM25Retriever(list(PASSAGES)).fingerprint()},
]


@pytest.mark.parametrize(("change", "said"), UNLIKE)
def test_it_changes_with_what_decides_the_numbers(change: dict[str, Any], said: list[str]) -> None:
    found = differences(made(), made(**change))
    assert len(found) == len(said)
    assert all(line.startswith(start) for line, start in zip(found, said, strict=True)), found


@pytest.mark.parametrize("change", ALIKE)
def test_it_does_not_change_with_what_does_not(change: dict[str, Any]) -> None:
    assert made() == made(**change)


def test_the_model_may_differ_between_results_that_are_compared() -> None:
    ours, theirs = made(), made(policy="oracle-titles", top_k=5)
    assert differences(ours, theirs, ignore=MODEL) == ["top_k: 3 != 5"]


MODEL_SETTINGS = {"chat": True, "max_new_tokens": 64, "context_length": 256, "dtype": "bfloat16"}


def test_a_scripted_policy_has_no_settings_of_a_model() -> None:
    scripted = made(policy="search-question")
    assert made(policy="search-question", **MODEL_SETTINGS) == scripted
    assert not scripted.keys() & {"chat", "chat_template", "decoding"}
    assert differences(scripted, made(**MODEL_SETTINGS), ignore=MODEL) == []


@pytest.mark.parametrize("other", [made(policy="search-question"), made(policy="oracle-titles"), made()])
def test_a_scripted_policy_of_an_older_file_is_compared(other: Fingerprint) -> None:
    """Older fingerprints of scripted policies hold the settings of a model, which decided nothing."""
    older = {**made(**MODEL_SETTINGS), "model": {"name": "search-question"}}
    assert differences(older, other, ignore=MODEL) == []
    assert differences(older, {**other, "top_k": 5}, ignore=MODEL) == ["top_k: 3 != 5"]


def test_a_retriever_within_a_retriever_is_compared_by_its_parts() -> None:
    two = [HybridRetriever([BM25Retriever(p), BM25Retriever(p)]).fingerprint() for p in (PASSAGES, OTHER_TEXT)]
    ours, theirs = (made(retriever=found) for found in two)
    found = differences(ours, theirs)
    assert [line.partition(":")[0] for line in found] == [f"retriever.retrievers.{i}.corpus" for i in (0, 1)]


def test_what_one_side_lacks_is_said() -> None:
    assert differences({"a": 1}, {}) == ["a: 1 != nothing"]
    assert differences({"a": {"b": [1, 2]}}, {"a": {"b": [1]}}) == ["a.b.1: 2 != nothing"]


def test_of_long_texts_the_place_that_differs_is_shown() -> None:
    (line,) = differences({"prompt": "x" * 500 + "Think first."}, {"prompt": "x" * 500 + "Answer at once."})
    assert "Think first." in line
    assert "Answer at once." in line
    assert len(line) < 100


# ---------------------------------------------------------------- which model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the bundled policy."""
    return Path(shutil.copytree(POLICY_FOLDER, tmp_path / "policy"))


def test_a_folder_is_known_by_its_weights_and_tokenizer(folder: Path) -> None:
    before = model_identity(str(folder))
    assert before["hash"] == model_identity("bundled")["hash"]
    (folder / "notes.md").write_text("beside it")
    (folder / "optimizer.pt").write_text("beside it")
    assert model_identity(str(folder)) == before


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "generation_config.json"])
def test_a_byte_of_a_model_changes_its_hash(folder: Path, name: str) -> None:
    before = model_identity(str(folder))["hash"]
    content = bytearray((folder / name).read_bytes())
    content[-2] ^= 1
    (folder / name).write_bytes(content)
    assert model_identity(str(folder))["hash"] != before


def test_a_name_of_the_hub_is_known_by_the_revision_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    cached: dict[str, str] = {"some/model": "/cache/models--some--model/snapshots/abc123/config.json"}
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: cached.get(name))
    assert model_identity("some/model") == {"name": "some/model", "revision": "abc123"}
    assert model_identity("other/model") == {"name": "other/model"}
