"""Options of generated worlds: each has its property, and a world without options stays as it was."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable
from dataclasses import fields, replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igsearch_env.errors import ConfigurationError
from igsearch_env.question_lists import check_unique
from igsearch_env.questions import Question
from igsearch_env.scripted import OracleTitles, play_scripted
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.world import HARD, Hop, World, WorldOptions, generate_world
from igsearch_env.world.bundled import bundled_world, named_retriever, named_world, world_retriever
from igsearch_env.world.hard_wordings import DEEP_CHAINS, PARAPHRASES, QUESTION_PARAPHRASES
from igsearch_env.world.options import PLAIN, WorldName
from igsearch_env.world.wordings import CHAINS, WORDINGS
from retrievers import NoisyRetriever, Passage

SIZE = 1000
RELATIONS = {family: relations for family, (relations, _) in (CHAINS | DEEP_CHAINS).items()}


@cache
def world_with(**options: float) -> World:
    """A world of 1,000 passages with some options; of size 3,000 for `hard=1`."""
    return generate_world(0, 3000, HARD) if "hard" in options else generate_world(5, SIZE, WorldOptions(**options))  # type: ignore[arg-type]


def questions(world: World) -> list[Question]:
    """All questions of a world."""
    return list(itertools.chain(*world.questions.values()))


def check_answerable(world: World, question: Question) -> None:
    """The passages of a question's hops lead from its text to its answer, or up to the fact that none states."""
    hops: tuple[Hop, ...] = question.metadata["hops"]
    missing = question.golden_answers == ("unknown",)
    assert tuple(hop.relation for hop in hops) == RELATIONS[question.dataset][: len(hops)]
    assert missing or len(hops) == len(RELATIONS[question.dataset])
    assert question.metadata["named"] in question.text
    for number, hop in enumerate(hops):
        if missing and number == len(hops) - 1:
            assert (hop.answer, hop.passage_id) == ("unknown", "")
            continue
        passage = world.by_id[hop.passage_id]
        assert hop in world.facts[hop.passage_id]
        assert hop.entity in passage.text
        assert hop.answer in passage.text
        assert hop.entity.startswith(passage.title)
        if number + 1 < len(hops):
            assert hops[number + 1].entity == hop.answer
    if not missing:
        assert hops[-1].answer in question.golden_answers
        assert question.golden_answers[0] in world.by_id[hops[-1].passage_id].text


# ---------------------------------------------------------------- the world without options


def digest(world: World) -> str:
    """A hash of everything that an episode can depend on."""
    rows = [(p.id, p.title, p.text) for p in world.passages]
    asked = [
        (split, q.id, q.text, q.golden_answers, q.dataset, q.metadata["named"], q.metadata["supporting_titles"])
        for split in ("train", "dev", "test")
        for q in world.questions[split]
    ]
    return hashlib.sha256(repr((rows, asked)).encode()).hexdigest()


def test_the_world_without_options_is_the_one_that_the_bundled_policy_and_all_results_are_of() -> None:
    assert digest(bundled_world()) == "1a9fd2971b78e40ca88df1203138082a7b7c1ec64ec59c78f30f0fc6511469f9"
    assert digest(generate_world(7, 1000)) == "e4a656f88ecbae6745349cbffcdbfe46fbf9d2b82f94a56bfd13317296373e02"
    assert bundled_world().rivals == {}


def test_the_metadata_of_options_are_those_of_worlds_with_options() -> None:
    properties = {"depth", "unanswerable", "ambiguous", "outdated", "paraphrased"}
    assert not {name for q in questions(bundled_world()) for name in q.metadata} & properties
    assert all(properties <= q.metadata.keys() for q in questions(world_with(depth=2)))
    for question in questions(world_with(unanswerable=0.2)):
        hops = question.metadata["hops"]
        assert question.metadata["supporting_ids"] == [hop.passage_id for hop in hops if hop.passage_id]


# ---------------------------------------------------------------- any options

OPTIONS = st.builds(
    WorldOptions,
    paraphrased=st.sampled_from([0.0, 0.5, 1.0]),
    distractors=st.integers(0, 3),
    ambiguous=st.sampled_from([0.0, 0.2, 0.5]),
    outdated=st.sampled_from([0.0, 0.3, 1.0]),
    unanswerable=st.sampled_from([0.0, 0.1, 0.5]),
    depth=st.integers(1, 4),
    noise=st.just(0.0),
    facts_per_passage=st.integers(1, 6),
)


@settings(max_examples=12, deadline=None)
@given(OPTIONS, st.integers(0, 2**40))
def test_any_options_give_one_consistent_world(options: WorldOptions, seed: int) -> None:
    world, same = generate_world(seed, 600, options), generate_world(seed, 600, options)
    assert (world.passages, world.questions, world.facts, world.rivals) == (
        same.passages,
        same.questions,
        same.facts,
        same.rivals,
    )
    assert len(world.by_id) == len(world.passages)
    check_unique(questions(world), "all splits")
    assert all(len(facts) <= options.facts_per_passage for facts in world.facts.values())
    for question in questions(world):
        assert question.metadata.get("depth", 1) <= options.depth
        check_answerable(world, question)
    texts = [question.text for question in questions(world)]
    assert len(set(texts)) == len(texts)


