"""A packed pass gives what reading every sequence alone gives."""

from __future__ import annotations

import random
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import ARCHITECTURES, WINDOW, WINDOWED, tiny_model, tiny_policy, tokenizer
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
)

from algorithms.common.model import packing
from algorithms.common.model.kv_cache import CachedPrefixes, KVCache, common_prefix
from algorithms.common.model.kv_spans import Span
from algorithms.common.model.packed_attention import Slots
from algorithms.common.model.packing import Block, Pack, pack, pack_slots, split_by_budget
from algorithms.common.model.policy import Policy
from algorithms.common.model.verification import verify
from igsearch_env.errors import ConfigurationError

EVERY = (*ARCHITECTURES, *WINDOWED)
CPU = torch.device("cpu")
Ids = tuple[int, ...]

cached_policy = lru_cache(tiny_policy)
close = partial(torch.testing.assert_close, atol=1e-4, rtol=1e-4)


def some_ids(count: int, seed: int) -> Ids:
    """Tokens at random."""
    rng = random.Random(f"{count} {seed}")
    return tuple(rng.randrange(3, 1000) for _ in range(count))


@torch.no_grad()
def alone(policy: Policy, ids: Ids) -> Tensor:
    """Hidden states of one sequence, read from its first token with nothing beside it."""
    return policy.hidden_states(torch.tensor([ids]))[0]


@torch.no_grad()
def read(policy: Policy, packed: Pack, blocks: list[Block]) -> list[Tensor]:
    """Hidden states of each block of a pass."""
    hidden_n = policy.forward_packed(packed)
    return [hidden_n[first : first + len(block.ids)] for first, block in zip(packed.first, blocks, strict=True)]


@torch.no_grad()
def store_sequences(policy: Policy, sequences: list[Ids], stride: int) -> KVCache:
    """Each sequence in a slot of its own."""
    store = KVCache()
    store.reserve(len(sequences) * stride)
    blocks = [Block(ids, 0, slot * stride) for slot, ids in enumerate(sequences) if ids]
    if blocks:
        policy.forward_packed(pack(blocks, CPU, store=store, keep=True))
    return store


# ---------------------------------------------------------------- equal to reading alone


@pytest.mark.parametrize("architecture", EVERY)
@settings(max_examples=12)
@given(
    shapes=st.lists(st.tuples(st.integers(0, 25) | st.just(0), st.integers(1, 14)), min_size=1, max_size=9),
    small_bucket=st.sampled_from([0, 500, packing.SMALL_BUCKET]),  # many buckets, some, one
    seed=st.integers(0, 99),
)
def test_blocks_of_any_shape_equal_reading_each_sequence_alone(
    architecture: str, shapes: list[tuple[int, int]], small_bucket: int, seed: int
) -> None:
    policy = cached_policy(architecture)
    sequences = [some_ids(past + own, seed + number) for number, (past, own) in enumerate(shapes)]
    store = store_sequences(policy, [ids[:past] for ids, (past, _) in zip(sequences, shapes, strict=True)], 40)
    blocks = [Block(ids[past:], past, 40 * n) for n, (ids, (past, _)) in enumerate(zip(sequences, shapes, strict=True))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "SMALL_BUCKET", small_bucket)
        packed = pack(blocks, CPU, store=store)
    for ids, block, hidden in zip(sequences, blocks, read(policy, packed, blocks), strict=True):
        close(hidden, alone(policy, ids)[block.past :])


@pytest.mark.parametrize("architecture", EVERY)
def test_long_blocks_in_many_buckets_equal_reading_alone(architecture: str) -> None:
    policy = cached_policy(architecture)
    lengths = [3, 310, 41, 305, 3, 190, 40, 90]
    blocks = [Block(some_ids(length, number)) for number, length in enumerate(lengths)]
    packed = pack(blocks, CPU)
    assert len(packed.buckets) > 2
    for block, hidden in zip(blocks, read(policy, packed, blocks), strict=True):
        close(hidden, alone(policy, tuple(block.ids)))


