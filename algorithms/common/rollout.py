"""Rollouts: the policy plays the vector environment, and every token is recorded as it was sampled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from algorithms.common.buffer import RolloutBuffer
from algorithms.common.decoding import Completion, Decoder
from algorithms.common.policy import Policy
from igsearch_env.errors import ConfigurationError
from igsearch_env.protocol import action_span
from igsearch_env.questions import Question
from igsearch_env.trajectory import CONTEXT_FULL, Group, Trajectory
from igsearch_env.vector_env import IGSearchVectorEnv


def collect(
    policy: Policy,
    env: IGSearchVectorEnv,
    questions: Sequence[Question],
    *,
    group_size: int,
    max_new_tokens: int,
    temperature: float,
    seed: Sequence[int],
) -> RolloutBuffer:
    """Play every question `group_size` times, in lockstep, and return the groups.

    `env` must have len(questions) * group_size environments and not reset itself. `seed` (any integers) and the
    place in the batch decide all draws. Temperature 0 decodes greedily. Trajectories whose retrieval failed are
    left out of their group and counted.
    """
    trajectories = play(
        policy,
        env,
        [question for question in questions for _ in range(group_size)],
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
    )
    groups = []
    for number, question in enumerate(questions):
        siblings = trajectories[number * group_size : (number + 1) * group_size]
        groups.append(Group(question, [t for t in siblings if not t.failed]))
    return RolloutBuffer([g for g in groups if g.trajectories], failed=sum(t.failed for t in trajectories))


def play(
    policy: Policy,
    env: IGSearchVectorEnv,
    questions: Sequence[Question],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: Sequence[int],
) -> list[Trajectory]:
    """One episode per question, in lockstep: the loop of prompt, generate, step, observe."""
    env.reset(options={"questions": list(questions)})
    trajectories = env.trajectories
    room = policy.context_length - max_new_tokens
    for trajectory in trajectories:
        trajectory.prompt_ids = policy.encode_prompt(trajectory.prompt)
        if len(trajectory.prompt_ids) > room:
            raise ConfigurationError(
                f"question {trajectory.question.id!r}: its prompt has {len(trajectory.prompt_ids)} tokens, more than "
                f"the {room} that a context of {policy.context_length} leaves beside {max_new_tokens} new ones; "
                "use a shorter prompt template, fewer new tokens or a policy with a longer context"
            )
    generators = [np.random.default_rng([*seed, place]) for place in range(len(trajectories))]
    decoder = Decoder(policy, max_new_tokens=max_new_tokens, temperature=temperature, generators=generators)
    decoder.start([trajectory.prompt_ids for trajectory in trajectories])
    lengths = [len(trajectory.prompt_ids) for trajectory in trajectories]
    active = list(range(len(trajectories)))
    while active:
        completions = decoder.complete()
        texts = [""] * len(trajectories)
        for i, completion in zip(active, completions, strict=True):
            texts[i] = policy.decode(completion.ids)
        env.step(texts)
        observations: list[tuple[int, ...] | None] = []
        for i, completion in zip(active, completions, strict=True):
            observation = _record(policy, trajectories[i], completion)
            lengths[i] += len(completion.ids) + len(observation)
            if not trajectories[i].done and lengths[i] > room:
                trajectories[i].stop_reason = CONTEXT_FULL
            observations.append(None if trajectories[i].done else observation)
        decoder.proceed(observations)
        active = [i for i in active if not trajectories[i].done]
    return trajectories


def _record(policy: Policy, trajectory: Trajectory, completion: Completion) -> tuple[int, ...]:
    """Attach tokens to the turn that the environment has just made; returns the observation's."""
    turn = trajectory.turns[-1]
    turn.completion_ids, turn.logprobs = completion.ids, completion.logprobs
    if turn.is_search:
        span = action_span(turn.text)
        assert span is not None  # a search has one
        content = turn.text[span[1] : span[2]]
        start = span[1] + len(content) - len(content.lstrip())
        turn.query_span = policy.token_span(completion.ids, start, span[1] + len(content.rstrip()))
    turn.observation_ids = policy.encode(turn.observation) if turn.observation else ()
    return turn.observation_ids
