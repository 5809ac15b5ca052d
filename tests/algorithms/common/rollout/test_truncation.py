"""`env.max_observation_tokens`: what a search shows is cut to so many tokens, and nothing else changes."""

from __future__ import annotations

from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import PASSAGES, QUESTIONS, TAGGED, answer, played, search, small_retriever
from hypothesis import given
from hypothesis import strategies as st
from models import tokenizer

from algorithms.common.model.tokenizer import PolicyTokenizer
from algorithms.common.rollout.truncation import NEAR, ObservationCut
from igsearch_env import ConfigurationError, InformationGain, InformationGainConfig, Protocol
from igsearch_env.evidence import SearchStep
from igsearch_env.protocols import PROTOCOLS, make_protocol
from igsearch_env.questions import Question
from igsearch_env.rules import EpisodeRules
from igsearch_env.scorers import UnigramScorer
from igsearch_env.stepper import EpisodeStepper
from retrievers import DictionaryRetriever, Passage

PIECES = (
    *("<information>", "</information>", "<documents>", "</search>", "<answer>", "</answer>", "<", "</", ">", "< /"),
    *("Karith", " stands", " on the Ostue.", "\n", "  ", "日本語", "👩‍🚀", "naïve", "\u0301", "x_y", "Doc 1", "9" * 30),
)
TEXT = st.text(st.characters(codec="utf-8"), max_size=60) | st.lists(st.sampled_from(PIECES), max_size=25).map("".join)
LIMIT = st.integers(1, 40)


class Slow(PolicyTokenizer):
    """Tokens of a tokenizer without offsets."""

    def __init__(self) -> None:
        own = tokenizer()
        super().__init__(own)
        special = {"all_special_ids": own.all_special_ids, "added_tokens_decoder": own.added_tokens_decoder}
        self.tokenizer: Any = SimpleNamespace(encode=own.encode, decode=own.decode, **special)


TOKENS, SLOW = PolicyTokenizer(tokenizer()), Slow()
KIND = st.sampled_from([TOKENS, SLOW])


@lru_cache
def protocol_of(family: str, limit: int, tokens: PolicyTokenizer = TOKENS) -> Protocol:
    return make_protocol(family, cut=ObservationCut(tokens, limit))


def passages_of(*texts: str) -> list[Passage]:
    return [Passage(str(number), "", text) for number, text in enumerate(texts)]


@given(TEXT, LIMIT, KIND)
def test_a_prefix_within_the_limit(text: str, limit: int, tokens: PolicyTokenizer) -> None:
    part = ObservationCut(tokens, limit)(text)
    assert text.startswith(part)
    assert len(tokens.encode(part)) <= limit
    if len(tokens.encode(text)) <= limit:
        assert part == text


@given(TEXT, LIMIT)
def test_nearly_all_that_the_limit_allows(text: str, limit: int) -> None:
    part = ObservationCut(TOKENS, limit)(text)
    # What is given up: half a word, the beginning of a tag and white space, which hold no more characters than these.
    given_up = text[len(part) :]
    kept_back = next((n for n in range(len(given_up)) if len(TOKENS.encode(text[: len(part) + n + 1])) > limit), 0)
    assert len(given_up[:kept_back].split()) <= 3
    assert len(given_up[:kept_back].strip("< /\n\t")) <= 3 * NEAR


@given(st.lists(TEXT, max_size=3), LIMIT, st.sampled_from(TAGGED), KIND)
def test_the_block_is_closed_and_holds_no_other_tag(
    texts: list[str], limit: int, family: str, tokens: PolicyTokenizer
) -> None:
    protocol = protocol_of(family, limit, tokens)
    observation = protocol.observation(passages_of(*texts))
    tag = "information" if family == "search_r1" else "documents"
    assert observation.startswith(f"\n\n<{tag}>")
    assert observation.endswith(f"</{tag}>\n\n")
    for other in ("think", "search", "information", "documents", "refine", "answer"):
        assert observation.count(f"<{other}>") == observation.count(f"</{other}>") == (other == tag)
    assert protocol.parse(observation) == protocol.parse("")
    # The bundled tokenizer knows the tags as tokens of their own, so none spans text and tag.
    own = len(tokens.encode(make_protocol(family).observation([])))
    assert len(tokens.encode(observation)) <= limit + own


@given(st.lists(TEXT, max_size=3), st.sampled_from(sorted(PROTOCOLS)))
def test_nothing_changes_below_the_limit(texts: list[str], family: str) -> None:
    passages = passages_of(*texts)
    assert protocol_of(family, 10_000).observation(passages) == make_protocol(family).observation(passages)