@pytest.mark.parametrize("limit", ["MAX_COLUMNS", "MAX_PAIRS"])
def test_limits_of_memory_split_buckets_and_change_no_number(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = cached_policy("qwen2")
    blocks = [Block(some_ids(9, number)) for number in range(6)]
    assert len(pack(blocks, CPU).buckets) == 1
    monkeypatch.setattr(packing, limit, 200 if limit == "MAX_PAIRS" else 20)
    packed = pack(blocks, CPU)
    assert len(packed.buckets) == 3
    for block, hidden in zip(blocks, read(policy, packed, blocks), strict=True):
        close(hidden, alone(policy, tuple(block.ids)))


@pytest.mark.parametrize("architecture", EVERY)
@pytest.mark.parametrize(
    ("active", "copied"),
    [
        ([0, 1, 2, 4, 5], [False]),  # read where they lie
        ([1, 5], [True]),  # copied out of the store
        ([6, 4, 0, 5, 2, 7], [False, False]),  # of two sizes
        ([3, 0, 4, 5, 7, 9], [True, False, False]),  # some between the places of the others
    ],
)
def test_one_token_for_some_of_the_sequences_equals_reading_alone(
    architecture: str, active: list[int], copied: list[bool]
) -> None:
    policy = cached_policy(architecture)
    lengths = [7, 1, 30, 12, 2, 3 * WINDOW, 60, 41, 9, 20]
    rows = [some_ids(length, number) for number, length in enumerate(lengths)]
    starts = [0, 64, 128, 192, 256, 320, 384, 512, 640, 703]
    spans = [Span(start, 100 if 384 <= start < 640 else 36) for start in starts]
    store = KVCache()
    store.reserve(703 + 36)
    blocks = [Block(ids, 0, span.start) for ids, span in zip(rows, spans, strict=True)]
    with torch.no_grad():
        policy.forward_packed(pack(blocks, CPU, store=store, keep=True))
    for step in range(3):
        new = some_ids(len(active), step)
        here = [spans[slot] for slot in active]
        packed = pack_slots(new, here, [len(rows[slot]) for slot in active], CPU, store=store)
        assert [bucket.copied for _, bucket in packed.buckets] == copied  # type: ignore[union-attr]
        with torch.no_grad():
            hidden_n = policy.forward_packed(packed)[packed.first]
        for slot, token, hidden in zip(active, new, hidden_n, strict=True):
            rows[slot] = (*rows[slot], token)
            close(hidden, alone(policy, rows[slot])[-1])


@pytest.mark.parametrize("architecture", EVERY)
@pytest.mark.parametrize(
    ("lengths", "end", "sizes"),
    [
        ([50, 9, 35], 192, [3]),  # 64 rows each
        ([50, 9, 35], 128 + 51, [3]),  # as many of the last one as the view needs
        ([50, 9, 35], 128 + 50, [2, 1]),  # fewer: the last one is read by itself
        ([50, 9, 35], 128 + 36, [2, 1]),
        ([9, 35, 50], 128 + 51, [3]),
        ([63, 33], 64 + 34, [1, 1]),
    ],
)
def test_nothing_is_read_beyond_the_end_of_the_store(
    architecture: str, lengths: list[int], end: int, sizes: list[int]
) -> None:
    policy = cached_policy(architecture)
    rows = [some_ids(length, number) for number, length in enumerate(lengths)]
    spans = [Span(start, min(64, end - start)) for start in range(0, 64 * len(rows), 64)]
    store = KVCache()
    store.reserve(end)
    blocks = [Block(ids, 0, span.start) for ids, span in zip(rows, spans, strict=True)]
    order = list(range(len(rows)))[::-1]  # of the caller: any
    with torch.no_grad():
        policy.forward_packed(pack(blocks, CPU, store=store, keep=True))
        packed = pack_slots(
            [5 + i for i in order], [spans[i] for i in order], [lengths[i] for i in order], CPU, store=store
        )
        hidden_n = policy.forward_packed(packed)[packed.first]
    assert packed.sizes == sizes
    assert not any(bucket.copied for _, bucket in packed.buckets)  # type: ignore[union-attr]
    for i, hidden in zip(order, hidden_n, strict=True):
        close(hidden, alone(policy, (*rows[i], 5 + i))[-1])


@pytest.mark.parametrize("architecture", EVERY)
def test_what_a_slot_held_before_is_not_seen(architecture: str) -> None:
    policy = cached_policy(architecture)
    store = store_sequences(policy, [some_ids(30, number) for number in range(3)], 32)
    rows = [some_ids(length, 50 + length) for length in (4, 11, 1)]
    blocks = [Block(ids, 0, 32 * slot) for slot, ids in enumerate(rows)]
    with torch.no_grad():
        policy.forward_packed(pack(blocks, CPU, store=store, keep=True))
        spans = [Span(32 * slot, 32) for slot in range(3)]
        packed = pack_slots((5, 6, 7), spans, [len(ids) for ids in rows], CPU, store=store)
        for ids, token, hidden in zip(rows, (5, 6, 7), policy.forward_packed(packed), strict=True):
            close(hidden, alone(policy, (*ids, token))[-1])


@pytest.mark.parametrize("architecture", EVERY)
def test_forks_of_one_prefix_do_not_see_each_other(architecture: str) -> None:
    policy = cached_policy(architecture)
    trunk = some_ids(20, 0)
    store = store_sequences(policy, [some_ids(3, 1), trunk], 32)
    forks = [(20, some_ids(5, 2)), (20, some_ids(9, 3)), (12, some_ids(5, 4)), (20, some_ids(5, 2)), (1, (9,))]
    blocks = [Block(ids, past, 32) for past, ids in forks]
    for (past, ids), hidden in zip(forks, read(policy, pack(blocks, CPU, store=store), blocks), strict=True):
        close(hidden, alone(policy, trunk[:past] + ids)[past:])
    # The trunk is as it was.
    ids = some_ids(4, 5)
    again = [Block(ids, 20, 32)]
    close(read(policy, pack(again, CPU, store=store), again)[0], alone(policy, trunk + ids)[20:])


@pytest.mark.parametrize("architecture", EVERY)
def test_a_sequence_read_in_pieces_equals_the_whole(architecture: str) -> None:
    policy = cached_policy(architecture)
    ids, store = some_ids(40, 0), KVCache()
    store.reserve(40)
    whole, past = alone(policy, ids), 0
    for size in (1, 12, 2, 20, 5):
        blocks = [Block(ids[past : past + size], past)]
        close(read(policy, pack(blocks, CPU, store=store, keep=True), blocks)[0], whole[past : past + size])
        past += size


# ---------------------------------------------------------------- layout


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), min_size=1, max_size=12),
    st.sampled_from([0, 500, packing.SMALL_BUCKET]),
)
def test_first_says_where_each_block_begins(shapes: list[tuple[int, int]], small_bucket: int) -> None:
    blocks = [Block(some_ids(own, number), past, 100 * number) for number, (past, own) in enumerate(shapes)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "SMALL_BUCKET", small_bucket)
        packed = pack(blocks, CPU, keep=True)
    assert packed.rows_n is not None
    covered = list[int]()
    for block, first in zip(blocks, packed.first, strict=True):
        places = slice(first, first + len(block.ids))
        positions = list(range(block.past, block.past + len(block.ids)))
        assert packed.ids_n[places].tolist() == list(block.ids)
        assert packed.positions_n[places].tolist() == positions
        assert packed.rows_n[places].tolist() == [block.start + position for position in positions]
        covered += range(places.start, places.stop)
    assert sorted(covered) == list(range(len(packed.ids_n)))
    spans = [(span.start, span.stop) for span, _ in packed.buckets]
    assert [low for low, _ in spans] == [0, *(high for _, high in spans[:-1])]
    assert spans[-1][1] == len(packed.ids_n)


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), min_size=1, max_size=25),
    st.sampled_from([0, 2_000]),
    st.sampled_from([200, packing.MAX_COLUMNS]),
)
def test_buckets_bound_padding_and_end_where_another_block_would_exceed_it(
    shapes: list[tuple[int, int]], small_bucket: int, max_columns: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "SMALL_BUCKET", small_bucket)
        patch.setattr(packing, "MAX_COLUMNS", max_columns)
        buckets = [bucket for _, bucket in pack([Block((7,) * own, past) for past, own in shapes], CPU).buckets]
    members = [list(zip(b.pasts_B.tolist(), b.lengths_B.tolist(), strict=True)) for b in buckets]  # type: ignore[union-attr]

    def allowed(blocks: list[tuple[int, int]]) -> bool:
        columns = len(blocks) * (max(past for past, _ in blocks) + max(own for _, own in blocks))
        pairs = columns * max(own for _, own in blocks)
        real = sum(own * (past + own) for past, own in blocks)
        return columns <= max_columns and pairs <= packing.MAX_WASTE * real + small_bucket

    assert sorted(block for bucket in members for block in bucket) == sorted(shapes)
    assert all(len(bucket) == 1 or allowed(bucket) for bucket in members)
    assert not any(allowed([*bucket, following[0]]) for bucket, following in pairwise(members))


