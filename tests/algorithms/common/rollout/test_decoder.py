"""Cached decoding of many episodes gives what reading everything again at every token gives, whoever the neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import chain

import numpy as np
import pytest
import torch
from helpers import small_retriever
from hypothesis import given
from hypothesis import strategies as st
from models import ARCHITECTURES, WINDOWED, bundled_policy, tiny_policy, turn_end

from algorithms.common.model.config import PolicyConfig
from algorithms.common.model.packing import Block, pack
from algorithms.common.model.policy import Policy
from algorithms.common.rollout.collect import collect, play, play_each
from algorithms.common.rollout.decoder import BLOCK, Decoder, inverse_cdf
from algorithms.common.rollout.turn_decoder import Completion
from igsearch_env.protocols import make_protocol
from igsearch_env.questions import Question
from igsearch_env.rules import EpisodeRules
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.trajectory import CONTEXT_FULL, RETRIEVAL_FAILED, Trajectory
from igsearch_env.world.bundled import bundled_retriever, bundled_world
from retrievers import Passage, RetrievalError, Retriever

PROMPTS = ["Where was Zose Drartov born?\n", "Who wrote it?\n", "In which country was the author of it born?\n"]
OBSERVATIONS = [
    "\n\n<information>Doc 1(Title: x) y</information>\n\n",
    "\n\nno\n\n",
    "\n\n<information></information>\n\n",
]
NEW = 9
Ids = tuple[int, ...]


def reread(
    policy: Policy, prompt: Ids, observation: Ids, turns: int, temperature: float, draws: np.random.Generator
) -> list[tuple[Ids, list[float]]]:
    """The plain loop: every token from a full forward pass over everything before it."""
    context, written = list(prompt), []
    for _ in range(turns):
        ids: list[int] = []
        logps: list[float] = []
        while len(ids) < NEW and not (ids and turn_end(policy).is_over(ids)):
            logits = policy.model(input_ids=torch.tensor([context + ids])).logits[0, -1].float()
            distribution = torch.log_softmax(logits / (temperature or 1.0), -1)
            if temperature == 0:
                token = int(logits.argmax())
            else:
                blocks = distribution.double().exp().split(BLOCK)
                block = located(torch.stack([weights.sum() for weights in blocks]), draws.random())
                token = block * BLOCK + located(blocks[block], draws.random())
            ids.append(token)
            logps.append(float(distribution[token]))
        written.append((tuple(ids), logps))
        context += [*ids, *observation]
    return written


def located(weights: torch.Tensor, draw: float) -> int:
    """Where a draw lies in a CDF."""
    sums = weights.cumsum(-1)
    return int(torch.searchsorted(sums, draw * sums[-1], right=True))


def complete(decoder: Decoder) -> dict[int, Completion]:
    """What is queued is read, and every turn written to its end; by slot."""
    decoder.prefill()
    finished: dict[int, Completion] = {}
    while decoder.writing:
        finished.update(decoder.decode_step())
    return finished


def decoder_of(policy: Policy, temperature: float = 1.0, **options: int) -> Decoder:
    """A decoder of short turns."""
    return Decoder(policy, turn_end(policy), **{"slots": 4, "max_new_tokens": NEW, **options}, temperature=temperature)


# ---------------------------------------------------------------- equal to reading again


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *WINDOWED])
@pytest.mark.parametrize("temperature", [0.0, 1.0, 0.6])
@torch.no_grad()
def test_equals_rereading_across_turns(architecture: str, temperature: float) -> None:
    policy = tiny_policy(architecture)
    decoder = decoder_of(policy, temperature)
    prompts = [policy.tokenizer.encode(p) for p in PROMPTS]
    observations = [policy.tokenizer.encode(o) for o in OBSERVATIONS]
    slots = [decoder.begin(prompt, np.random.default_rng(row)) for row, prompt in enumerate(prompts)]
    first = complete(decoder)
    decoder.append_observation(slots[0], observations[0])
    decoder.end(slots[1])  # the middle row is finished
    decoder.append_observation(slots[2], observations[2])
    second = complete(decoder)
    assert set(second) == {slots[0], slots[2]}
    for row, turns in ((0, 2), (1, 1), (2, 2)):
        expected = reread(policy, prompts[row], observations[row], turns, temperature, np.random.default_rng(row))
        got = [first[slots[row]], second.get(slots[row])][:turns]
        for completion, (ids, logps) in zip(got, expected, strict=True):
            assert completion is not None
            assert completion.ids == ids
            np.testing.assert_allclose(completion.logprobs, logps, atol=1e-4)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *WINDOWED, "bundled"])
def test_greedy_turns_are_what_transformers_generates(architecture: str) -> None:
    policy = bundled_policy() if architecture == "bundled" else tiny_policy(architecture)
    decoder = decoder_of(policy, temperature=0.0)
    for prompt, observation in zip(PROMPTS, OBSERVATIONS, strict=True):
        context = policy.tokenizer.encode(prompt)
        slot = decoder.begin(context)
        for turn in range(2):
            if turn:
                decoder.append_observation(slot, policy.tokenizer.encode(observation))
            ids = complete(decoder)[slot].ids
            made = policy.model.generate(
                torch.tensor([context]),
                attention_mask=torch.ones(1, len(context), dtype=torch.long),
                max_new_tokens=NEW,
                do_sample=False,
            )
            expected: list[int] = made[0, len(context) :].tolist()
            end = next((i for i in range(1, NEW) if turn_end(policy).is_over(expected[:i])), NEW)
            assert ids == tuple(expected[:end])
            context += ids + policy.tokenizer.encode(observation)
        decoder.end(slot)


# ---------------------------------------------------------------- independence


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    policy = tiny_policy()
    prompts = [policy.tokenizer.encode(p) for p in PROMPTS]

    def run(rows: list[int]) -> dict[int, Ids]:
        decoder = decoder_of(policy)
        slots = {decoder.begin(prompts[row], np.random.default_rng(row)): row for row in rows}
        return {slots[slot]: completion.ids for slot, completion in complete(decoder).items()}

    together, apart = run([0, 1, 2]), {**run([2]), **run([1]), **run([0])}
    assert together == apart


def test_episodes_that_enter_and_leave_in_the_middle_of_turns_do_not_disturb_the_others() -> None:
    policy = tiny_policy()
    prompts = [policy.tokenizer.encode(p) for p in (*PROMPTS, "x", "Who wrote what the author of it wrote?\n")]

    def turns_alone(row: int) -> list[Ids]:
        decoder = decoder_of(policy)
        slot = decoder.begin(prompts[row], np.random.default_rng(row))
        first = complete(decoder)[slot].ids
        decoder.append_observation(slot, prompts[0])
        return [first, complete(decoder)[slot].ids]

    decoder = decoder_of(policy, slots=2)
    entering = list(range(len(prompts)))
    rows: dict[int, int] = {}
    turns: dict[int, list[Ids]] = {row: [] for row in entering}
    step = 0
    while entering or rows:
        if entering and decoder.free and step % 3 == 0:  # at odd times
            row = entering.pop(0)
            rows[decoder.begin(prompts[row], np.random.default_rng(row))] = row
        decoder.prefill()
        step += 1
        for slot, completion in decoder.decode_step() if decoder.writing else []:
            turns[rows[slot]].append(completion.ids)
            if len(turns[rows[slot]]) == 2:
                decoder.end(slot)
                del rows[slot]
            else:
                decoder.append_observation(slot, prompts[0])
    assert turns == {row: turns_alone(row) for row in range(len(prompts))}


@pytest.mark.parametrize("token_budget", [1, 20, 10_000])
def test_the_token_budget_bounds_passes_of_reading_and_changes_no_token(
    token_budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tiny_policy()
    plain = decoder_of(policy)
    decoder = decoder_of(policy, pass_tokens=token_budget)
    for row, prompt in enumerate(PROMPTS):
        for one in (plain, decoder):
            one.begin(policy.tokenizer.encode(prompt), np.random.default_rng(row))
    expected = complete(plain)
    sizes, read = list[tuple[int, int]](), policy.forward_packed
    monkeypatch.setattr(policy, "forward_packed", lambda p: sizes.append((len(p.ids_n), len(p.first))) or read(p))
    decoder.prefill()
    assert all(tokens <= token_budget or blocks == 1 for tokens, blocks in sizes)
    got = complete(decoder)
    assert {slot: c.ids for slot, c in got.items()} == {slot: c.ids for slot, c in expected.items()}


# ---------------------------------------------------------------- memory


def test_cache_tokens_bound_the_slots() -> None:
    policy = tiny_policy(context_length=100)
    assert decoder_of(policy, slots=8, kv_cache_tokens=399).free == 3
    assert decoder_of(policy, slots=2, kv_cache_tokens=399).free == 2
    assert decoder_of(policy, slots=8, kv_cache_tokens=1).free == 1  # or nothing could be played


def test_free_counts_slots_that_can_be_taken() -> None:
    policy = tiny_policy()
    decoder = decoder_of(policy, slots=2)
    first = decoder.begin((5, 6))
    decoder.begin((7,))
    assert decoder.free == 0
    decoder.end(first)
    assert decoder.free == 1
    assert decoder.begin((8,)) == first


def test_an_episode_that_outgrows_its_rows_moves_and_changes_no_result() -> None:
    policy = tiny_policy()
    short, long = policy.tokenizer.encode(PROMPTS[0]), policy.tokenizer.encode(PROMPTS[2] * 20)

    def two_turns(decoder: Decoder, slot: int) -> list[Completion]:
        first = complete(decoder)[slot]
        decoder.append_observation(slot, long)
        return [first, complete(decoder)[slot]]

    alone = decoder_of(policy)
    expected = two_turns(alone, alone.begin(short, np.random.default_rng(0)))
    decoder = decoder_of(policy)
    slots = [decoder.begin(short, np.random.default_rng(row)) for row in range(3)]
    got = two_turns(decoder, slots[0])
    assert decoder.space.live[slots[0]].start > decoder.space.live[slots[2]].start
    assert len(long) + NEW < decoder.store.rows < 4 * policy.context_length
    for completion, same in zip(got, expected, strict=True):
        assert completion.ids == same.ids
        np.testing.assert_allclose(completion.logprobs, same.logprobs, atol=1e-5)


# ---------------------------------------------------------------- turns


def test_a_turn_ends_at_the_first_action_tag_or_the_limit() -> None:
    policy = tiny_policy()
    search = policy.tokenizer.encode("<search> x</search>")
    assert [turn_end(policy).is_over(search[: i + 1]) for i in range(len(search))] == [False] * (len(search) - 1) + [
        True
    ]
    assert turn_end(policy).is_over([*policy.tokenizer.encode("no tag"), policy.tokenizer.hf_tokenizer.eos_token_id])
    assert not turn_end(policy).is_over(policy.tokenizer.encode("<search>"))


@pytest.mark.parametrize("query", ["x", "who is Ada", "naïve café", "日本 the 1990s", "👩‍🚀 in orbit", "a  b"])
def test_the_query_span_holds_exactly_the_query(query: str) -> None:
    policy = tiny_policy()
    text = f"so <search> {query} </search>"
    ids = policy.tokenizer.encode(text)
    start = text.index(query)
    low, high = policy.tokenizer.token_span(ids, start, start + len(query))
    assert query in policy.tokenizer.decode(ids[low:high])
    assert len(policy.tokenizer.decode(ids[low:high]).strip()) == len(query)
    assert policy.tokenizer.token_span(ids, 5, 5) == (0, 0)


def test_rollouts_record_the_query_and_the_search_around_it() -> None:
    policy = Policy.load(PolicyConfig())
    turns = [turn for trajectory in played(policy, 8)[0] for turn in trajectory.turns if turn.is_search]
    assert turns
    for turn in turns:
        assert turn.query_span is not None
        assert turn.search_span is not None
        query, search = (
            policy.tokenizer.decode(turn.completion_ids[slice(*s)]) for s in (turn.query_span, turn.search_span)
        )
        assert query.strip() == turn.query
        assert (search[:8], search[-9:]) == ("<search>", "</search>")


# ---------------------------------------------------------------- whole episodes


def questions(count: int = 8) -> list[Question]:
    """The first questions of the bundled world."""
    return bundled_world().questions["train"][:count]


def engine_of(retriever: Retriever | None = None) -> EpisodeStepper:
    """An environment that pays outcomes only."""
    return EpisodeStepper(
        questions(), retriever or bundled_retriever(), None, EpisodeRules(protocol=make_protocol("search_r1", "bare"))
    )


def played(policy: Policy, slots: int) -> tuple[list[Trajectory], Decoder]:
    """Every question once."""
    decoder = decoder_of(policy, slots=slots, max_new_tokens=16)
    return play(decoder, engine_of(), questions(), seed=(3,)), decoder


def ids_of(trajectory: Trajectory) -> list[tuple[Ids, Ids]]:
    """What was written and read, turn by turn."""
    return [(turn.completion_ids, turn.observation_ids) for turn in trajectory.turns]


def sequence(trajectory: Trajectory) -> Ids:
    """The whole episode as tokens."""
    return trajectory.prompt_ids + tuple(chain.from_iterable(a + b for a, b in ids_of(trajectory)))


@pytest.fixture(scope="module")
def policy() -> Policy:
    return bundled_policy()


@pytest.mark.parametrize("slots", [1, 3])
def test_fewer_slots_than_episodes_play_the_same_episodes(policy: Policy, slots: int) -> None:
    all_at_once, _ = played(policy, 8)
    trajectories, decoder = played(policy, slots)
    assert sum(t.searches for t in trajectories) > 4  # there is something to compare
    assert [ids_of(t) for t in trajectories] == [ids_of(t) for t in all_at_once]
    assert [t.stop_reason for t in trajectories] == [t.stop_reason for t in all_at_once]
    for trajectory, other in zip(trajectories, all_at_once, strict=True):
        for turn, same in zip(trajectory.turns, other.turns, strict=True):
            np.testing.assert_allclose(turn.logprobs, same.logprobs, atol=1e-4)
    assert decoder.free == slots


@pytest.mark.parametrize("slots", [3, 8])
@torch.no_grad()
def test_prefixes_are_sequences_that_were_read(policy: Policy, slots: int) -> None:
    trajectories, decoder = played(policy, slots)
    prefixes = decoder.prefixes()
    whole = 0
    for trajectory in trajectories:
        ids = sequence(trajectory)
        past, start = prefixes.longest(ids)
        whole += past == len(ids) - 1  # nobody reads the last token that an episode writes
        blocks = [Block(ids[past:], past, start)]
        hidden_n = policy.forward_packed(pack(blocks, policy.device, store=prefixes.store))
        torch.testing.assert_close(hidden_n, policy.hidden_states(torch.tensor([ids]))[0, past:], atol=1e-4, rtol=1e-4)
    assert whole == slots


def test_the_same_run_twice_is_the_same_to_the_last_bit(policy: Policy) -> None:
    (first, _), (again, _) = played(policy, 3), played(policy, 3)
    assert [ids_of(t) for t in first] == [ids_of(t) for t in again]
    assert [[turn.logprobs for turn in t.turns] for t in first] == [[turn.logprobs for turn in t.turns] for t in again]


def test_an_episode_whose_context_fills_ends_with_its_own_reason() -> None:
    policy = bundled_policy(context_length=100)
    trajectories, _ = played(policy, 3)
    full = [t for t in trajectories if t.stop_reason == CONTEXT_FULL]
    assert len(full) > 0
    for trajectory in trajectories:
        # No turn is begun that could outgrow the context, and none is refused that could not.
        begun = len(sequence(trajectory)) - len(trajectory.turns[-1].completion_ids)
        if trajectory in full:
            assert len(sequence(trajectory)) + 16 > 100
        else:
            assert begun + 16 <= 100


@pytest.mark.parametrize("slots", [1, 3, 8])
def test_a_stream_of_episodes_is_the_rollout_in_the_order_of_its_ends(policy: Policy, slots: int) -> None:
    trajectories, _ = played(policy, slots)
    taken: list[Question] = []
    ended: list[tuple[int, Trajectory]] = []
    for place, trajectory in play_each(
        decoder_of(policy, slots=slots, max_new_tokens=16),
        engine_of(),
        (taken.append(question) or question for question in questions()),  # type: ignore[func-returns-value]
        seed=(3,),
    ):
        ended.append((place, trajectory))
        assert trajectory.done
        assert len(taken) <= len(ended) + slots  # a question is taken when a slot is free for it
    assert [place for place, _ in ended] != list(range(8)) or slots == 1
    for place, trajectory in ended:
        assert trajectory.question == questions()[place]
        assert ids_of(trajectory) == ids_of(trajectories[place])
        assert [turn.logprobs for turn in trajectory.turns] == [turn.logprobs for turn in trajectories[place].turns]
    assert sorted(place for place, _ in ended) == list(range(len(trajectories)))


@pytest.mark.parametrize("spare", [0, -1])
def test_a_turn_is_played_if_it_is_sure_to_fit(policy: Policy, spare: int) -> None:
    (whole,) = play(decoder_of(policy), engine_of(), questions(1), seed=(3,))
    first = whole.turns[0]
    begun = len(whole.prompt_ids + first.completion_ids + first.observation_ids)
    tight = Policy(policy.model, policy.tokenizer.hf_tokenizer, context_length=begun + NEW + spare)
    (trajectory,) = play(decoder_of(tight), engine_of(), questions(1), seed=(3,))
    assert len(whole.turns) > 1
    assert ids_of(trajectory)[: spare + 2] == ids_of(whole)[: spare + 2]
    assert (len(trajectory.turns) == 1) == (spare < 0)
    assert spare == 0 or trajectory.stop_reason == CONTEXT_FULL


class Raising(Retriever):
    """Raises an error at every search from the `after`-th on."""

    def __init__(self, error: Exception, after: int = 0) -> None:
        self.error, self.after = error, after
        self.inner = small_retriever()

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.after -= 1
        if self.after < 0:
            raise self.error
        return self.inner.search(queries, k)

    def sample(self, n: int, rng: np.random.Generator) -> list[Passage]:
        return self.inner.sample(n, rng)

    def __len__(self) -> int:
        return len(self.inner)


@pytest.mark.parametrize("after", [0, 2])
def test_an_error_of_the_environment_ends_the_rollout(policy: Policy, after: int) -> None:
    decoder = decoder_of(policy, slots=3, max_new_tokens=16)
    with pytest.raises(ZeroDivisionError, match="somebody's bug"):
        play(decoder, engine_of(Raising(ZeroDivisionError("somebody's bug"), after)), questions(), seed=(3,))


def test_a_retrieval_error_fails_the_episodes_that_were_searching_and_no_others(policy: Policy) -> None:
    buffers = []
    for _ in range(2):
        decoder = decoder_of(policy, slots=3, max_new_tokens=16)
        engine = engine_of(Raising(RetrievalError("the index is away"), 1))
        buffers.append(collect(decoder, engine, questions(), group_size=2, seed=(3,)))
    failed = buffers[0].failed
    assert 0 < failed < 16
    assert len(buffers[0].trajectories) == 16 - failed
    assert not any(t.retrieval_failed for t in buffers[0].trajectories)
    assert buffers[0] == buffers[1]


def test_failed_episodes_say_so(policy: Policy) -> None:
    decoder = decoder_of(policy, slots=3, max_new_tokens=16)
    trajectories = play(decoder, engine_of(Raising(RetrievalError("away"))), questions(), seed=(3,))
    for trajectory in trajectories:
        assert (trajectory.stop_reason == RETRIEVAL_FAILED) == (trajectory.searches > 0)
        assert all(turn.completion_ids for turn in trajectory.turns)
    assert any(t.retrieval_failed for t in trajectories)


# ---------------------------------------------------------------- drawing a token


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 17]))
def test_draws_are_located_where_running_sums_in_exact_arithmetic_are(seed: int, tokens: int) -> None:
    random = np.random.default_rng(seed)
    weights = random.exponential(size=(4, tokens)).astype(np.float32) * (random.random((4, tokens)) < 0.7)
    weights[:, random.integers(tokens)] += 1e-3
    draws = random.random((4, 2))
    found = inverse_cdf(torch.from_numpy(weights), torch.from_numpy(draws)).tolist()
    for row, (first, second), index in zip(weights, draws, found, strict=True):
        exact = [Fraction(float(weight)) for weight in row]
        assert exact[index] > 0
        block = index // BLOCK
        sums = [sum(exact[low : low + BLOCK]) for low in range(0, tokens, BLOCK)]
        for parts, draw, place in (
            (sums, first, block),
            (exact[block * BLOCK : (block + 1) * BLOCK], second, index % BLOCK),
        ):
            target = Fraction(float(draw)) * sum(parts)
            slack = Fraction(sum(parts)) / 10**12  # of sums in float64
            assert sum(parts[:place]) - slack <= target <= sum(parts[: place + 1]) + slack


@pytest.mark.parametrize("tokens", [7, 2 * BLOCK + 100])
def test_tokens_are_drawn_as_often_as_their_weights_say(tokens: int) -> None:
    random = np.random.default_rng(5)
    weights = torch.from_numpy(random.exponential(size=tokens) ** 3)
    draws = torch.from_numpy(random.random((200_000, 2)))
    found = inverse_cdf(weights.expand(len(draws), -1), draws)
    expected = weights / weights.sum() * len(draws)
    observed = torch.bincount(found, minlength=tokens)
    often = expected >= 5
    statistic = ((observed - expected) ** 2 / expected)[often].sum()
    freedom = int(often.sum())
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5  # five deviations of chi-squared


@pytest.mark.parametrize("tokens", [5, 2 * BLOCK, 2 * BLOCK + 100])
@pytest.mark.parametrize("draw", [0.0, 0.5, 1 - 2**-53])
def test_a_token_without_probability_is_never_drawn(tokens: int, draw: float) -> None:
    """Also at both ends of the interval, where a sum that was rounded could point to one."""
    for only in range(0, tokens, 37):
        weights = torch.zeros(1, tokens)
        weights[0, only] = 0.1
        assert inverse_cdf(weights, torch.full((1, 2), draw, dtype=torch.float64)).item() == only


def test_draws_do_not_depend_on_the_other_rows() -> None:
    random = torch.Generator().manual_seed(0)
    weights, draws = torch.rand(9, 1_000, generator=random), torch.rand(9, 2, generator=random, dtype=torch.float64)
    together = inverse_cdf(weights, draws)
    alone = [inverse_cdf(weights[row : row + 1], draws[row : row + 1]).item() for row in range(9)]
    assert together.tolist() == alone


def test_rounding_hardly_ever_changes_a_token_of_a_large_vocabulary() -> None:
    """Log-probs that differ by 1e-4 change 0.03% of the tokens; with one draw over the whole CDF, 0.7%."""
    random = torch.Generator().manual_seed(0)
    weights = torch.rand(20, 50_000, generator=random, dtype=torch.float64)
    noise = 1e-4 * torch.randn(weights.shape, generator=random, dtype=torch.float64)
    changed = []
    for _ in range(200):
        draws = torch.rand(20, 2, generator=random, dtype=torch.float64)
        changed.append(inverse_cdf(weights, draws) != inverse_cdf(weights * noise.exp(), draws))
    assert torch.cat(changed).double().mean() < 0.002
