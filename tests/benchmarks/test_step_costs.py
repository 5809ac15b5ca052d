"""The operations and bytes that the step model counts: against torch's counter, and against numbers made by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from algorithms.common.model.kv_cache import KVCache
from algorithms.common.model.kv_spans import Span
from algorithms.common.model.packing import Block, pack, pack_slots
from algorithms.common.model.policy import Policy
from benchmarks.policies import random_policy
from benchmarks.step_costs import (
    ADAMW_BYTES,
    ModelShape,
    Part,
    Pass,
    Rates,
    Work,
    forward,
    markdown,
    row,
    total,
    transfer,
    update,
)

SIZES = {"hidden_size": 32, "intermediate_size": 80, "num_attention_heads": 4, "num_key_value_heads": 2}
VOCABULARY = 1_225  # of the bundled tokenizer
QWEN_3B = ModelShape(36, 2_048, 11_008, 16, 2, 128, 151_936)


@pytest.fixture
def policy() -> Policy:
    return random_policy(SIZES, 3, tied=False)


def operations(work: object) -> float:
    return sum(w.operations for w in work)  # type: ignore[attr-defined]


def counted(run: object) -> int:
    # Its fused attention on a CPU is not counted; by products, every query meets every key, causal or not.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()  # type: ignore[operator]
    return int(counter.get_total_flops())


def test_the_shape_of_a_configuration(policy: Policy) -> None:
    shape = ModelShape.of(policy.model.config)
    assert shape == ModelShape(3, 32, 80, 4, 2, 8, VOCABULARY, tied=False)
    matrices = sum(p.numel() for p in policy.model.parameters() if p.dim() == 2)
    assert shape.weights == matrices


def test_forward_passes_agree_with_the_counter(policy: Policy) -> None:
    shape, store = ModelShape.of(policy.model.config), KVCache()
    store.reserve(4 * 64)

    @torch.no_grad()
    def prefill() -> None:
        blocks = [Block([300 + i] * 20, 0, 64 * slot) for i, slot in enumerate(range(4))]
        hidden = policy.forward_packed(pack(blocks, policy.device, store=store, keep=True))
        policy.logits(hidden[:4])

    @torch.no_grad()
    def branches() -> None:
        blocks = [Block([300] * 7, 20, 64 * slot) for slot in range(4)]
        policy.logits(policy.forward_packed(pack(blocks, policy.device, store=store))[:12])

    @torch.no_grad()
    def decode() -> None:
        packed = pack_slots([300] * 4, [Span(64 * slot, 64) for slot in range(4)], [20] * 4, policy.device, store=store)
        policy.logits(policy.forward_packed(packed))

    for run, squares in (
        (prefill, Pass(80, 4 * 20 * 20, 0, 4)),
        (branches, Pass(28, 4 * 7 * 27, 80, 12)),
        (decode, Pass(4, 4 * 21, 80, 4)),
    ):
        assert counted(run) == operations(forward(shape, [squares])), run.__name__


@pytest.mark.parametrize("recomputed", [False, True])
def test_updates_agree_with_the_counter(recomputed: bool) -> None:
    base = random_policy(SIZES, 3, tied=False)
    policy = Policy(base.model, base.tokenizer.hf_tokenizer, gradient_checkpointing=recomputed)
    shape = ModelShape.of(policy.model.config)
    ids_BT = torch.full((2, 12), 300)
    mask_BT = torch.zeros(2, 12, dtype=torch.bool)
    mask_BT[:, -5:] = True

    def run() -> None:
        policy.token_logprobs(ids_BT, mask_BT)[0].sum().backward()  # type: ignore[no-untyped-call]

    squares = Pass(24, 2 * 12 * 12, 0, 10)
    expected = operations(update(shape, [squares], recomputed=recomputed))
    # By products, scores are kept rather than computed again: 2 in place of 2.5 forward passes.
    kept = 0.5 * 4 * shape.layers * shape.heads * shape.head_dim * squares.pairs
    assert counted(run) == expected - kept


def test_pairs_of_blocks() -> None:
    # 3 tokens after 5 attend to 6, 7 and 8 tokens; 2 tokens after nothing to 1 and 2.
    assert Pass.of_blocks([(3, 5), (2, 0)], scored=1) == Pass(5, 21 + 3, 5, 1)


def test_qwen_3b_by_hand() -> None:
    # A layer: queries and output 2,048 x 2,048, keys and values 256 x 2,048, three of 11,008 x 2,048.
    assert QWEN_3B.layer_weights == 36 * (2 * 4_194_304 + 2 * 524_288 + 3 * 22_544_384) == 2_774_532_096
    assert QWEN_3B.output_weights == 311_164_928
    assert QWEN_3B.weights == 3_085_697_024
    assert QWEN_3B.kv_bytes(2) == 36 * 2 * 256 * 2 == 36_864
    layers, attention, output = forward(QWEN_3B, [Pass.of_blocks([(1_000, 0)], scored=1)], 2)
    assert layers.operations == 2 * 2_774_532_096 * 1_000
    assert layers.bytes == 2 * 2_774_532_096
    assert attention.operations == 4 * 36 * 2_048 * 500_500
    assert attention.bytes == 1_000 * 36_864
    assert (output.operations, output.bytes, output.rows) == (2 * 311_164_928, 2 * 311_164_928, 1)


def test_an_update_of_qwen_3b_by_hand() -> None:
    one = [Pass(100, 5_050, 0, 40)]
    layers, attention, output, adamw = update(QWEN_3B, one)
    assert layers.operations == 6 * 2_774_532_096 * 100
    assert attention.operations == 3.5 * 4 * 36 * 2_048 * 5_050
    assert output.operations == 6 * 311_164_928 * 40
    assert adamw.bytes == ADAMW_BYTES * 3_085_697_024
    layers, attention, output, _ = update(QWEN_3B, one, recomputed=True, output_recomputed=True)
    assert layers.operations == 2 * 100 * (4 * 2_774_532_096 - 36 * 22_544_384)  # not the last matrix of a layer
    assert attention.operations == 4.5 * 4 * 36 * 2_048 * 5_050
    assert output.operations == 8 * 311_164_928 * 40
    assert transfer(QWEN_3B, 2).bytes == 4 * 3_085_697_024


RATES = Rates(((1, 10.0), (5, 50.0), (9, 60.0)), attention=20.0, bandwidth=100.0)


@pytest.mark.parametrize(
    ("work", "seconds"),
    [
        (Work(100, 0, rows=1), 10.0),
        (Work(100, 2_000, rows=1), 20.0),  # bound by its bytes
        (Work(300, 0, rows=3), 10.0),  # between two measured numbers of rows
        (Work(100, 0, rows=0), 10.0),
        (Work(600, 0, rows=1_000), 10.0),  # beyond the measured ones
        (Work(200, 100, attention=True), 10.0),
        (Work(0, 500), 5.0),
    ],
)
def test_seconds_of_work(work: Work, seconds: float) -> None:
    assert RATES.seconds([work]) == pytest.approx(seconds)


def test_a_table_of_parts() -> None:
    parts = [Part.of("a", 1_000, [Work(100, 0, rows=1)], RATES, 20.0), Part("b", 0, 0, 0, 0.0, 2.5)]
    whole = total("step", parts)
    assert (whole.floor, whole.measured, whole.ratio) == (10.0, 22.5, 2.25)
    assert row(parts[0]) == ("a", "1,000", "0.0", "", "10.000", "20.000", "2.00")
    assert row(parts[1])[4:] == ("", "2.500", "")
    assert markdown(("x", "y"), [("1", "2")]) == "| x | y |\n|---|---|\n| 1 | 2 |"