@settings(max_examples=15)
@given(st.permutations(range(7)))
def test_the_order_of_blocks_does_not_matter(order: list[int]) -> None:
    policy = cached_policy("qwen2")
    trunk = some_ids(30, 0)
    store = store_sequences(policy, [trunk], 30)
    shapes = [(0, 5), (30, 2), (17, 9), (30, 2), (0, 1), (3, 12), (29, 4)]
    blocks = [Block(some_ids(own, number), past) for number, (past, own) in enumerate(shapes)]
    plain = read(policy, pack(blocks, CPU, store=store), blocks)
    shuffled = [blocks[place] for place in order]
    for place, hidden in zip(order, read(policy, pack(shuffled, CPU, store=store), shuffled), strict=True):
        close(hidden, plain[place])


@given(st.lists(st.integers(0, 30), max_size=20), st.integers(1, 60))
def test_passes_hold_every_place_once_in_order_within_the_budget(lengths: list[int], budget: int) -> None:
    parts = list(split_by_budget(lengths, budget))
    assert [place for part in parts for place in part] == list(range(len(lengths)))
    assert all(len(part) == 1 or sum(lengths[place] for place in part) <= budget for part in parts)
    # None is closed while the next place would have fitted.
    for part, following in pairwise(parts):
        assert sum(lengths[place] for place in part) + lengths[following[0]] > budget


