"""Attention by real lengths gives what reading every sequence alone gives, as the kernel takes its arguments."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import ARCHITECTURES, WINDOWED, tiny_policy
from torch import Tensor

from algorithms.common.model import packing, variable_length
from algorithms.common.model.kv_cache import KVCache
from algorithms.common.model.kv_spans import Span
from algorithms.common.model.packing import Block, pack, pack_slots
from algorithms.common.model.policy import Policy
from algorithms.common.model.variable_length import Padded, attention_for, layout, parts

EVERY = [name for name in (*ARCHITECTURES, *WINDOWED) if name != "gemma2"]  # which has a soft cap
CPU = torch.device("cpu")
Ids = tuple[int, ...]
cached_policy = lru_cache(tiny_policy)
close = partial(torch.testing.assert_close, atol=1e-4, rtol=1e-4)


def emulated(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
    seqused_k: Tensor | None = None,
) -> Tensor:
    """What `varlen_attn` documents, sequence by sequence."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert window_size[1] == 0
    assert enable_gqa == (query.shape[1] != key.shape[1])
    queries, keys = cu_seq_q.diff(), cu_seq_k.diff()
    assert (keys > 0).all()  # cumulative
    assert cu_seq_q[-1] == len(query)
    assert cu_seq_k[-1] <= len(key)
    if seqused_k is not None:
        assert seqused_k.dtype == torch.int32
        assert (seqused_k <= keys).all()
        keys = seqused_k
    assert (int(queries.max()), int(keys.max())) == (max_q, max_k)
    outputs = []
    for first, m, begin, c in zip(*(x.tolist() for x in (cu_seq_q, queries, cu_seq_k, keys)), strict=False):
        q, k, v = query[first : first + m], key[begin : begin + c], value[begin : begin + c]
        k, v = (x.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for x in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
        behind = torch.arange(c - m, c)[:, None] - torch.arange(c)  # the last query is at the last key
        visible = behind >= 0
        if window_size[0] >= 0:
            visible &= behind <= window_size[0]
        outputs.append(
            torch.einsum("hqk,khd->qhd", scores.masked_fill(~visible, -torch.inf).softmax(-1), v).to(query.dtype)
        )
    return torch.cat(outputs)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Packed passes attend by real lengths; yields the number of sequences of each call."""
    calls: list[int] = []

    def counted(
        query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, *rest: object, **options: object
    ) -> Tensor:
        calls.append(len(cu_seq_q) - 1)
        return emulated(query, key, value, cu_seq_q, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(packing, "attention_for", lambda *_: counted)
    yield calls
    assert calls


def some_ids(count: int, seed: int) -> Ids:
    return tuple(torch.randint(3, 1000, (count,), generator=torch.Generator().manual_seed(97 * seed + count)).tolist())


@torch.no_grad()
def alone(policy: Policy, ids: Ids) -> Tensor:
    """Hidden states of one sequence, read from its first token by an attention of transformers."""
    return policy.hidden_states(torch.tensor([ids]))[0]


@torch.no_grad()
def check(policy: Policy, sequences: list[Ids], blocks: list[Block], store: KVCache | None, keep: bool) -> None:
    packed = pack(blocks, CPU, store=store, keep=keep)
    hidden_n = policy.forward_packed(packed)
    for ids, block, first in zip(sequences, blocks, packed.first, strict=True):
        close(hidden_n[first : first + len(block.ids)], alone(policy, ids)[block.past : block.past + len(block.ids)])


# ---------------------------------------------------------------- parity


@pytest.mark.parametrize("architecture", EVERY)
@pytest.mark.parametrize("keep", [True, False])
def test_blocks_equal_reading_each_sequence_alone(architecture: str, keep: bool, kernel: list[int]) -> None:
    policy = cached_policy(architecture)
    shapes = [(0, 5), (40, 3), (17, 30), (40, 3), (0, 1), (3, 12), (29, 1)]
    sequences = [some_ids(past + own, number) for number, (past, own) in enumerate(shapes)]
    # Places in the store in another order than that of the pass.
    starts = [50 * place for place in (3, 0, 6, 1, 5, 2, 4)]
    store = KVCache()
    store.reserve(7 * 50)
    begun = [(ids, past, s) for ids, (past, _), s in zip(sequences, shapes, starts, strict=True) if past]
    check(policy, [b[0] for b in begun], [Block(ids[:past], 0, s) for ids, past, s in begun], store, keep=True)
    blocks = [Block(ids[past:], past, s) for ids, (past, _), s in zip(sequences, shapes, starts, strict=True)]
    check(policy, sequences, blocks, store, keep)
    assert set(kernel) == {len(begun), 7}  # one call for each layer


@pytest.mark.parametrize("architecture", EVERY)
def test_forks_of_one_prefix_do_not_see_each_other(
    architecture: str, kernel: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variable_length, "MAX_ROWS", 60)
    policy = cached_policy(architecture)
    trunk, store = some_ids(20, 0), KVCache()
    store.reserve(80)
    check(policy, [trunk], [Block(trunk, 0, 32)], store, keep=True)
    forks = [(20, some_ids(5, 2)), (20, some_ids(9, 3)), (12, some_ids(5, 4)), (20, some_ids(5, 2)), (1, (9,))]
    blocks = [Block(ids, past, 32) for past, ids in forks]
    check(policy, [trunk[:past] + ids for past, ids in forks], blocks, store, keep=False)
    assert set(kernel) > {2}  # no more than 60 keys at once, so two or three forks


@pytest.mark.parametrize("architecture", EVERY)
@torch.no_grad()
def test_one_token_for_each_of_some_sequences(architecture: str, kernel: list[int]) -> None:
    policy = cached_policy(architecture)
    rows = [some_ids(length, number) for number, length in enumerate([7, 1, 30, 12])]
    spans = [Span(start, 40) for start in (45, 0, 131, 90)]
    store = KVCache()
    store.reserve(171)
    policy.forward_packed(
        pack([Block(ids, 0, span.start) for ids, span in zip(rows, spans, strict=True)], CPU, store=store, keep=True)
    )
    for step in range(3):
        new = some_ids(3, step)
        packed = pack_slots(new, spans[:3], [len(ids) for ids in rows[:3]], CPU, store=store)
        for slot, (place, token) in enumerate(zip(packed.first, new, strict=True)):
            rows[slot] = (*rows[slot], token)
            hidden = policy.forward_packed(packed)[place]
            close(hidden, alone(policy, rows[slot])[-1])
    assert set(kernel) == {4, 3}


# ---------------------------------------------------------------- layout


SHAPES = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), min_size=1, max_size=12)


@given(SHAPES, st.permutations(range(12)))
def test_stored_sequences_are_read_where_they_lie(shapes: list[tuple[int, int]], places: list[int]) -> None:
    pasts, lengths = (torch.tensor(column) for column in zip(*shapes, strict=True))
    starts = torch.tensor(places[: len(shapes)]) * 100
    found = layout(lengths, pasts, starts, 1_200)
    order = starts.argsort()
    assert found.used_k is not None
    assert found.cu_k.tolist() == [*starts[order].tolist(), 1_200]
    assert found.used_k.tolist() == (pasts + lengths)[order].tolist()
    assert found.cu_q.diff().tolist() == lengths[order].tolist()
    assert (found.max_q, found.max_k) == (int(lengths.max()), int((lengths + pasts).max()))
    tokens = torch.repeat_interleave(starts, lengths)  # of each query in the order of the pass
    arranged = tokens if found.order_n is None else tokens[found.order_n]
    assert arranged.tolist() == sorted(tokens.tolist())
    assert (found.order_n is None) == (starts.tolist() == sorted(starts.tolist()))


@given(SHAPES)
def test_shared_prefixes_are_copied_before_each_block(shapes: list[tuple[int, int]]) -> None:
    pasts, lengths = (torch.tensor(column) for column in zip(*shapes, strict=True))
    starts = torch.arange(len(shapes)) * 100
    found = layout(lengths, pasts, starts, None)
    assert found.used_k is None
    assert found.cu_q.tolist() == [0, *lengths.cumsum(0).tolist()]
    assert found.cu_k.tolist() == [0, *(lengths + pasts).cumsum(0).tolist()]
    if found.past_rows is None:
        assert not pasts.any()
        return
    assert found.past_places is not None
    assert found.own_places is not None
    keys = torch.full((int(found.cu_k[-1]),), -1)
    keys[found.past_places], keys[found.own_places] = found.past_rows, 10_000 + torch.arange(int(lengths.sum()))
    own = iter(range(10_000, 20_000))
    expected = [
        *(row for past, length, start in zip(pasts.tolist(), lengths.tolist(), starts.tolist(), strict=True)
          for row in (*range(start, start + past), *(next(own) for _ in range(length))))
    ]  # fmt: skip
    assert keys.tolist() == expected


@given(SHAPES, st.integers(1, 200))
def test_parts_hold_every_block_once(shapes: list[tuple[int, int]], limit: int) -> None:
    pasts, lengths = (torch.tensor(column) for column in zip(*shapes, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(variable_length, "MAX_ROWS", limit)
        found = list(parts(lengths, pasts, copied=True))
        assert list(parts(lengths, pasts, copied=False)) == [slice(0, len(shapes))]
    assert [place for part in found for place in range(part.start, part.stop)] == list(range(len(shapes)))
    totals = (lengths + pasts).tolist()
    assert all(part.stop - part.start == 1 or sum(totals[part]) <= limit for part in found)


# ---------------------------------------------------------------- choice


@pytest.mark.parametrize(
    ("device", "dtype", "widths", "softcap", "reason"),
    [
        ("cpu", torch.bfloat16, (64, 64), None, "not on cpu"),
        ("cuda", torch.float32, (64, 64), None, r"not in torch\.float32"),
        ("cuda", torch.bfloat16, (64, 64), 50.0, "soft cap"),
        ("cuda", torch.bfloat16, (192, 128), None, r"widths \(192, 128\)"),
        ("cuda", torch.float16, (512, 512), None, "up to 256"),
        ("cuda", torch.float16, (36, 36), None, "multiple of 8"),
    ],
)
def test_what_the_kernel_does_not_take_is_padded(
    device: str, dtype: torch.dtype, widths: tuple[int, int], softcap: float | None, reason: str
) -> None:
    found = attention_for(device, dtype, widths, softcap)
    assert isinstance(found, Padded)
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(found.reason)


def test_the_kernel_is_torchs() -> None:
    found = attention_for("cuda", torch.bfloat16, (64, 64))
    assert not isinstance(found, Padded)
    # It takes these arguments: its shapes are checked without a GPU.
    lengths, starts = torch.tensor([1, 1]), torch.tensor([0, 9])
    arranged = layout(lengths, torch.tensor([4, 6]), starts, 20)
    part = variable_length.Ragged(arranged, torch.device("meta"))
    store = KVCache()
    store.reserve(20)
    k = torch.empty(2, 2, 64, dtype=torch.bfloat16, device="meta")
    store.write(0, torch.tensor([4, 15], device="meta"), k, k)
    q = torch.empty(2, 8, 64, dtype=torch.bfloat16, device="meta")
    for window in (None, 4):
        assert part.attend(0, store, q, k, k, kernel=found, window=window, scaling=0.1).shape == q.shape


def test_cudnn_is_excluded(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = list[bool]()
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", chosen.append)
    variable_length.disable_cudnn_attention()
    assert chosen == [False]


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU: torch has no variable-length attention on a CPU"
)
@pytest.mark.parametrize("architecture", EVERY)
@pytest.mark.parametrize("keep", [True, False])
@torch.no_grad()
def test_on_a_gpu_the_kernel_gives_what_padded_rows_give(
    architecture: str, keep: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tiny_policy(architecture)
    policy.model.to("cuda", torch.bfloat16)
    shapes = [(0, 5), (40, 3), (17, 30), (40, 3), (0, 1), (3, 12), (29, 1)]
    found = []
    for padded in (False, True):
        if padded:
            monkeypatch.setattr(packing, "attention_for", lambda *_: Padded("for comparison"))
        store = KVCache()
        store.reserve(7 * 50)
        begun = [Block(some_ids(past, n), 0, 50 * n) for n, (past, _) in enumerate(shapes) if past]
        policy.forward_packed(pack(begun, policy.device, store=store, keep=True))
        blocks = [Block(some_ids(own, n), past, 50 * n) for n, (past, own) in enumerate(shapes)]
        found.append(policy.forward_packed(pack(blocks, policy.device, store=store, keep=keep)).float())
        spans = [Span(50 * n, 50) for n in range(7)]
        if keep:
            step = pack_slots([5] * 7, spans, [past + own for past, own in shapes], policy.device, store=store)
            found[-1] = torch.cat([found[-1], policy.forward_packed(step)[step.first].float()])
    torch.testing.assert_close(found[0], found[1], atol=0.1, rtol=0.05)