def test_hard_has_every_property() -> None:
    world = world_with(hard=1)
    for question in questions(world):
        check_answerable(world, question)
    for name in ("unanswerable", "ambiguous", "outdated", "paraphrased"):
        assert 0.05 < sum(q.metadata[name] for q in questions(world)) / len(questions(world)) < 0.6
    assert {q.metadata["depth"] for q in questions(world)} == {1, 2, 3, 4}


@pytest.mark.parametrize("name", [f.name for f in fields(WorldOptions) if f.name not in ("depth", "noise")])
def test_an_option_changes_nothing_that_it_does_not_name(name: str) -> None:
    """The same questions with the same answers in the same splits; their texts differ by wordings and designations."""
    plain, varied = generate_world(5, SIZE), world_with(**{name: getattr(HARD, name)})
    for split, asked in plain.questions.items():
        for one, other in zip(asked, varied.questions[split], strict=True):
            assert one.id == other.id
            if not (other.metadata["unanswerable"] or name == "ambiguous"):
                assert one.golden_answers == other.golden_answers
            if name not in ("paraphrased", "ambiguous"):
                assert one.text == other.text


# ---------------------------------------------------------------- single options


def test_paraphrases_of_test_questions_and_their_facts_are_held_out() -> None:
    world = world_with(paraphrased=1.0)
    held_out = [text.split("{e}")[0] for _, texts in QUESTION_PARAPHRASES.values() for text in texts]
    for split, asked in world.questions.items():
        assert all(q.text.startswith(tuple(held_out)) == (split == "test") for q in asked)
    used = {
        split: {hop.passage_id for q in asked for hop in q.metadata["hops"]} for split, asked in world.questions.items()
    }
    only_test = used["test"] - used["train"] - used["dev"]
    assert only_test
    for passage in world.passages:
        hop = world.facts[passage.id][0]
        texts = [text.format(s=hop.entity, o=hop.answer) for text in PARAPHRASES[hop.relation][passage.id in only_test]]
        if ", known as " not in passage.text and ", also called " not in passage.text:
            assert passage.text in [text[0].upper() + text[1:] for text in texts]


def test_held_out_wordings_have_no_word_of_their_own() -> None:
    def words(texts: Iterable[str]) -> set[str]:
        return {word.strip(".,?") for text in texts for word in text.split() if "{" not in word}

    shown = list(itertools.chain(*WORDINGS.values(), *(texts for _, texts in (CHAINS | DEEP_CHAINS).values())))
    held_out: list[str] = []
    for seen, unseen in (*PARAPHRASES.values(), *QUESTION_PARAPHRASES.values()):
        shown += seen
        held_out += unseen
    assert words(held_out) <= words(shown)
    assert not set(held_out) & set(shown)


def test_distractors_are_further_facts_about_the_same_entities() -> None:
    plain, world = generate_world(5, SIZE), world_with(distractors=2)
    assert {p.id for p in plain.passages} < set(world.by_id)
    added = [p for p in world.passages if p.id.startswith("x")]
    asked = set(itertools.chain(*RELATIONS.values()))
    assert {fact.relation for p in added for fact in world.facts[p.id]}.isdisjoint(asked)
    assert {p.title for p in added} <= {p.title for p in plain.passages}
    assert len(added) == 2 * (3 * 102 + 33)


def test_an_ambiguous_question_is_answered_by_exactly_one_page() -> None:
    world = world_with(ambiguous=0.3)
    plain = {q.id: q for q in questions(generate_world(5, SIZE))}
    ambiguous = [q for q in questions(world) if q.metadata["ambiguous"]]
    assert len(ambiguous) > 50
    checked = 0
    for question in ambiguous:
        for hop in question.metadata["hops"]:
            alike = [
                fact
                for passage in world.passages
                if passage.title == world.by_id[hop.passage_id].title
                for fact in world.facts[passage.id]
                if fact.relation == hop.relation
            ]
            assert [fact for fact in alike if fact.entity == hop.entity] == [hop]
            if len(alike) > 1:
                checked += 1
                (other,) = (fact for fact in alike if fact != hop)
                assert other.answer != hop.answer  # so that confusing them is an error
                assert other.passage_id in world.rivals[hop.passage_id]
        assert question.text != plain[question.id].text or len(question.metadata["hops"]) > 1
    assert checked >= len(ambiguous)
    texts = [question.text for question in questions(world)]
    assert len(set(texts)) == len(texts)


def test_no_question_about_a_namesake_tells_its_answer() -> None:
    for question in questions(world_with(ambiguous=0.5)):
        if question.metadata["ambiguous"]:
            assert question.golden_answers[0] not in question.text.split(question.metadata["named"])[1]
            if question.dataset in ("occupation", "founder_occupation"):
                assert question.golden_answers[0] not in question.text


