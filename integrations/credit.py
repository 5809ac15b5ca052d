"""Per-token credit outside this project's trainer: episodes with the tokens of another sampler, and their advantages.

Algorithms require torch: pip install 'igsearch[train]'. `integrations.records` works without it.

episode played by an adapter ── record_tokens ── dump_episode ──> travels with the rollout as a string
load_episode ── token_advantages(algorithm, episodes, groups) ──> one advantage per token that the policy wrote
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from algorithms.common.algorithm import Algorithm
from algorithms.common.model.tokenizer import PolicyTokenizer
from algorithms.common.rollout.buffer import RolloutBuffer
from algorithms.common.rollout.collect import record_completion
from algorithms.comparison.registry import ALGORITHMS
from igsearch_env.errors import ConfigurationError, check_choice
from igsearch_env.protocols import Protocol
from igsearch_env.trajectory import Group, Trajectory, Turn
from integrations.records import dump_episode, load_episode

__all__ = [
    "TurnTokens",
    "dump_episode",
    "find_algorithm",
    "load_episode",
    "record_tokens",
    "token_advantages",
]


@dataclass(frozen=True)
class TurnTokens:
    """Tokens of one turn as another sampler recorded them."""

    completion_ids: Sequence[int]
    """What the policy wrote."""
    logprobs: Sequence[float] = ()
    """Log-prob of each of these ids, in nats; empty if unknown (then 0, which only PPO-like estimators would read)."""


def find_algorithm(algorithm: str | Algorithm) -> Algorithm:
    """An algorithm by its name, with the options of its paper, or the algorithm itself.

    Raises `ConfigurationError` for an unknown name, or an algorithm with a critic or a reference policy: their values
    belong to this project's trainer.
    """
    if isinstance(algorithm, str):
        check_choice("algorithm", algorithm, ALGORITHMS)
        algorithm = ALGORITHMS[algorithm].algorithm
    if algorithm.critic is not None or algorithm.needs_reference:
        raise ConfigurationError(
            f"algorithm={algorithm.name!r}: it needs a critic or a reference policy, which only this project's trainer "
            "computes; use one without, such as 'ig_grpo'"
        )
    return algorithm


def record_tokens(
    trajectory: Trajectory,
    tokenizer: PolicyTokenizer,
    protocol: Protocol,
    turns: Sequence[TurnTokens],
    prompt_ids: Sequence[int] = (),
) -> None:
    """Attach the tokens of another sampler to a finished episode, and the position of each query in them.

    Raises `ConfigurationError` if the numbers of turns differ, or tokens do not contain the text of a search.
    """
    if len(turns) != len(trajectory.turns):
        raise ConfigurationError(
            f"question {trajectory.question.id!r}: tokens of {len(turns)} turns for an episode of "
            f"{len(trajectory.turns)}; give one TurnTokens for each turn"
        )
    trajectory.prompt_ids = tuple(prompt_ids)
    for turn, tokens in zip(trajectory.turns, turns, strict=True):
        ids = tuple(map(int, tokens.completion_ids))
        logprobs = tuple(map(float, tokens.logprobs)) or (0.0,) * len(ids)
        record_completion(tokenizer, protocol, turn, ids, logprobs, _before(tokenizer, turn, ids))


def _before(tokenizer: PolicyTokenizer, turn: Turn, ids: tuple[int, ...]) -> int:
    """Where the text of a turn begins in its decoded tokens: an endpoint may have removed reasoning before it."""
    written = tokenizer.continued_text(ids)
    before = written.rfind(turn.text)
    if before < 0 and turn.text.strip():
        before = written.rfind(turn.text.strip()) - turn.text.index(turn.text.strip()[0])
    if before < 0 and turn.is_search:
        raise ConfigurationError(
            f"the tokens of a turn are {written[:80]!r}, its text is {turn.text[:80]!r}, which they do not contain; "
            "pass the tokenizer of the model that wrote it"
        )
    return max(before, 0)


def token_advantages(
    algorithm: str | Algorithm, trajectories: Sequence[Trajectory], groups: Sequence[Hashable] | None = None
) -> list[list[float]]:
    """Advantages of an algorithm of this project, for episodes with tokens.

    Args:
        algorithm: a name of `algorithms/comparison/registry.py`, or an `Algorithm`.
        trajectories: with the tokens that `record_tokens` attached.
        groups: for each trajectory a key of the group that it is compared with; default: its question.

    Returns:
        For each trajectory one advantage per token that the policy wrote, turn by turn. Those of an episode whose
        retrieval failed are 0, and it does not count in the statistics of its group.

    Raises `ConfigurationError` for an algorithm that can't be used, `RolloutBufferError` for episodes without tokens,
    or without information gains that the algorithm needs.
    """
    chosen = find_algorithm(algorithm)
    keys: Sequence[Hashable] = (
        groups if groups is not None else [(t.question.dataset, t.question.id) for t in trajectories]
    )
    if len(keys) != len(trajectories):
        raise ConfigurationError(f"{len(keys)} groups for {len(trajectories)} trajectories: give one for each")
    by_key: dict[Hashable, Group] = {}
    members: dict[Hashable, list[int]] = {}
    result: list[list[float]] = [[0.0] * sum(len(turn.completion_ids) for turn in t.turns) for t in trajectories]
    for number, (key, trajectory) in enumerate(zip(keys, trajectories, strict=True)):
        group = by_key.setdefault(key, Group(trajectory.question, []))
        if trajectory.retrieval_failed:
            group.failed += 1
        else:
            group.trajectories.append(trajectory)
            members.setdefault(key, []).append(number)
    buffer = RolloutBuffer([by_key[key] for key in members], sum(group.failed for group in by_key.values()))
    if not members:
        return result
    buffer.check_trainable()
    values = chosen.advantages(buffer).tolist()
    order = [number for numbers in members.values() for number in numbers]
    for number, first, count in zip(order, buffer.first_token.tolist(), buffer.policy_tokens.tolist(), strict=True):
        result[number] = values[first : first + count]
    return result
