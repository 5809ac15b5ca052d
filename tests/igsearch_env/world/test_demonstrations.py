"""Demonstrations for the bundled policy: episodes that the protocol reads, and the tokenizer that writes them."""

from __future__ import annotations

import itertools
import random
from dataclasses import fields, replace

from transformers import AutoTokenizer

from examples.make_bundled_policy import build_tokenizer
from igsearch_env.protocols import Answer, Search, parse
from igsearch_env.questions import UNKNOWN
from igsearch_env.world import HARD, WorldOptions, generate_world
from igsearch_env.world.bundled import POLICY_FOLDER
from igsearch_env.world.demonstrations import (
    BUNDLED,
    COLD,
    VAGUE,
    Demonstration,
    Manner,
    demonstrations,
    query,
    some_of,
)
from igsearch_env.world.options import PLAIN


def first(count: int, manner: Manner, seed: int = 3, options: WorldOptions = PLAIN) -> list[Demonstration]:
    """The first demonstrations in a manner."""
    return list(itertools.islice(demonstrations(manner, seed, options), count))


def answer_of(demonstration: Demonstration) -> str:
    """The answer of a demonstrated episode."""
    answer = parse(demonstration[-1][0])
    assert isinstance(answer, Answer)
    return answer.text


def test_a_seed_decides_the_demonstrations() -> None:
    assert first(20, BUNDLED) == first(20, BUNDLED)
    assert first(20, BUNDLED) != first(20, BUNDLED, seed=4)


def test_an_episode_is_searches_and_then_an_answer() -> None:
    for demonstration in first(60, COLD):
        *searches, answer = [parse(text) for text, written in demonstration if written]
        assert searches
        assert all(isinstance(action, Search) for action in searches)
        assert isinstance(answer, Answer)
        read = [text for text, written in demonstration if not written]
        assert len(read) == 1 + len(searches)  # the question, then what each search found


def test_evidence_that_is_given_leads_to_the_answer() -> None:
    for demonstration in first(60, replace(BUNDLED, drill=0.0, given=1.0)):
        answer = parse(demonstration[-1][0])
        assert isinstance(answer, Answer)
        assert answer.text != UNKNOWN
        assert answer.text in demonstration[-2][0]  # the passages


def test_without_good_queries_every_query_is_vague() -> None:
    vague = {text for texts in VAGUE.values() for text in texts}
    for demonstration in first(60, replace(COLD, precise=0.0, name=0.0, part=0.0, wrong_entity=0.0)):
        actions = [parse(text) for text, written in demonstration if written]
        assert {action.query for action in actions if isinstance(action, Search)} <= vague


def test_the_script_makes_the_tokenizer_that_is_bundled() -> None:
    assert build_tokenizer().get_vocab() == AutoTokenizer.from_pretrained(POLICY_FOLDER).get_vocab()


# ---------------------------------------------------------------- hard worlds


def test_the_words_of_hard_worlds_follow_those_of_the_bundled_one_and_are_all_known() -> None:
    plain, hard = build_tokenizer().get_vocab(), build_tokenizer("hard")
    assert plain.items() < hard.get_vocab().items()
    assert min(hard.get_vocab()[word] for word in hard.get_vocab().keys() - plain.keys()) == len(plain)
    for demonstration in first(150, BUNDLED, options=HARD):
        for text, _ in demonstration:
            pieces = hard.convert_ids_to_tokens(hard.encode(text, add_special_tokens=False))
            assert not [piece for piece in pieces if len(piece) == 1 and piece.isascii() and piece.isalpha()], text


def test_every_hard_world_of_demonstrations_has_some_of_the_options() -> None:
    rng = random.Random(0)
    drawn = [some_of(rng, HARD) for _ in range(200)]
    for field in fields(WorldOptions):
        share = sum(getattr(options, field.name) == getattr(HARD, field.name) for options in drawn) / len(drawn)
        assert 0.6 < share < 0.9
        assert {getattr(options, field.name) for options in drawn} == {getattr(HARD, field.name), field.default}


def test_evidence_of_hard_worlds_leads_to_the_answer_or_to_unknown() -> None:
    given = replace(BUNDLED, drill=0.0, given=1.0)
    answers = []
    for demonstration in first(150, given, options=replace(HARD, unanswerable=0.4)):
        answers.append(answer_of(demonstration))
        assert answers[-1] == UNKNOWN or answers[-1] in demonstration[-2][0]  # the passages
    assert 0.05 < answers.count(UNKNOWN) / len(answers) < 0.6


def test_of_two_statements_the_demonstrator_reads_the_later_one() -> None:
    """Shown both, it never answers with what only a passage of an earlier year, or one called outdated, says."""
    given = replace(BUNDLED, drill=0.0, given=1.0)
    both = 0
    for demonstration in first(300, given, options=WorldOptions(outdated=1.0)):
        answer = answer_of(demonstration)
        naming = [line for line in demonstration[-2][0].splitlines() if answer in line.partition(") ")[2]]
        assert not all("formerly" in line or "outdated source" in line for line in naming)
        both += "formerly" in demonstration[-2][0] or "outdated source" in demonstration[-2][0]
    assert both > 50


def test_a_namesake_is_searched_by_what_tells_them_apart() -> None:
    world = generate_world(0, 800, WorldOptions(ambiguous=0.5))
    precise = replace(BUNDLED, precise=1.0, later_hops=1.0)
    rng = random.Random(0)
    checked = 0
    for question in world.questions["train"]:
        for number, hop in enumerate(question.metadata["hops"]):
            if world.by_id[hop.passage_id].title != hop.entity:
                checked += 1
                assert query(rng, precise, question, number).startswith(hop.entity)
    assert checked > 30