def test_of_two_statements_the_later_one_is_right() -> None:
    world = world_with(outdated=1.0)
    dated = marked = 0
    for question in questions(world):
        assert question.metadata["outdated"]
        for hop in question.metadata["hops"]:
            current = world.by_id[hop.passage_id]
            (old,) = (world.by_id[id] for id in world.rivals[current.id])
            assert world.facts[old.id][0].answer != hop.answer
            years = [[word for word in p.text.replace(",", "").split() if word.isdigit()] for p in (old, current)]
            if years[0]:
                dated += 1
                assert int(years[0][0]) < int(years[1][0])
            else:
                marked += 1
                assert not years[1]
                assert "formerly" in old.text or "outdated" in old.text
                assert "formerly" not in current.text
                assert "outdated" not in current.text
    assert dated > 100
    assert marked > 100


def test_no_passage_answers_an_unanswerable_question() -> None:
    world = world_with(unanswerable=0.2, outdated=0.5, distractors=3, ambiguous=0.2)
    stated = {(fact.entity, fact.relation) for facts in world.facts.values() for fact in facts}
    unanswerable = [q for q in questions(world) if q.metadata["unanswerable"]]
    assert 0.2 <= len(unanswerable) / len(questions(world)) < 0.23
    for question in unanswerable:
        missing = question.metadata["hops"][-1]
        assert question.golden_answers == ("unknown",)
        assert (missing.entity, missing.relation) not in stated
        assert all(passage.id for passage in world.evidence(question))
    for question in questions(world):
        if not question.metadata["unanswerable"]:
            assert {(hop.entity, hop.relation) for hop in question.metadata["hops"]} <= stated


def test_the_oracle_answers_unknown_where_no_passage_answers() -> None:
    world = world_with(unanswerable=0.2)
    asked = [q for q in world.questions["test"] if q.metadata["unanswerable"]][:20]
    stepper = EpisodeStepper(asked, world_retriever(world), None)
    assert [t.outcome for t in play_scripted(OracleTitles(), stepper, asked)] == [1.0] * len(asked)


@pytest.mark.parametrize(("depth", "families"), [(1, 3), (2, 6), (3, 7), (4, 9)])
def test_depth_decides_the_families(depth: int, families: int) -> None:
    world = world_with(depth=depth)
    for asked in world.questions.values():
        assert len({q.dataset for q in asked}) == families
        assert {q.metadata.get("depth", len(q.metadata["hops"])) for q in asked} == set(range(1, depth + 1))
        assert all(len(q.metadata["hops"]) == len(RELATIONS[q.dataset]) for q in asked)


def test_passages_hold_several_facts_of_one_entity() -> None:
    plain, world = generate_world(5, SIZE), world_with(facts_per_passage=3)
    assert len(world.passages) < 0.6 * len(plain.passages)
    sentences = {passage.text for passage in plain.passages}
    for passage in world.passages:
        held = [f"{text.rstrip('.')}." for text in passage.text.split(". ")]
        assert set(held) <= sentences
        assert len(held) == len(world.facts[passage.id]) <= 3
        assert {fact.entity for fact in world.facts[passage.id]} == {passage.title}
        sentences -= set(held)
    assert not sentences


# ---------------------------------------------------------------- names


def test_a_name_gives_the_world_and_its_search_engine() -> None:
    assert WorldName.read("world:hard") == WorldName(0, 3000, HARD)
    assert WorldName.read("world:hard,noise=0,seed=3,passages=700") == WorldName(3, 700, replace(HARD, noise=0.0))
    assert WorldName.read("bundled") == WorldName(0, 3000, PLAIN)
    assert WorldName.read("world:ambiguous=0.2,depth=4").options == WorldOptions(ambiguous=0.2, depth=4)
    assert named_world("world:seed=5,passages=1000").passages == generate_world(5, SIZE).passages
    noisy = named_retriever("world:noise=0.3,passages=600")
    assert isinstance(noisy, NoisyRetriever)
    assert (noisy.replaced, noisy.dropped) == (0.15, 0.15)
    assert all(isinstance(passage, Passage) for passage in noisy.search(["born"], 3)[0])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("world:", "'' is neither hard nor OPTION=VALUE; write world:hard"),
        ("world:hrad", "'hrad' is neither hard nor OPTION=VALUE"),
        ("world:hard,depht=2", "option='depht': must be one of .* did you mean 'depth'"),
        ("world:depth=5", "world:depth=5: depth=5: must be from 1 to 4"),
        ("world:depth=2.5", "depth='2.5': must be a whole number"),
        ("world:noise=much", "noise='much': must be a number"),
        ("world:noise=nan", "noise=nan: must be from 0 to 1"),
        ("world:ambiguous=0.8", "ambiguous=0.8: must be from 0 to 0.5"),
    ],
)
def test_a_wrong_name_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        WorldName.read(name)


@given(OPTIONS)
def test_what_a_name_says_is_what_it_gives(options: WorldOptions) -> None:
    changed = [f"{f.name}={getattr(options, f.name)}" for f in fields(options) if getattr(options, f.name) != f.default]
    assert WorldName.read(f"world:seed=0,{','.join(changed)}".rstrip(",")).options == options
    assert WorldOptions() == PLAIN
