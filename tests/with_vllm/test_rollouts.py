"""Rollouts with a real vLLM: turns, seeds, log-probs, ten updates with a tied output layer, and failures."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from models import bundled_policy
from real_vllm import (
    BUNDLED,
    EXACT,
    STOPS,
    all_of,
    apart,
    counter,
    engine_of,
    episodes,
    idle,
    rollout_server,
    sampler_of,
    turns_of,
    update,
)
from vllm_exchanges import CHAT_TEMPLATE, NAME, compare_with_recording

from algorithms.common.model.policy import Policy
from algorithms.common.rollout.engines.base import EngineError, TurnRequest
from algorithms.common.rollout.probe import difference
from algorithms.common.rollout.sampler import Sampler
from benchmarks.endpoint_scorer import FORMS, Args, compare
from benchmarks.vllm_environment import RunningServer

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]
AT_ONCE = 8  # turns that the server writes at once


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    options = ("--max-num-seqs", str(AT_ONCE), "--served-model-name", NAME, "--chat-template", CHAT_TEMPLATE)
    with rollout_server(BUNDLED, *options) as running:
        yield running


@pytest.fixture
def policy() -> Policy:
    return bundled_policy()


@pytest.fixture
def sampler(server: RunningServer, policy: Policy) -> Iterator[Sampler]:
    with ExitStack() as stack:
        yield sampler_of(policy, stack, server)


@pytest.mark.parametrize("name", ["rollouts", "scoring", "chat"])
def test_it_answers_as_recorded(server: RunningServer, name: str) -> None:
    compare_with_recording(name, server.address, {"MODEL": BUNDLED})


def test_scores_of_information_gain_are_those_of_the_policy(server: RunningServer) -> None:
    args = Args(questions=2)
    policy = bundled_policy(context_length=args.context_length)
    results = list(compare(policy, "bundled", server.address, args))
    assert len(results) == 2 * len(FORMS)
    assert max(result.difference for result in results) < args.tolerance


def some_prompts(policy: Policy, count: int) -> list[tuple[int, ...]]:
    return [tuple(policy.tokenizer.encode(f"Where was the author of work number {n} born?\n")) for n in range(count)]


def long_requests(policy: Policy, count: int) -> list[TurnRequest]:
    """Turns of up to 800 tokens, at a temperature at which a turn hardly ever ends by itself."""
    return [TurnRequest(key, (7,) * 200, key, 800, 2.0, key) for key in range(count)]


def test_episodes_search_and_answer_with_the_log_probs_of_the_policy(sampler: Sampler, policy: Policy) -> None:
    played = episodes(sampler, 6)
    assert len(played) == 12
    assert all(trajectory.done for trajectory in played)
    assert sum(turn.is_search for trajectory in played for turn in trajectory.turns) >= 6
    assert apart(policy, played) < EXACT


def test_a_turn_ends_with_its_tag(sampler: Sampler, policy: Policy) -> None:
    turns = [turn for trajectory in episodes(sampler, 6) for turn in trajectory.turns]
    texts = [policy.tokenizer.decode(turn.completion_ids) for turn in turns]
    ended = [text for text in texts if text.endswith(STOPS)]
    assert len(ended) >= 8
    for turn, text in zip(turns, texts, strict=True):
        assert sum(text.count(stop) for stop in STOPS) <= 1
        assert text.endswith(STOPS) or sampler.turn_end.is_over(turn.completion_ids) or len(turn.completion_ids) == 32


def test_a_seed_gives_the_same_turn_whatever_runs_beside_it(sampler: Sampler, policy: Policy) -> None:
    prompts = some_prompts(policy, 6)
    alone = [turns_of(sampler, prompts[:1])[0], turns_of(sampler, prompts[:2])[1]]
    together = turns_of(sampler, prompts)
    assert [turn.ids for turn in alone] == [turn.ids for turn in together[:2]]
    others = [turns_of(sampler, prompts, seed)[place].ids for seed in (1, 2) for place in range(6)]
    assert len({turn.ids for turn in together} | set(others)) > 9


def test_ten_updates_arrive_with_the_tied_output_layer(sampler: Sampler, policy: Policy) -> None:
    assert sampler.engine is not None
    before = difference(sampler.engine, policy, sampler.turn_end)
    for _ in range(10):
        update(policy, 1, lr=1e-3)
        sampler.sync_weights()
    after = difference(sampler.engine, policy, sampler.turn_end)
    print(f"bundled, tied: at most {before.most:.1e} before, {after.most:.1e} after ten updates")
    assert max(before.most, after.most) < EXACT
    assert difference(sampler.engine, bundled_policy(), sampler.turn_end).mean > 0.05  # they matter
    assert apart(policy, episodes(sampler, 3)) < EXACT


def test_the_prefix_cache_is_used_and_dropped_by_an_update(
    sampler: Sampler, policy: Policy, server: RunningServer
) -> None:
    prompt = (some_prompts(policy, 1)[0] * 40)[:320]
    turns_of(sampler, [prompt])
    before = counter(server, "prefix_cache_hits_total")
    turns_of(sampler, [prompt])
    assert counter(server, "prefix_cache_hits_total") >= before + 288  # whole blocks of 32
    update(policy, 1, lr=1e-3)
    sampler.sync_weights()
    hits = counter(server, "prefix_cache_hits_total")
    turns_of(sampler, [prompt])
    assert counter(server, "prefix_cache_hits_total") == hits


def test_more_requests_than_it_serves_at_once_wait(sampler: Sampler, policy: Policy) -> None:
    prompts = some_prompts(policy, 5 * AT_ONCE)
    turns = turns_of(sampler, prompts)
    assert len(turns) == len(prompts)
    assert turns_of(sampler, prompts[:1])[0].ids == turns[0].ids


def test_short_turns_do_not_wait_for_a_long_one(sampler: Sampler, policy: Policy) -> None:
    engine = engine_of(sampler)
    (long,) = long_requests(policy, 1)
    short = [TurnRequest(key, prompt, key, 4, 1.0, key) for key, prompt in enumerate(some_prompts(policy, 3), start=1)]
    engine.submit([long, *short])
    finished: list[int] = []
    while len(finished) < 3:
        finished += [key for key, _ in engine.finished(60)]
    assert 0 not in finished
    engine.cancel()
    assert engine.finished(0) == []


def test_cancelled_requests_are_aborted(sampler: Sampler, policy: Policy, server: RunningServer) -> None:
    engine = engine_of(sampler)
    engine.submit(long_requests(policy, 3 * AT_ONCE))
    ends = time.monotonic() + 60
    while counter(server, "num_requests_running") == 0:
        assert time.monotonic() < ends
    engine.cancel()
    assert idle(server)
    sampler.sync_weights()  # no block is held any more
    assert apart(policy, episodes(sampler, 1)) < EXACT


def test_a_turn_that_takes_too_long_is_an_error_and_nothing_stays_in_flight(
    sampler: Sampler, policy: Policy, server: RunningServer
) -> None:
    engine = engine_of(sampler)
    engine.seconds = 0.05
    try:
        engine.submit(long_requests(policy, AT_ONCE))
        late = rf"{server.address}' did not answer POST /v1/completions within 0.05 s.*check that it runs, its address"
        with pytest.raises(EngineError, match=late):
            all_of(engine)
        assert engine.finished(0) == []
        assert idle(server)
    finally:
        engine.seconds = 600.0
    assert len(turns_of(sampler, some_prompts(policy, 2))) == 2


def test_a_request_that_is_refused_says_why(sampler: Sampler, policy: Policy, server: RunningServer) -> None:
    engine = engine_of(sampler)
    ordinary, *_ = long_requests(policy, 1)
    engine.submit([ordinary, TurnRequest(1, (7,) * 2000, 1, 4, 1.0, 1)])
    with pytest.raises(EngineError, match=r"status 400.*maximum context length"):
        all_of(engine)
    assert idle(server)


def test_weights_that_it_cannot_read_end_it(sampler: Sampler, server: RunningServer) -> None:  # the last one here
    compare_with_recording("broken", server.address, {})
    engine = engine_of(sampler)
    (one,) = engine.servers
    with pytest.raises(EngineError, match=rf"{server.address}'.*can read /elsewhere/weights.*; restart the server"):
        engine._loop.run(one.load_weights(Path("/elsewhere/weights"), 60.0))
    with pytest.raises(EngineError, match=rf"rollout.server_url='{server.address}'"):
        difference(engine, sampler.policy, sampler.turn_end)