# ---------------------------------------------------------------- models


def batch() -> dict[str, Tensor]:
    """Padded rows as transformers take them."""
    rows = [some_ids(23, 0), some_ids(11, 1)]
    ids = torch.tensor([(*row, *[1] * (23 - len(row))) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (23 - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize(
    ("architecture", "attention"),
    [*((name, "eager") for name in EVERY), *((name, "sdpa") for name in EVERY if name != "gemma2")],
)
@torch.no_grad()
def test_a_model_called_without_a_pack_is_unchanged(architecture: str, attention: str) -> None:
    model = tiny_model(architecture)
    model.set_attn_implementation(attention)
    plain, masked = model(batch()["input_ids"]).logits, model(**batch()).logits
    Policy(model, tokenizer())
    Policy(model, tokenizer())  # twice is once
    assert torch.equal(model(batch()["input_ids"]).logits, plain)
    assert torch.equal(model(**batch()).logits, masked)


@pytest.mark.parametrize("architecture", EVERY)
@torch.no_grad()
def test_a_saved_policy_has_no_trace_of_packing(architecture: str, tmp_path: Path) -> None:
    policy = tiny_policy(architecture)
    policy.save(tmp_path)
    assert "packed" not in (tmp_path / "config.json").read_text()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(**batch()).logits, policy.model(**batch()).logits)


@pytest.mark.parametrize("architecture", EVERY)
@torch.no_grad()
def test_logits_are_those_of_the_model(architecture: str) -> None:
    policy = cached_policy(architecture)
    ids = batch()["input_ids"]
    logits = policy.model(ids).logits
    close(policy.logits(policy.hidden_states(ids)), logits)
    if architecture == "gemma2":
        assert 4 < logits.abs().max() <= 5  # its cap is at work


@pytest.mark.parametrize("name", ["s_aux", "position_bias"])
def test_an_attention_that_packs_cannot_compute_is_refused(name: str) -> None:
    x = torch.zeros(1, 4, 3, 8)
    with pytest.raises(ConfigurationError, match=f"policy: its attention uses '{name}'.*another architecture"):
        packing._packed_attention(
            "eager", nn.Module(), x, x, x, None, packed=pack([Block((1, 2, 3))], CPU), **{name: torch.zeros(4)}
        )


# ---------------------------------------------------------------- what is stored


@given(st.lists(st.integers(0, 30), min_size=1, max_size=5))
def test_a_store_that_grows_keeps_what_it_holds(sizes: list[int]) -> None:
    store = KVCache()
    store.reserve(6)
    keys, values = torch.arange(1, 49.0).view(6, 2, 4), -torch.arange(1, 49.0).view(6, 2, 4)
    for layer in (0, 3):
        store.write(layer, torch.arange(6), keys + layer, values - layer)
    for rows in sizes:
        store.reserve(rows)
    assert store.rows == max(6, *sizes)
    for layer in (0, 3):
        for held, written in zip(store.layer(layer), (keys + layer, values - layer), strict=True):
            assert held.shape == (store.rows, 2, 4)
            assert torch.equal(held[:6], written)
            assert not held[6:].any()
    store.clear()
    assert store.rows == 0
    with pytest.raises(KeyError):
        store.layer(0)


def test_sequences_move_at_once_though_places_overlap() -> None:
    store = KVCache()
    store.move([(0, 3, 2)])  # nothing is stored yet
    store.reserve(12)
    rows = torch.arange(12.0).view(12, 1, 1).expand(12, 2, 3)
    store.write(0, torch.arange(12), rows, -rows)
    store.move([(0, 4, 4), (4, 1, 3), (9, 0, 1)])
    keys, values = store.layer(0)
    assert keys[:, 0, 0].tolist() == [9, 4, 5, 6, 0, 1, 2, 3, 8, 9, 10, 11]
    assert torch.equal(values, -keys)


SHORT = st.lists(st.integers(0, 2), max_size=6).map(tuple)


@given(st.lists(SHORT, max_size=8), SHORT)
def test_the_longest_stored_prefix_is_found(sequences: list[Ids], ids: Ids) -> None:
    stored = {10 * number: sequence for number, sequence in enumerate(sequences)}
    length, start = CachedPrefixes(KVCache(), stored).longest(ids)
    assert length == max((common_prefix(ids, sequence) for sequence in sequences), default=0)
    assert stored.get(start, ())[:length] == ids[:length]


@given(SHORT, SHORT)
def test_common_prefix_counts_equal_first_tokens(a: Ids, b: Ids) -> None:
    length = common_prefix(a, b)
    assert a[:length] == b[:length]
    assert length == min(len(a), len(b)) or a[length] != b[length]


def test_a_model_that_packed_passes_would_get_wrong_is_refused() -> None:
    shape = {"vocab_size": len(tokenizer()), "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2}
    bloom = BloomForCausalLM(BloomConfig(vocab_size=len(tokenizer()), hidden_size=32, n_head=4, n_layer=2)).eval()
    convolutional = Lfm2ForCausalLM(
        Lfm2Config(
            **shape,
            initializer_range=0.3,
            num_key_value_heads=2,
            intermediate_size=64,
            layer_types=["conv", "full_attention"],
        )
    ).eval()
    for model in (bloom, convolutional):
        with pytest.raises(ConfigurationError, match="plain causal attention"):
            verify(_policy(model))


def test_logit_scaling_is_the_models_own() -> None:
    shape = {"vocab_size": len(tokenizer()), "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2}
    cohere = CohereForCausalLM(CohereConfig(**shape, logit_scale=0.25, eos_token_id=1, bos_token_id=0)).eval()
    granite = GraniteForCausalLM(GraniteConfig(**shape, num_key_value_heads=2, logits_scaling=4.0)).eval()
    for model in (cohere, granite):
        verify(_policy(model))


def _policy(model: Any) -> Policy:
    return Policy(model, tokenizer())


class Largest(TorchDispatchMode):
    """The most numbers that any operation wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out._base is None:
            self.numbers = max(self.numbers, out.numel())
        return out


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_a_token_a_slot_copies_no_keys_for_every_query_head(softcap: float | None) -> None:
    meta = torch.device("meta")  # like a GPU, its attention takes no mask with grouped heads
    slots, columns, heads, queries, width = 4, 64, 2, 16, 32
    part = Slots(torch.arange(slots) * columns, torch.full((slots,), columns), columns, meta)
    store = KVCache()
    store.reserve(slots * columns)
    k = torch.empty(slots, heads, width, device=meta)
    store.write(0, torch.empty(slots, dtype=torch.long, device=meta), k, k)
    with Largest() as largest:
        q = torch.empty(slots, queries, width, device=meta)
        out = part.attend(0, store, q, k, k, window=None, scaling=None, softcap=softcap)
    assert out.shape == q.shape
    assert largest.numbers <= slots * heads * columns * width
