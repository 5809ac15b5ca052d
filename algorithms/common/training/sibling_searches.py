"""Searches compared within a group: the n-th search of an episode with the n-th searches of its siblings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter

from algorithms.common.rollout.buffer import Float32s, RolloutBuffer
from algorithms.common.rollout.sequences import QueryTokens
from algorithms.common.training.advantages import standardised
from igsearch_env.trajectory import CONTEXT_FULL, Turn


def sibling_searches(buffer: RolloutBuffer, searches: Sequence[QueryTokens]) -> list[int]:
    """A number for each search, equal for those at the same place among the searches of episodes of one group."""
    is_search = attrgetter("is_search")
    place = {id(turn): n for t in buffer.trajectories for n, turn in enumerate(filter(is_search, t.turns))}
    return [place[id(turn)] * len(buffer.groups) + int(buffer.group_index[row]) for row, turn, _ in searches]


def local_credit(buffer: RolloutBuffer, evidence: Iterable[tuple[Turn, float]]) -> Float32s:
    """The credit L_t l_t / |Q_t| on the query tokens of each search t, 0 elsewhere (arXiv 2610.10179, Eq. 5 and 6).

        l_t = z(z(e_t)),  z(v)_i = (v_i - mean) / (std + 1e-6)  over the group's t-th searches, std with n - 1

    Q_t are the query tokens and L_t is the number of tokens of the whole search, with tags. Episodes that the context
    cut short are left out.

    Args:
        buffer: episodes of groups.
        evidence: e_t of every search of the buffer.

    Returns:
        One number per token, in the shape of `buffer.broadcast`.
    """
    found = {id(turn): event for turn, event in evidence}
    searches = [s for s in buffer.query_tokens() if buffer.trajectories[s.row].stop_reason != CONTEXT_FULL]
    same_step = sibling_searches(buffer, searches)
    local = standardised(standardised([found[id(s.turn)] for s in searches], same_step), same_step)
    tokens_credit = buffer.broadcast([0.0] * len(buffer.trajectories))
    for (_, turn, tokens), credit in zip(searches, local, strict=True):
        query = tokens.stop - tokens.start
        start, end = turn.search_span or (0, query)
        tokens_credit[tokens] += (end - start) * credit / query
    return tokens_credit
