"""Information gain: what each branch reads, and what each baseline compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from helpers import ELSEWHERE, PASSAGES, QUESTIONS, LengthScorer, answer, measured, one_search, played, read, search

from igsearch_env import (
    Gain,
    InformationGain,
    InformationGainConfig,
    Question,
    Segment,
    Trajectory,
    UnigramScorer,
)
from igsearch_env.evidence import SearchStep, search_steps
from igsearch_env.protocols import make_protocol
from igsearch_env.scorers import ScoreRequest
from retrievers import Passage


def two_searches(*, ids: bool = False) -> Trajectory:
    """Think, search, a slip, search again, the last call; with `ids` also made-up token ids."""
    trajectory = played(
        QUESTIONS[0],
        ("<think> who </think> <search> Alan Brin </search>", PASSAGES[:1]),
        ("a slip", ()),
        ("<think> where </think> <search>Tolona</search>", PASSAGES[1:3]),
        last_call=True,
    )
    if ids:
        trajectory.prompt_ids = (1, 2)
        for i, turn in enumerate(trajectory.turns):
            turn.completion_ids, turn.observation_ids = (10 + i,), (20 + i, 30 + i)
    return trajectory


def test_trajectory_context_is_what_the_policy_saw() -> None:
    trajectory = two_searches()
    (first, second), _ = measured(search_steps([trajectory]))
    assert read(second, 0) == trajectory.transcript()
    assert read(first, 0) == trajectory.prompt + trajectory.turns[0].text + trajectory.turns[0].observation
    assert (first.answer_prefix, first.answer) == ("<answer>", " Tolona")


def test_recorded_token_ids_are_handed_on_untouched() -> None:
    (first, second), _ = measured(search_steps([two_searches(ids=True)]))
    assert [segment.ids for segment in first.context] == [(1, 2), (10,)]
    assert [segment.ids for segment in second.context] == [(1, 2), (10,), (20, 30), (11,), (21, 31), (12,)]
    assert [evidence.ids for evidence in second.evidences] == [(22, 32), None, None, None]


def test_skeleton_context_drops_later_thoughts() -> None:
    trajectory = two_searches()
    trajectory.turns[1].observation = "\n\nTry again.\n\n"  # with tags in it, the next search would be another one
    (_, second), _ = measured(search_steps([trajectory]), context="skeleton")
    assert read(second, 0) == (
        trajectory.prompt + "<think> who </think>\n"
        "<search> Alan Brin </search>\n"
        "<information>Doc 1(Title: Alan Brin) Alan Brin was born in Tolona.</information>\n"
        "<search>Tolona</search>\n" + make_protocol().evidence(PASSAGES[1:3])
    )
    assert (second.answer_prefix, second.answer) == ("\n<answer> ", "Tolona")


@pytest.mark.parametrize("context", ["trajectory", "skeleton"])
@pytest.mark.parametrize("family", ["search_r1", "autorefine"])
def test_random_branches_differ_in_the_block_alone(family: str, context: str) -> None:
    protocol = make_protocol(family)
    trajectory = played(QUESTIONS[0], (search("Alan Brin"), PASSAGES[:1]), protocol=protocol, last_call=True)
    other = played(QUESTIONS[1], (search("Mira"), PASSAGES[3:5]), protocol=protocol)
    requests, (gain, _) = measured(search_steps([trajectory, other]), family=family, num_random=1, context=context)
    real, random = requests[0].evidences
    block = protocol.evidence(PASSAGES[:1])
    assert block in real.text
    assert random.text == real.text.replace(block, protocol.evidence(PASSAGES[3:5]))
    assert gain == Gain(1.0, -1.0, -2.0, (random.text,))


def test_random_baseline_is_the_mean_over_its_evidences() -> None:
    requests, gains = measured([one_search(i, PASSAGES[i]) for i in range(4)], num_random=3)
    assert [len(request.evidences) for request in requests] == [4] * 4
    assert [(gain.value, gain.logprob_real, gain.logprob_baseline) for gain in gains] == [(2.0, -1.0, -3.0)] * 4
    assert [gain.baseline_evidences for gain in gains] == [
        tuple(evidence.text for evidence in request.evidences[1:]) for request in requests
    ]


def test_previous_baseline_is_what_was_known_before_the_search() -> None:
    trajectory = two_searches()
    steps = search_steps([trajectory])
    requests, gains = measured(steps, baseline="previous", retriever=None)
    assert len(requests) == 4
    assert requests[3].evidences == (Segment("", ()),)
    assert read(requests[3], 0) == trajectory.prompt + "".join(t.text + t.observation for t in trajectory.turns[:2])
    assert read(requests[1], 0) == trajectory.prompt
    assert all(gain.baseline_evidences == () for gain in gains)
    by_length = InformationGain(InformationGainConfig(baseline="previous"), LengthScorer(), make_protocol()).measure(
        steps
    )
    turn = trajectory.turns[2]
    assert by_length[1].value == len(turn.text + turn.observation)


@pytest.mark.parametrize(("family", "tag"), [("search_r1", "information"), ("autorefine", "documents")])
def test_empty_baseline_is_a_block_without_passages(family: str, tag: str) -> None:
    trajectory = played(QUESTIONS[0], (search("Alan"), PASSAGES[:2]), protocol=make_protocol(family))
    (request,), (gain,) = measured(search_steps([trajectory]), family=family, baseline="empty", retriever=None)
    assert [evidence.text for evidence in request.evidences[1:]] == [f"\n\n<{tag}></{tag}>\n\n"]
    assert (gain.value, gain.logprob_baseline) == (1.0, -2.0)


@pytest.mark.parametrize("context", ["trajectory", "skeleton"])
@pytest.mark.parametrize("family", ["search_r1", "autorefine"])
def test_query_baseline_repeats_the_query_in_as_many_passages(family: str, context: str) -> None:
    protocol = make_protocol(family)
    refined = f"<refine> Tolona </refine>{answer('x')}"
    trajectory = played(QUESTIONS[0], (search("in Tolona?"), PASSAGES[:2]), (refined, ()), protocol=protocol)
    steps = search_steps([trajectory])
    options = {"family": family, "context": context}
    (request,), (gain,) = measured(steps, baseline="query", **options)  # type: ignore[arg-type]
    (published,), _ = measured(steps, **options)  # type: ignore[arg-type]
    real, repeated, *random = request.evidences
    assert (real, *random) == published.evidences
    block = protocol.evidence([Passage(id, "in Tolona?", "in Tolona?") for id in "ab"])
    expected = real.text.replace(protocol.evidence(PASSAGES[:2]), block)
    assert repeated.text == expected.replace("<refine> Tolona </refine>", "<refine> in Tolona?</refine>")
    assert gain.baseline_evidences == (repeated.text, *(evidence.text for evidence in random))


@pytest.mark.parametrize(("scores", "gain"), [([9, 7, 3, 5], 2), ([9, 3, 6, 4], 4), ([1, 7, 3, 5], -6)])
def test_query_baseline_is_the_higher_of_the_query_and_the_mean_of_random(scores: list[float], gain: float) -> None:
    class Fixed:
        def score(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
            return [scores for _ in requests]

    config = InformationGainConfig(baseline="query", num_random=2)
    (found,) = InformationGain(config, Fixed(), make_protocol(), ELSEWHERE).measure([one_search(0, PASSAGES[0])])
    assert (found.value, found.logprob_baseline) == (gain, scores[0] - gain)


def test_query_baseline_pays_nothing_for_repeating_a_guess() -> None:
    """A passage that says no more than the guess; the same passage found by a query without the answer."""
    gains = {}
    for query in ("Tolona", "Alan Brin"):
        trajectory = played(QUESTIONS[0], (search(query), [Passage("p", "Tolona", "Tolona")]))
        for baseline in ("random", "query"):
            config = InformationGainConfig(baseline=baseline)  # type: ignore[arg-type]
            measure = InformationGain(config, UnigramScorer(ELSEWHERE), make_protocol(), ELSEWHERE)
            gains[query, baseline] = measure.measure(search_steps([trajectory]))[0].value
    assert gains["Tolona", "query"] == 0 < gains["Tolona", "random"]
    assert gains["Alan Brin", "query"] > 0


@pytest.mark.parametrize("baseline", ["random", "previous", "empty", "query"])
def test_all_golden_answers_are_scored_as_the_log_of_their_summed_exponentials(baseline: str) -> None:
    def gains(question: Question, **options: str) -> list[tuple[float, float]]:
        turns = ((search("Mira Sorel"), PASSAGES[:2]), (search("botanist"), PASSAGES[1:3]))
        config = InformationGainConfig(baseline=baseline, random_source="corpus", **options)  # type: ignore[arg-type]
        measure = InformationGain(config, UnigramScorer(ELSEWHERE), make_protocol(), ELSEWHERE)
        found = measure.measure(search_steps([played(question, *turns)]))
        return [(gain.logprob_real, gain.logprob_baseline) for gain in found]

    answers = ("Tolona", "a plant collector")
    both = gains(replace(QUESTIONS[1], golden_answers=answers), golden_answers="all")
    alone = [gains(replace(QUESTIONS[1], golden_answers=(answer,))) for answer in answers]
    assert alone[0][0] != alone[1][0]
    for step in range(2):
        assert both[step][0] == pytest.approx(np.logaddexp(alone[0][step][0], alone[1][step][0]))
        if baseline in ("previous", "empty"):  # the others combine several evidences, each over all answers
            assert both[step][1] == pytest.approx(np.logaddexp(alone[0][step][1], alone[1][step][1]))
    assert gains(replace(QUESTIONS[1], golden_answers=answers)) == alone[0]
    assert gains(replace(QUESTIONS[1], golden_answers=answers[:1]), golden_answers="all") == alone[0]


def test_searches_without_passages_have_no_gain() -> None:
    trajectory = played(
        QUESTIONS[0], (search("zzz"), ()), (search("Alan"), PASSAGES[:1]), ("hm", ()), (answer("x"), ())
    )
    assert [step.index for step in search_steps([trajectory])] == [1]


def autorefined(number: int, refine: str) -> SearchStep:
    """Question `number` searched, then refined what it found and searched again."""
    turns = ((search("q"), PASSAGES[number : number + 1]), (f"<think> x </think>{refine}{search('more')}", ()))
    return SearchStep(played(QUESTIONS[number], *turns, protocol=make_protocol("autorefine")), 0)


@pytest.mark.parametrize("context", ["trajectory", "skeleton"])
def test_autorefine_swaps_passages_and_refine_together(context: str) -> None:
    steps = [autorefined(i, f"<refine> note {i} </refine>") for i in range(2)]
    (first, _), _ = measured(steps, family="autorefine", num_random=1, context=context)
    for evidence, number in zip(first.evidences, (0, 1), strict=True):
        block = make_protocol("autorefine").evidence(PASSAGES[number : number + 1])
        assert evidence.text.strip().startswith(block)
        assert evidence.text.endswith(f"<refine> note {number} </refine>")
        assert evidence.text.count("<refine>") == evidence.text.count("<documents>") == 1
    assert first.answer_prefix == ("\n<answer>" if context == "trajectory" else "\n<answer> ")


def test_autorefine_from_the_corpus_stands_in_as_long_a_note() -> None:
    requests, _ = measured([autorefined(0, "<refine> two words </refine>"), autorefined(1, "")], family="autorefine")
    for request, words in zip(requests, ("elsewhere number", None), strict=True):
        from_corpus = [evidence.text for evidence in request.evidences[1:] if "Elsewhere" in evidence.text]
        assert from_corpus
        for text in from_corpus:
            assert text.endswith(f"<refine> {words}</refine>") if words else "<refine>" not in text
