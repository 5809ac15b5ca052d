"""The bundled world: one seed, one world; its questions can be answered from its passages."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
from collections import Counter

import pytest

from igsearch_env import ConfigurationError
from igsearch_env.question_lists import check_unique
from igsearch_env.world import FAMILIES, World, generate_world
from igsearch_env.world.bundled import SEED, bundled_retriever, bundled_world
from retrievers import BM25Retriever, corpus_hash

HOPS = {
    "birthplace": 1,
    "author": 1,
    "occupation": 1,
    "author_birthplace": 2,
    "founder_occupation": 2,
    "birth_country": 2,
    "author_country": 3,
}


@pytest.fixture(scope="module", params=[(0, 3000), (7, 1000)], ids=["bundled", "small"])
def world(request: pytest.FixtureRequest) -> World:
    """A world of two sizes."""
    return generate_world(*request.param)


def test_same_seed_same_world() -> None:
    one, same, other = generate_world(1, 800), generate_world(1, 800), generate_world(2, 800)
    assert (one.passages, one.questions, one.facts) == (same.passages, same.questions, same.facts)
    assert all(
        left.metadata == right.metadata
        for split in one.questions
        for left, right in zip(one.questions[split], same.questions[split], strict=True)
    )
    assert corpus_hash(one.passages) != corpus_hash(other.passages)


def test_same_seed_same_world_in_another_process() -> None:
    code = (
        "from igsearch_env.world import generate_world; from retrievers import corpus_hash\n"
        "w = generate_world(1, 800)\n"
        "print(corpus_hash(w.passages), [q.text for q in w.questions['test']])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONHASHSEED": "123"},
    ).stdout
    world = generate_world(1, 800)
    assert printed == f"{corpus_hash(world.passages)} {[q.text for q in world.questions['test']]}\n"


def test_ids_are_unique(world: World) -> None:
    assert len(world.by_id) == len(world.passages)
    check_unique([question for split in world.questions.values() for question in split], "all splits")


def test_splits_share_no_question(world: World) -> None:
    texts = [question.text for split in ("train", "dev", "test") for question in world.questions[split]]
    assert len(set(texts)) == len(texts)
    starts = [(q.dataset, q.metadata["hops"][0].entity) for split in world.questions.values() for q in split]
    assert len(set(starts)) == len(starts)


def test_bundled_world_has_100_test_questions_a_family() -> None:
    questions = bundled_world().questions
    assert Counter(question.dataset for question in questions["test"]) == dict.fromkeys(FAMILIES, 100)
    assert Counter(question.dataset for question in questions["dev"]) == dict.fromkeys(FAMILIES, 30)
    assert {question.dataset for question in questions["train"]} == set(FAMILIES)
    assert len(FAMILIES) == 7


def test_bundled_world_is_the_generated_one_and_is_searched() -> None:
    assert bundled_world().passages == generate_world(SEED).passages
    assert len(bundled_retriever()) == len(bundled_world().passages)


def test_the_search_engine_is_the_one_that_all_results_are_of() -> None:
    """Those of bm25s 0.2 with its own tokens, words of two letters or more, with which the first tables were made."""
    hops = [hop for split in ("dev", "test") for q in bundled_world().questions[split] for hop in q.metadata["hops"]]
    keywords = ("", " worked", " born", " novel", " founder")
    queries = sorted({hop.entity + keyword for hop in hops for keyword in keywords})
    found = [[passage.id for passage in passages] for passages in bundled_retriever().search(queries, 3)]
    digest = hashlib.sha256(repr((queries, found)).encode()).hexdigest()
    assert digest == "c8bf4e8aeb4f8e0444a86900336556d0a431edfd84a4bdffe2ccf64c0c66412d"


def test_families_are_interleaved(world: World) -> None:
    assert [question.dataset for question in world.questions["test"][:14]] == [*FAMILIES, *FAMILIES]


def test_hops_chain_from_the_question_to_the_answer(world: World) -> None:
    for split in world.questions.values():
        for question in split:
            hops = question.metadata["hops"]
            assert len(hops) == HOPS[question.dataset]
            assert question.metadata["named"] in question.text
            assert hops[-1].answer == question.golden_answers[0]
            for hop, following in itertools.pairwise(hops):
                assert hop.answer == following.entity


def test_evidence_says_each_hop(world: World) -> None:
    for split in world.questions.values():
        for question in split:
            hops, evidence = question.metadata["hops"], world.evidence(question)
            assert [passage.title for passage in evidence] == question.metadata["supporting_titles"]
            assert question.golden_answers[0] in evidence[-1].text
            assert question.metadata["named"] in evidence[0].text
            for hop, passage in zip(hops, evidence, strict=True):
                assert (hop.entity in passage.text, hop.answer in passage.text) == (True, True)
                assert world.facts[passage.id] == (hop,)


def test_second_names_are_stated_somewhere(world: World) -> None:
    texts = [passage.text for passage in world.passages]
    named = [q for split in world.questions.values() for q in split]
    aliases = {q.golden_answers for q in named if len(q.golden_answers) > 1}
    nicknames = {q.metadata["named"] for q in named if q.metadata["named"] != q.metadata["hops"][0].entity}
    assert aliases
    assert nicknames
    for plain, second in aliases:
        assert any(f"{plain}, also called {second}," in text for text in texts)
    for nickname in nicknames:
        assert any(f", known as {nickname}," in text for text in texts)


def test_naming_the_entity_of_a_hop_finds_its_passage(world: World) -> None:
    retriever = BM25Retriever(world.passages)
    hops = [hop for question in world.questions["test"] for hop in question.metadata["hops"]][:300]
    found = retriever.search([f"{hop.entity} {hop.relation}" for hop in hops], 10)
    hits = sum(hop.passage_id in {p.id for p in passages} for hop, passages in zip(hops, found, strict=True))
    assert hits / len(hops) > 0.9


@pytest.mark.parametrize("size", [600, 1000, 3000, 6000, 20_000])
def test_scales_to_the_size_asked_for(size: int) -> None:
    world = generate_world(0, size)
    assert abs(len(world.passages) - size) <= 0.02 * size
    assert {question.dataset for question in world.questions["test"]} == set(FAMILIES)
    assert len({passage.id for passage in world.passages}) == len(world.passages)


@pytest.mark.parametrize("size", [-5, 0, 599])
def test_too_small_a_world_is_refused(size: int) -> None:
    with pytest.raises(ConfigurationError, match=rf"passages={size}: .*at least 600"):
        generate_world(0, size)


def test_too_large_a_world_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="smaller world"):
        generate_world(0, 10**9)
