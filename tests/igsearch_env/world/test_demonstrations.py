"""Demonstrations for the bundled policy: episodes that the protocol reads, and the tokenizer that writes them."""

from __future__ import annotations

import itertools
from dataclasses import replace

from transformers import AutoTokenizer

from examples.make_bundled_policy import build_tokenizer
from igsearch_env.protocols import Answer, Search, parse
from igsearch_env.world.bundled import POLICY_FOLDER
from igsearch_env.world.demonstrations import BUNDLED, COLD, VAGUE, Demonstration, Manner, demonstrations
from igsearch_env.world.records import UNKNOWN


def first(count: int, manner: Manner, seed: int = 3) -> list[Demonstration]:
    """The first demonstrations in a manner."""
    return list(itertools.islice(demonstrations(manner, seed), count))


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
