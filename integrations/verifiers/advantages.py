"""Per-token advantages of this project's algorithms on traces of verifiers, in the layout that prime-rl trains on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import verifiers.v1 as vf

from algorithms.common.algorithm import Algorithm
from algorithms.common.model.tokenizer import PolicyTokenizer
from igsearch_env.errors import ConfigurationError
from igsearch_env.protocols import make_protocol
from igsearch_env.trajectory import Trajectory
from integrations.credit import TurnTokens, load_episode, record_tokens, token_advantages
from integrations.verifiers.names import EPISODE


def episode_of(trace: vf.Trace) -> Trajectory:
    """The episode of a trace. Raises `ConfigurationError` for a trace of another environment."""
    if EPISODE not in trace.info:
        raise ConfigurationError(
            f"trace {trace.id}: it has no {EPISODE!r} in its info; play it with the environment 'igsearch-verifiers'"
        )
    return load_episode(trace.info[EPISODE], f"trace {trace.id}")


def assign_advantages(
    episodes: Sequence[vf.Episode], algorithm: str | Algorithm, tokenizer: Any, protocol: str = "search_r1"
) -> None:
    """Set `advantages` of every node of the traces that the policy wrote: one value per sampled token.

    This is what `score_group` of an algorithm in prime-rl has to do (its own `assign_advantages` takes the same values
    for one trace). Traces with an error, of seats that are not trained, or without tokens are left out.

    Args:
        episodes: of one or several questions, with the tokens that verifiers' train client records; siblings are those
            of the same question.
        algorithm: a name of `algorithms/comparison/registry.py`, or an `Algorithm`.
        tokenizer: that of the model, from `transformers`.
        protocol: that of the episodes.

    Raises `ConfigurationError` for traces whose tokens do not match their episode.
    """
    traces = list(_trainable(episodes))
    reader, rules = PolicyTokenizer(tokenizer), make_protocol(protocol)
    trajectories = []
    for trace in traces:
        trajectory = episode_of(trace)
        turns = [TurnTokens(_sampled(node), node.logprobs) for node in _nodes(trace)]
        record_tokens(trajectory, reader, rules, turns)
        trajectories.append(trajectory)
    for trace, values in zip(traces, token_advantages(algorithm, trajectories) if traces else [], strict=True):
        start = 0
        for node in _nodes(trace):
            count = sum(node.mask)
            node.advantages = values[start : start + count]
            start += count


def _trainable(episodes: Sequence[vf.Episode]) -> Iterator[vf.Trace]:
    """As prime-rl selects them."""
    for episode in episodes:
        for trace in episode.traces:
            if trace.ok and trace.agent.trainable and any(any(node.mask) for node in trace.nodes):
                yield trace


def _nodes(trace: vf.Trace) -> list[Any]:
    return [node for node in trace.nodes if any(node.mask)]


def _sampled(node: Any) -> list[int]:
    return [token for token, sampled in zip(node.token_ids, node.mask, strict=True) if sampled]
