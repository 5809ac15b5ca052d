"""Asynchronous rollouts play the episodes of lockstep ones, whatever finishes first, and leave nothing running."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from helpers import PASSAGES, QUESTIONS, CountingRetriever, LengthScorer, small_retriever
from hypothesis import given, settings
from hypothesis import strategies as st
from models import bundled_policy, tiny_policy, turn_end
from streaming import SlowRetriever, StreamingEngine, search_threads

from algorithms.common.distributed.processes import Processes
from algorithms.common.model.policy import Policy
from algorithms.common.rollout import asynchronous
from algorithms.common.rollout.asynchronous import SearchThreads
from algorithms.common.rollout.collect import collect, play
from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.rollout.decoder import Decoder
from algorithms.common.rollout.engine_decoder import EngineDecoder
from algorithms.common.rollout.engines import base
from algorithms.common.rollout.sampler import Sampler
from igsearch_env.errors import ConfigurationError
from igsearch_env.protocols import make_protocol
from igsearch_env.questions import Question
from igsearch_env.rules import EpisodeRules
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.trajectory import CONTEXT_FULL, Trajectory
from igsearch_env.world.bundled import bundled_retriever, bundled_world
from retrievers import HybridRetriever, Passage, RemoteRetriever, RetrievalError, Retriever

NEW = 12


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny_policy()


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not search_threads()


def stepper_of(retriever: Retriever, questions: Sequence[Question] = QUESTIONS) -> EpisodeStepper:
    return EpisodeStepper(
        questions, retriever, None, EpisodeRules(top_k=2, max_searches=3, protocol=make_protocol("search_r1", "bare"))
    )


def decoder_of(policy: Policy, engine: StreamingEngine, slots: int, *, alone: bool = True) -> EngineDecoder:
    return EngineDecoder(
        engine,
        policy,
        turn_end(policy),
        slots=slots,
        max_new_tokens=NEW,
        temperature=1.0,
        asynchronous=alone,
    )


def results(threads: SearchThreads, count: int) -> dict[int, Any]:
    """What `count` searches found, by slot."""
    found: dict[int, Any] = {}
    while len(found) < count:
        found |= threads.finished(wait=True)
    return found


def facts(trajectories: Sequence[Trajectory], *, logprobs: bool = True) -> list[Any]:
    """All that a rollout records."""
    return [
        (
            t.question.id,
            t.prompt_ids,
            t.stop_reason,
            t.prediction,
            t.outcome,
            [
                (u.completion_ids, u.observation_ids, u.passages, u.query_span, u.search_span, u.text, u.observation)
                + ((u.logprobs,) if logprobs else ())
                for u in t.turns
            ],
        )
        for t in trajectories
    ]


# ---------------------------------------------------------------- the same episodes


@given(
    st.integers(1, 12),
    st.integers(1, 13),
    st.integers(0, 10**6),
    st.integers(0, 3),
    st.integers(1, 3),
    st.sampled_from([60, 1024]),
)
@settings(max_examples=60)
def test_the_episodes_of_lockstep_in_any_order(
    episodes: int, slots: int, order: int, seed: int, calls: int, context: int
) -> None:
    policy = Policy(tiny_policy().model, tiny_policy().tokenizer.hf_tokenizer, context_length=context)
    asked = [QUESTIONS[number % len(QUESTIONS)] for number in range(episodes)]
    together, alone = StreamingEngine(policy.tokenizer, order), StreamingEngine(policy.tokenizer, order + 1)
    expected = play(
        decoder_of(policy, together, slots, alone=False), stepper_of(SlowRetriever(0.0)), asked, seed=(seed,)
    )
    decoder = decoder_of(policy, alone, slots)
    found = play(decoder, stepper_of(SlowRetriever(0.002, order, calls)), asked, seed=(seed,))
    assert facts(found) == facts(expected)
    assert decoder.free == slots
    assert alone.cancelled == 0
    # A server sees the turns of an episode under one number, each continuing the one before it.
    assert {r.episode for r in alone.asked} == set(range(episodes))
    for number, trajectory in enumerate(found):
        prompts = [request.prompt for request in alone.asked if request.episode == number]
        ids = trajectory.prompt_ids
        for prompt, turn in zip(prompts, trajectory.turns, strict=True):
            assert prompt == ids
            ids += turn.completion_ids + turn.observation_ids


def test_what_the_property_compares(policy: Policy) -> None:
    """Searches, failures, answers and full contexts all occur in it."""
    tight = Policy(policy.model, policy.tokenizer.hf_tokenizer, context_length=60)
    for one, reasons in ((policy, {"answered", "no_answer", "retrieval_failed"}), (tight, {CONTEXT_FULL})):
        decoder = decoder_of(one, StreamingEngine(one.tokenizer), 5)
        played = play(decoder, stepper_of(SlowRetriever()), QUESTIONS * 6, seed=(1,))
        assert reasons <= {t.stop_reason for t in played}
        assert sum(t.searches for t in played) > 10


@pytest.mark.parametrize("slots", [3, 8])
def test_the_built_in_decoder_plays_the_same_episodes_in_both_ways(slots: int) -> None:
    policy = bundled_policy()
    asked = bundled_world().questions["train"][:10]

    class Slow(SlowRetriever):
        def __init__(self) -> None:
            super().__init__(0.02)
            self.inner = bundled_retriever()

    played = [
        play(
            Decoder(
                policy, turn_end(policy), slots=slots, max_new_tokens=16, temperature=1.0, asynchronous=asynchronously
            ),
            stepper_of(Slow(), asked),
            asked,
            seed=(3,),
        )
        for asynchronously in (False, True)
    ]
    assert facts(played[1], logprobs=False) == facts(played[0], logprobs=False)
    assert sum(t.searches for t in played[0]) > 4
    for trajectory, other in zip(*played, strict=True):
        for turn, same in zip(trajectory.turns, other.turns, strict=True):
            np.testing.assert_allclose(turn.logprobs, same.logprobs, atol=1e-4)


def test_groups_are_the_same(policy: Policy) -> None:
    buffers = [
        collect(
            decoder_of(policy, StreamingEngine(policy.tokenizer, 8), 3, alone=alone),
            stepper_of(SlowRetriever()),
            QUESTIONS,
            group_size=3,
            seed=(7, 1),
            first=5,
        )
        for alone in (False, True)
    ]
    assert buffers[0] == buffers[1]
    assert buffers[0].failed > 0


# ---------------------------------------------------------------- nobody waits


def test_a_late_episode_holds_up_nobody(policy: Policy) -> None:
    engine = StreamingEngine(policy.tokenizer, last=0)
    play(decoder_of(policy, engine, 2), stepper_of(CountingRetriever(small_retriever())), QUESTIONS * 3, seed=(2,))
    first = engine.written.index(0)
    assert set(engine.written[:first]) == set(range(1, 12))
    assert set(engine.written[first:]) == {0}


def test_a_search_does_not_hold_up_the_turns_of_others(policy: Policy) -> None:
    """A search returns only when the engine was asked for turns since it began."""
    began, asked = threading.Event(), threading.Event()

    class Waiting(CountingRetriever):
        def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
            began.set()
            assert asked.wait(60)
            return super().search(queries, k)

    engine = StreamingEngine(policy.tokenizer, last=0, on_finished=lambda: asked.set() if began.is_set() else None)
    played = play(decoder_of(policy, engine, 4), stepper_of(Waiting(small_retriever())), QUESTIONS * 2, seed=(1,))
    assert all(t.done for t in played)
    assert asked.is_set()


def test_searches_of_a_service_overlap() -> None:
    began = threading.Event()
    both = threading.Barrier(2, timeout=60)

    def search(queries: Sequence[str]) -> list[list[Passage]]:
        began.set()
        both.wait()  # for the other call
        return [[PASSAGES[int(query)]] for query in queries]

    threads = SearchThreads(search, 2)
    threads.submit([(0, "4")])
    assert began.wait(60)
    threads.submit([(1, "6")])
    found = results(threads, 2)
    threads.close()
    assert found == {0: [PASSAGES[4]], 1: [PASSAGES[6]]}


def test_a_decoder_gathers_what_it_prefills(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = bundled_policy()
    asked = bundled_world().questions["train"][:16]
    decoder = Decoder(policy, turn_end(policy), slots=16, max_new_tokens=16, temperature=1.0, asynchronous=True)
    passes: list[tuple[int, int]] = []
    prefill = Decoder.prefill

    def watched(self: Decoder) -> None:
        passes.append((len(self._queue), self.writing))
        prefill(self)

    monkeypatch.setattr(Decoder, "prefill", watched)
    assert all(t.done for t in play(decoder, stepper_of(bundled_retriever(), asked), asked, seed=(3,)))
    assert passes[0] == (16, 0)
    # At least a quarter of the episodes that are not searching: four of 16.
    assert all(queued >= (queued + writing) // 4 for queued, writing in passes)
    assert all(queued > 0 for queued, _ in passes)


# ---------------------------------------------------------------- batches of searches


def test_queries_of_one_moment_are_one_search() -> None:
    retriever = CountingRetriever(small_retriever())
    threads = SearchThreads(lambda queries: retriever.search(queries, 2), 1)
    threads.submit([(slot, f"Karith {slot}") for slot in range(5)])
    found = threads.finished(wait=True)
    threads.close()
    assert [slot for slot, _ in found] == [0, 1, 2, 3, 4]
    assert [len(call) for call in retriever.calls] == [5]


def test_a_search_has_a_maximum_size_and_gathers_while_another_one_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asynchronous, "MAX_BATCH", 4)
    entered, gate = threading.Event(), threading.Event()
    sizes: list[int] = []

    def search(queries: Sequence[str]) -> list[list[Passage]]:
        sizes.append(len(queries))
        entered.set()
        assert gate.wait(60)
        return [[] for _ in queries]

    threads = SearchThreads(search, 1)
    threads.submit([(0, "first")])
    assert entered.wait(60)
    for slot in range(1, 8):
        threads.submit([(slot, "later")])
    gate.set()
    results(threads, 8)
    threads.close()
    assert sizes == [1, 4, 3]
    assert threads.finished(wait=False) == []


@pytest.mark.parametrize("names_failures", [True, False])
def test_a_query_that_fails_fails_its_episode_alone(policy: Policy, names_failures: bool) -> None:
    """Even if the search engine does not say which query of the call it was."""
    engine = StreamingEngine(policy.tokenizer)
    retriever = SlowRetriever(names_failures=names_failures)
    played = play(decoder_of(policy, engine, 8), stepper_of(retriever), QUESTIONS * 4, seed=(1,))
    for trajectory in played:
        failing = [turn for turn in trajectory.turns if turn.query == "fail here" and not turn.observation]
        assert trajectory.retrieval_failed == bool(failing)
        assert all(turn.completion_ids for turn in trajectory.turns)
    assert 0 < sum(t.retrieval_failed for t in played) < len(played)


def test_a_service_that_is_down_fails_every_search(policy: Policy) -> None:
    class Down(CountingRetriever):
        def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
            raise RetrievalError("away")

    decoder = decoder_of(policy, StreamingEngine(policy.tokenizer), 4)
    played = play(decoder, stepper_of(Down(small_retriever())), QUESTIONS * 3, seed=(1,))
    assert all(t.retrieval_failed == (t.searches > 0) for t in played)
    assert any(t.retrieval_failed for t in played)
    assert decoder.free == 4


# ---------------------------------------------------------------- errors


class Raising(CountingRetriever):
    """Raises an error in each search from the `after`-th on."""

    def __init__(self, error: BaseException, after: int) -> None:
        super().__init__(small_retriever())
        self.error, self.after = error, after

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.after -= 1
        if self.after < 0:
            raise self.error
        return super().search(queries, k)


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize(
    "error", [ZeroDivisionError("somebody's bug"), SystemExit("a library ends"), StopIteration("no next")], ids=repr
)
def test_any_other_error_of_a_search_ends_the_rollout(policy: Policy, error: BaseException, after: int) -> None:
    engine = StreamingEngine(policy.tokenizer, last=0)
    decoder = decoder_of(policy, engine, 4)
    expected = RuntimeError if isinstance(error, StopIteration) else type(error)
    with pytest.raises(expected, match=str(error)):
        play(decoder, stepper_of(Raising(error, after)), QUESTIONS * 3, seed=(1,))
    assert engine.cancelled == 1
    assert decoder.free == 4
    assert decoder.writing == 0
    # The engine and a decoder of it serve the next rollout.
    assert all(t.done for t in play(decoder, stepper_of(small_retriever()), QUESTIONS, seed=(1,)))


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), base.EngineError("it ran out of memory")], ids=repr)
def test_an_error_of_the_engine_ends_the_rollout(policy: Policy, error: BaseException, alone: bool) -> None:
    calls = iter(range(100))

    def fail() -> None:
        if next(calls) == 5:
            raise error

    engine = StreamingEngine(policy.tokenizer, on_finished=fail)
    decoder = decoder_of(policy, engine, 4, alone=alone)
    with pytest.raises(type(error)):
        play(decoder, stepper_of(SlowRetriever()), QUESTIONS * 3, seed=(1,))
    assert engine.cancelled == 1
    assert decoder.free == 4


def test_an_engine_that_cannot_be_cancelled_does_not_hide_the_error(policy: Policy) -> None:
    class Gone(StreamingEngine):
        def cancel(self) -> None:
            raise base.EngineError("it is gone")

    decoder = decoder_of(policy, Gone(policy.tokenizer), 4)
    with pytest.raises(ZeroDivisionError):
        play(decoder, stepper_of(Raising(ZeroDivisionError(), 0)), QUESTIONS, seed=(1,))


def test_ctrl_c_during_a_search(policy: Policy) -> None:
    class Interrupted(CountingRetriever):
        def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
            os.kill(os.getpid(), signal.SIGINT)
            return super().search(queries, k)

    engine = StreamingEngine(policy.tokenizer)
    with pytest.raises(KeyboardInterrupt):
        play(decoder_of(policy, engine, 4), stepper_of(Interrupted(small_retriever())), QUESTIONS, seed=(1,))
    assert engine.cancelled == 1


def test_a_search_that_does_not_return_does_not_hold_up_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asynchronous, "CLOSE_SECONDS", 0.01)
    gate, entered = threading.Event(), threading.Event()

    def search(queries: Sequence[str]) -> list[list[Passage]]:
        entered.set()
        assert gate.wait(60)
        return [[] for _ in queries]

    threads = SearchThreads(search, 1)
    threads.submit([(0, "x")])
    assert entered.wait(60)
    threads.close()
    (thread,) = search_threads()
    assert thread.daemon
    gate.set()
    thread.join(60)


def test_the_built_in_decoder_is_free_after_an_error() -> None:
    policy = bundled_policy()
    asked = bundled_world().questions["train"][:4]
    for asynchronously in (False, True):
        decoder = Decoder(
            policy, turn_end(policy), slots=3, max_new_tokens=16, temperature=1.0, asynchronous=asynchronously
        )
        with pytest.raises(ZeroDivisionError):
            play(decoder, stepper_of(Raising(ZeroDivisionError(), 1), asked), asked, seed=(3,))
        assert (decoder.free, decoder.writing) == (3, 0)
        fresh = Decoder(policy, turn_end(policy), slots=3, max_new_tokens=16, temperature=1.0)
        again, expected = (
            play(one, stepper_of(bundled_retriever(), asked), asked, seed=(3,)) for one in (decoder, fresh)
        )
        assert facts(again, logprobs=False) == facts(expected, logprobs=False)


def test_a_scorer_in_the_environment_is_refused(policy: Policy) -> None:
    stepper = EpisodeStepper(QUESTIONS, small_retriever(), LengthScorer(), EpisodeRules(top_k=2))
    with pytest.raises(ConfigurationError, match=r"asynchronous rollout with a scorer.*leave the scorer out"):
        play(decoder_of(policy, StreamingEngine(policy.tokenizer), 2), stepper, QUESTIONS, seed=(1,))


# ---------------------------------------------------------------- the option


@pytest.mark.parametrize(
    ("asynchronously", "streams", "expected"),
    [
        (None, None, False),
        (True, None, True),
        (False, None, False),
        (None, True, True),
        (None, False, False),
        (True, True, True),
        (False, True, False),
    ],
)
def test_the_default_is_what_the_engine_does(
    policy: Policy,
    asynchronously: bool | None,
    streams: bool | None,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sampler = Sampler(policy, RolloutConfig(asynchronous=asynchronously), ["</search>"], Processes())
    if streams is not None:
        sampler.engine = StreamingEngine(policy.tokenizer)
        monkeypatch.setattr(StreamingEngine, "streams", streams)
    assert sampler.decoder(2, 1.0).asynchronous is expected


def test_transformers_is_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match=r"asynchronous=True with rollout.engine='transformers'.*leave"):
        RolloutConfig(engine="transformers", asynchronous=True)
    RolloutConfig(engine="transformers", asynchronous=False)


def test_an_engine_that_answers_whole_calls_is_refused(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("algorithms.common.rollout.sampler.engine_class", lambda name: StreamingEngine)
    monkeypatch.setattr(StreamingEngine, "streams", False)
    sampler = Sampler(policy, RolloutConfig(engine="vllm", asynchronous=True), ["</search>"], Processes())
    with pytest.raises(ConfigurationError, match=r"asynchronous=True with rollout.engine='vllm'"):
        sampler.start()


def test_how_many_searches_a_retriever_takes_at_a_time() -> None:
    one, three = (
        small_retriever(),
        RemoteRetriever("http://a:1,http://b:1,http://c:1", passages=small_retriever().passages),
    )
    try:
        assert one.concurrency == 1
        assert three.concurrency == 12
        assert HybridRetriever([three, one]).concurrency == 1
        assert HybridRetriever([three, three]).concurrency == 12
    finally:
        three.close()
