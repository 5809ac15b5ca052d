"""Cached decoding across turns gives what reading everything again at every token gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models import ARCHITECTURES, tiny_policy

from algorithms.common.decoding import Decoder
from algorithms.common.policy import Policy

PROMPTS = ["Where was Zose Drartov born?\n", "Who wrote it?\n", "In which country was the author of it born?\n"]
OBSERVATIONS = [
    "\n\n<information>Doc 1(Title: x) y</information>\n\n",
    "\n\nno\n\n",
    "\n\n<information></information>\n\n",
]
NEW = 9


def reread(
    policy: Policy, prompt: tuple[int, ...], observation: tuple[int, ...], turns: int, draws: np.random.Generator | None
) -> list[tuple[tuple[int, ...], list[float]]]:
    """The plain loop: every token from a full forward pass over everything before it."""
    context, written = list(prompt), []
    for _ in range(turns):
        ids: list[int] = []
        logps: list[float] = []
        while len(ids) < NEW and not (ids and policy.ends_turn(ids)):
            logits = policy.model(input_ids=torch.tensor([context + ids])).logits[0, -1].float()
            distribution = torch.log_softmax(logits, -1)
            if draws is None:
                token = int(logits.argmax())
            else:
                cumulative = distribution.double().exp().cumsum(-1)
                token = int(torch.searchsorted(cumulative, draws.random() * cumulative[-1], right=True))
            ids.append(token)
            logps.append(float(distribution[token]))
        written.append((tuple(ids), logps))
        context += [*ids, *observation]
    return written


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@torch.no_grad()
def test_equals_rereading_across_turns(architecture: str, temperature: float) -> None:
    policy = tiny_policy(architecture)
    generators = [np.random.default_rng(i) for i in range(3)]
    decoder = Decoder(policy, max_new_tokens=NEW, temperature=temperature, generators=generators)
    prompts = [policy.encode(p) for p in PROMPTS]
    observations = [policy.encode(o) for o in OBSERVATIONS]
    decoder.start(prompts)
    first = decoder.complete()
    decoder.proceed([observations[0], None, observations[2]])  # the middle row is finished
    second = decoder.complete()
    for row, turns in ((0, 2), (1, 1), (2, 2)):
        draws = np.random.default_rng(row) if temperature else None
        expected = reread(policy, prompts[row], observations[row], turns, draws)
        got = [first[row]] if row == 1 else [first[row], second[0 if row == 0 else 1]]
        for completion, (ids, logps) in zip(got, expected, strict=True):
            assert completion.ids == ids
            np.testing.assert_allclose(completion.logprobs, logps, atol=1e-4)


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    policy = tiny_policy()
    prompts = [policy.encode(p) for p in PROMPTS]

    def run(rows: list[int]) -> dict[int, tuple[int, ...]]:
        generators = [np.random.default_rng(row) for row in rows]
        decoder = Decoder(policy, max_new_tokens=NEW, temperature=1.0, generators=generators)
        decoder.start([prompts[row] for row in rows])
        return dict(zip(rows, (c.ids for c in decoder.complete()), strict=True))

    together, apart = run([0, 1, 2]), {**run([2]), **run([1]), **run([0])}
    assert together == apart


def test_a_turn_ends_at_the_first_action_tag_or_the_limit() -> None:
    policy = tiny_policy()
    search = policy.encode("<search> x</search>")
    assert [policy.ends_turn(search[: i + 1]) for i in range(len(search))] == [False] * (len(search) - 1) + [True]
    assert policy.ends_turn([*policy.encode("no tag"), policy.tokenizer.eos_token_id])
    assert not policy.ends_turn(policy.encode("<search>"))


@pytest.mark.parametrize("query", ["x", "who is Ada", "naïve café", "日本 the 1990s", "👩‍🚀 in orbit", "a  b"])
def test_the_query_span_holds_exactly_the_query(query: str) -> None:
    policy = tiny_policy()
    text = f"so <search> {query} </search>"
    ids = policy.encode(text)
    start = text.index(query)
    low, high = policy.token_span(ids, start, start + len(query))
    assert query in policy.decode(ids[low:high])
    assert len(policy.decode(ids[low:high]).strip()) == len(query)
    assert policy.token_span(ids, 5, 5) == (0, 0)