@pytest.mark.parametrize("tokens", [TOKENS, SLOW], ids=["offsets", "bisection"])
@pytest.mark.parametrize(
    ("text", "limit", "part"),
    [
        ("Karith stands on the Ostue.", 8, "Karith stands on"),
        ("on the Karith", 4, "on the"),  # not "on the Ka"
        ("日本語", 4, "日"),  # three bytes each: never a part of one
        ("👩‍🚀👩‍🚀", 3, ""),
        ("on the < /information> road", 11, "on the"),  # not "on the < /inf"
        ("on the <</answ", 6, "on the"),
        ("on " + "x" * 40, 30, "on " + "x" * 27),  # no word ends nearby
        ("on the", 3, "on the"),
        ("on the  \n ", 3, "on the"),
        ("", 1, ""),
    ],
)
def test_where_it_cuts(tokens: PolicyTokenizer, text: str, limit: int, part: str) -> None:
    assert ObservationCut(tokens, limit)(text) == part


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="limit=0: must be at least 1"):
        ObservationCut(TOKENS, 0)


def test_a_protocol_is_the_same_with_and_without_a_cut() -> None:
    protocol = protocol_of("search_r1", 5)
    assert protocol == make_protocol()
    assert hash(protocol) == hash(make_protocol())
    assert repr(protocol) == repr(make_protocol())


# ---------------------------------------------------------------- information gain


@pytest.mark.parametrize("family", TAGGED)
@pytest.mark.parametrize("source", ["batch", "corpus"])
@pytest.mark.parametrize("last_call", [False, True])
def test_real_and_random_evidence_are_cut_alike(family: str, source: str, last_call: bool) -> None:
    limit = 12
    protocol = protocol_of(family, limit)
    steps = []
    for number in range(4):
        question = Question(f"n{number}", f"Question {number}?", ("Lurm",), "x")
        found = [Passage(f"f{number}", "", f"{number} stands on the river of the city and " * 9)]
        turns = [(search("q"), found), ("<refine> short </refine>" + answer("Lurm"), ())]
        trajectory = played(question, *turns, protocol=protocol)
        if last_call:
            trajectory.turns[0].observation += protocol.last_call()
        steps.append(SearchStep(trajectory, 0))
    elsewhere = DictionaryRetriever({"x": [Passage(f"c{i}", "", f"{i} the sea of " * 40) for i in range(9)]})
    config = InformationGainConfig(random_source=source)
    gain = InformationGain(config, UnigramScorer(elsewhere), protocol, elsewhere)
    requests, texts = gain.requests(steps)
    tag = "information" if family == "search_r1" else "documents"
    after = "\n\n" + (protocol.last_call() if last_call else "")
    for request, others in zip(requests, texts, strict=True):
        lengths = set()
        for evidence in request.evidences:
            head, _, rest = evidence.text.partition(f"</{tag}>")
            assert rest.startswith(after)
            lengths.add(len(TOKENS.encode(head.removeprefix(f"\n\n<{tag}>"))))
        assert lengths <= {limit - 1, limit}  # words of one token; the white space at an end is not kept
        assert len(others) == 3
    real = [request.evidences[0].text for request in requests]
    shown = [step.trajectory.turns[0].observation for step in steps]
    assert all(text.startswith(observation) for text, observation in zip(real, shown, strict=True))


# ---------------------------------------------------------------- an episode


def test_an_episode_shows_cut_passages_and_keeps_the_last_call() -> None:
    limit = 6
    engine = EpisodeStepper(
        QUESTIONS,
        small_retriever(),
        None,
        EpisodeRules(top_k=2, max_searches=1, protocol=protocol_of("search_r1", limit)),
    )
    whole = EpisodeStepper(QUESTIONS, small_retriever(), None, EpisodeRules(top_k=2, max_searches=1))
    shown = []
    for engine_ in (engine, whole):
        episode = engine_.begin(QUESTIONS[0])
        engine_.step([episode], [search("Alan Brin born")])
        turn = episode.trajectory.turns[0]
        assert len(turn.passages) == 2  # what was found is recorded whole
        assert turn.observation.endswith(make_protocol().last_call())
        shown.append(turn.observation)
        engine_.step([episode], [answer("Tolona")])
        assert episode.trajectory.outcome == 1.0
    cut, full = (text.removeprefix("\n\n<information>").partition("</information>") for text in shown)
    assert full[0].startswith(cut[0])
    assert len(TOKENS.encode(cut[0])) <= limit < len(TOKENS.encode(full[0]))
    assert cut[2] == full[2]
    assert PASSAGES[0].text in full[0]
