"""Rollouts: the policy plays many episodes at once, and every token is recorded as it was sampled.

A worker thread retrieves and tokenises for finished turns, beside the model's decoding of others where `step_share` is
below 1. What is done when depends on token counts alone, never on the clock, so a run repeats bit for bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from algorithms.common.model.policy import Policy
from algorithms.common.rollout.buffer import RolloutBuffer
from algorithms.common.rollout.decoder import Completion, Decoder
from algorithms.common.rollout.engines.base import EngineDecoder
from igsearch_env.episode import Episode
from igsearch_env.errors import ConfigurationError
from igsearch_env.protocols.protocol import action_span
from igsearch_env.questions import Question
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.trajectory import CONTEXT_FULL, Group, Trajectory


def collect(
    decoder: Decoder | EngineDecoder,
    engine: EpisodeStepper,
    questions: Sequence[Question],
    *,
    group_size: int,
    seed: Sequence[int],
    step_share: float = 1.0,
    first: int = 0,
) -> RolloutBuffer:
    """Play every question `group_size` times and return the groups.

    `seed` (any integers) and the place in the batch decide all draws; `first` is the place of the first question, where
    these are a part of a batch. Trajectories whose retrieval failed are left out of their group and counted.
    """
    trajectories = play(
        decoder,
        engine,
        [question for question in questions for _ in range(group_size)],
        seed=seed,
        step_share=step_share,
        first=first * group_size,
    )
    groups = []
    for number, question in enumerate(questions):
        siblings = trajectories[number * group_size : (number + 1) * group_size]
        groups.append(Group(question, [t for t in siblings if not t.retrieval_failed]))
    return RolloutBuffer([g for g in groups if g.trajectories], failed=sum(t.retrieval_failed for t in trajectories))


def play(
    decoder: Decoder | EngineDecoder,
    engine: EpisodeStepper,
    questions: Sequence[Question],
    *,
    seed: Sequence[int],
    step_share: float = 1.0,
    first: int = 0,
) -> list[Trajectory]:
    """One episode per question: the loop of prompt, generate, step, observe.

    The environment steps when this share of the live episodes have finished their turn, or none is writing. At 1 every
    step serves all of them; below, retrieval for some runs while the model writes the others. On two cores that did not
    pay in any setting tried, a search engine of 0.3 s a call included (docs/performance.md).
    """
    policy = decoder.policy
    episodes = [engine.begin(question) for question in questions]
    room = policy.context_length - decoder.max_new_tokens
    for episode in episodes:
        _encode_prompt(policy, episode.trajectory, room, decoder.max_new_tokens)
    entering = deque(enumerate(episodes))
    live: dict[int, Episode] = {}  # by slot
    written: list[tuple[int, Completion]] = []  # turns that the environment has not seen yet
    stepping: tuple[list[int], Future[None]] | None = None  # slots whose turns it is looking at
    with ThreadPoolExecutor(1) as worker:
        while live or entering:
            while entering and decoder.free:
                number, episode = entering.popleft()
                generator = np.random.default_rng([*seed, first + number])
                live[decoder.begin(episode.trajectory.prompt_ids, generator)] = episode
            decoder.prefill()
            if decoder.writing:
                written += decoder.decode_step()
            if decoder.writing and len(written) < step_share * len(live):
                continue
            if stepping is not None:
                slots, future = stepping
                future.result()
                for slot in slots:
                    trajectory = live[slot].trajectory
                    if not trajectory.done and trajectory.tokens > room:
                        trajectory.stop_reason = CONTEXT_FULL
                    if trajectory.done:
                        decoder.end(slot)
                        del live[slot]
                    else:
                        decoder.append_observation(slot, trajectory.turns[-1].observation_ids)
                stepping = None
            if written:
                slots = [slot for slot, _ in written]
                future = worker.submit(_step, policy, engine, [live[slot] for slot in slots], [c for _, c in written])
                stepping, written = (slots, future), []
    return [episode.trajectory for episode in episodes]


def _encode_prompt(policy: Policy, trajectory: Trajectory, room: int, max_new_tokens: int) -> None:
    trajectory.prompt_ids = policy.encode_prompt(trajectory.prompt)
    if len(trajectory.prompt_ids) > room:
        raise ConfigurationError(
            f"question {trajectory.question.id!r}: its prompt has {len(trajectory.prompt_ids)} tokens, more than "
            f"the {room} that a context of {policy.context_length} leaves beside {max_new_tokens} new ones; "
            "use a shorter prompt template, fewer new tokens or a policy with a longer context"
        )


def _step(
    policy: Policy, engine: EpisodeStepper, episodes: Sequence[Episode], completions: Sequence[Completion]
) -> None:
    """What the environment makes of finished turns; runs beside the model."""
    engine.step(episodes, [policy.decode(completion.ids) for completion in completions])
    for episode, completion in zip(episodes, completions, strict=True):
        _record(policy, episode.trajectory, completion)


def _record(policy: Policy, trajectory: Trajectory, completion: Completion) -> None:
    """Attach tokens to the turn that the environment has just made."""
    turn = trajectory.turns[-1]
    turn.completion_ids, turn.logprobs = completion.ids, completion.logprobs
    if turn.is_search:
        span = action_span(turn.text)
        assert span is not None  # a search has one
        content = turn.text[span[1] : span[2]]
        start = span[1] + len(content) - len(content.lstrip())
        turn.query_span = policy.token_span(completion.ids, start, span[1] + len(content.rstrip()))
        open_tag, close_tag = len("<search>"), len("</search>")
        turn.search_span = policy.token_span(completion.ids, span[1] - open_tag, span[2] + close_tag)
    if not turn.observation:
        return
    attempt_ended = bool(trajectory.attempts) and trajectory.attempts[-1].end == len(trajectory.turns)
    # A policy that closed its turn in the chat template wrote no action; what it hears of that is the user's turn.
    if attempt_ended or completion.ids[-1] == policy.turn_end:
        turn.observation_ids = policy.encode_user_turn(turn.observation, completion.ids)
    else:
        turn.observation_ids = policy.encode(turn.observation)
