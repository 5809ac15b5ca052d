"""What methods that credit retrieved evidence give on golden cases: one function per kind."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from golden_reader import Case

from algorithms.common.training.retrieved_evidence import new_evidence
from algorithms.cov_local import CovLocal, CovLocalConfig
from igsearch.testing.buffers import answer_turn, buffer_of, search_turn, trajectory
from igsearch_env.trajectory import ANSWERED, CONTEXT_FULL, Trajectory
from retrievers.base import Passage

Outputs = dict[str, Any]


def _searching(group: dict[str, Any], row: dict[str, Any], number: int) -> Trajectory:
    """An episode whose searches found pages; a search has its query in the middle of its own tokens."""
    turns = []
    for search in row["searches"]:
        length, whole = search["query_len"], search["tool_len"]
        turn = search_turn(range(whole + 2), (2, 2 + length))
        turn.search_span = (1, 1 + whole)
        pages = zip(search["titles"], search["texts"], strict=True)
        turn.passages = tuple(Passage(title, title, text) for title, text in pages)
        turns.append(turn)
    played = trajectory([*turns, answer_turn((5, 6))], row["reward"], number)
    played.stop_reason = CONTEXT_FULL if row["truncated"] else ANSWERED
    titles = {"supporting_titles": group["evidence"]}
    played.question = replace(played.question, golden_answers=(group["answer"],), metadata=titles)
    return played


def retrieval_credit(case: Case) -> Outputs:
    """Cov-local, AM-local and their scalar forms on episodes that found named pages."""
    groups = case.get("groups")
    buffer = buffer_of([[_searching(g, row, n) for row in g["rollouts"]] for n, g in enumerate(groups)])
    signal, counts = case.get("signal"), np.cumsum([len(group["rollouts"]) for group in groups])[:-1]

    def advantages(credit: Any) -> Any:
        local_weight, alpha = case.get("lambda"), case.get("alpha")
        own = {"local_weight": local_weight} if credit == "local" else {"alpha": alpha}
        config = CovLocalConfig(signal=signal, credit=credit, **own)
        return CovLocal(config).advantages(buffer)

    def by_group(values: list[Any]) -> list[list[Any]]:
        ends = [0, *counts.tolist(), len(values)]
        return [values[a:b] for a, b in pairwise(ends)]

    local = advantages("local")
    elsewhere = np.ones(len(local), dtype=bool)
    queries: list[list[float]] = [[] for _ in buffer.trajectories]
    for row, _, tokens in buffer.query_tokens():
        elsewhere[tokens] = False
        if np.ptp(local[tokens]) != 0:
            raise AssertionError(f"the query's tokens have different advantages: {local[tokens]}")
        queries[row].append(local[tokens.start].item())
    outcome = local[buffer.first_token]  # of the tag before a query, or of an answer
    if not np.array_equal(local[elsewhere], buffer.broadcast(outcome)[elsewhere]):
        raise AssertionError("a token outside the queries does not keep the advantage of the outcome")
    return {
        "events": by_group([[event for _, event in new_evidence(t, signal)] for t in buffer.trajectories]),
        "outcome_advantage": by_group(outcome.tolist()),
        "query_advantage": by_group(queries),
        "scalar_advantage": by_group(advantages("scalar")[buffer.first_token].tolist()),
    }
