"""Operations and bytes of the parts of a training step, counted from the shape of a model and the tokens of its passes.

Pure arithmetic, without torch. An operation is a multiplication or an addition, as `torch.utils.flop_counter` counts.
A pass multiplies each of its tokens with the weights of every layer; attention multiplies each pair of a query and a
key that it may attend to; the output layer is computed only where a distribution over tokens is needed.

    layers       2 W n            W: weights of the matrices of all layers, n: tokens
    attention    4 L H d p        L: layers, H: heads, d: their width, p: pairs of a query and a key
    output       2 h V s          h: width, V: vocabulary, s: positions where it is computed

A backward pass takes two products for each of a forward pass. `Rates` turns work into the seconds that it takes at
least on a machine. Mixtures of experts are not modelled.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

# Products of attention in a backward pass, over the two of a forward pass: scores are computed again rather than kept.
ATTENTION_BACKWARD = 2.5
ADAMW_BYTES = 32  # a float32 weight: reads weight, gradient (again for its norm), moments; writes weight and moments


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a decoder with gated feed-forward layers (Llama, Qwen2)."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool = True

    @classmethod
    def of(cls, config: Any) -> ModelShape:
        """The shape that a configuration of transformers describes."""
        heads = config.num_attention_heads
        return cls(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            heads=heads,
            kv_heads=config.num_key_value_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            vocabulary=config.vocab_size,
            tied=config.tie_word_embeddings,
        )

    @property
    def matrices(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of the matrices of a layer: queries, keys, values, output, gate, up, down."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        h, f = self.hidden, self.intermediate
        return (q, h), (kv, h), (kv, h), (h, q), (f, h), (f, h), (h, f)

    @property
    def layer_weights(self) -> int:
        """Weights of the matrices of all layers, W."""
        return self.layers * sum(rows * columns for rows, columns in self.matrices)

    @property
    def output_weights(self) -> int:
        """Weights of the output layer."""
        return self.hidden * self.vocabulary

    @property
    def weights(self) -> int:
        """All weights that count: layers, output layer, and the embedding if it is another matrix."""
        return self.layer_weights + self.output_weights * (1 if self.tied else 2)

    def kv_bytes(self, size: int) -> int:
        """Bytes of the keys and values of one token, `size` bytes a number."""
        return 2 * self.layers * self.kv_heads * self.head_dim * size


@dataclass(frozen=True)
class Pass:
    """The tokens of one forward pass.

    `pairs`: of a query and a key that it attends to; `past`: tokens whose keys and values are read from a cache;
    `scored`: positions where the output layer is computed.
    """

    tokens: int
    pairs: int
    past: int = 0
    scored: int = 0

    @classmethod
    def of_blocks(cls, blocks: Iterable[tuple[int, int]], scored: int = 0) -> Pass:
        """Of blocks of `length` tokens that each follow `past` others."""
        tokens = pairs = before = 0
        for length, past in blocks:
            tokens, before = tokens + length, before + past
            pairs += length * past + length * (length + 1) // 2
        return cls(tokens, pairs, before, scored)


@dataclass(frozen=True)
class Work:
    """Matrix products of `rows` rows, or `attention`; and the bytes that have to be read or written meanwhile."""

    operations: float
    bytes: float
    rows: int = 0
    attention: bool = False


def forward(shape: ModelShape, passes: Iterable[Pass], size: int = 4, weight_size: int = 0) -> Iterator[Work]:
    """Work of forward passes.

    Args:
        size: bytes of a key or value.
        weight_size: bytes of a weight as it is stored; 0: `size`.
    """
    weight_size = weight_size or size
    kv = shape.kv_bytes(size)
    for one in passes:
        yield Work(2 * shape.layer_weights * one.tokens, shape.layer_weights * weight_size, one.tokens)
        # Keys and values of the pass itself are written once; those of earlier tokens are read once.
        yield Work(_attention(shape, one.pairs), kv * (one.past + one.tokens), attention=True)
        if one.scored:
            yield Work(2 * shape.output_weights * one.scored, shape.output_weights * weight_size, one.scored)


def update(
    shape: ModelShape,
    passes: Iterable[Pass],
    *,
    recomputed: bool = False,
    output_recomputed: bool = False,
    adapters: bool = False,
    steps: int = 1,
    weight_size: int = 4,
) -> Iterator[Work]:
    """Work of forward and backward passes over micro-batches, and of `steps` steps of AdamW in float32.

    `recomputed`: activations of layers are computed again in the backward pass; `output_recomputed`: so are logits.
    `adapters`: the weights are frozen and have no gradient; the operations of adapters are not counted.
    """
    # The last product of a layer, whose result nothing reads in a backward pass, is not computed again.
    again = shape.layer_weights - shape.layers * shape.hidden * shape.intermediate if recomputed else 0
    whole = 2 if adapters else 3  # products with each weight
    for one in passes:
        layers = 2 * one.tokens * (whole * shape.layer_weights + again)
        yield Work(layers, whole * shape.layer_weights * weight_size, one.tokens)
        yield Work(_attention(shape, one.pairs) * (1 + ATTENTION_BACKWARD + recomputed), 0, attention=True)
        if one.scored:
            products = 2 * (whole + output_recomputed)
            moved = whole * shape.output_weights * weight_size
            yield Work(products * shape.output_weights * one.scored, moved, one.scored)
    if not adapters:
        yield Work(0, steps * ADAMW_BYTES * shape.weights)


def transfer(shape: ModelShape, size: int) -> Work:
    """A copy of all weights, `size` bytes each, within the memory of a machine."""
    return Work(0, 2 * size * shape.weights)


def _attention(shape: ModelShape, pairs: float) -> float:
    return 4 * shape.layers * shape.heads * shape.head_dim * pairs


@dataclass(frozen=True)
class Rates:
    """What a machine can do at most.

    `products`: operations per second of products by number of rows, in ascending order; `attention`: of those of
    attention; `bandwidth`: bytes per second of its memory.
    """

    products: tuple[tuple[int, float], ...]
    attention: float
    bandwidth: float

    def of(self, rows: int) -> float:
        """Operations per second of a product of `rows` rows, interpolated."""
        known = [count for count, _ in self.products]
        place = bisect_left(known, rows)
        if place == 0 or place == len(known):
            return self.products[min(place, len(known) - 1)][1]
        (low, slow), (high, fast) = self.products[place - 1 : place + 1]
        return slow + (fast - slow) * (rows - low) / (high - low)

    def seconds(self, work: Iterable[Work]) -> float:
        """The least time for all work: each kind of each pass is bound by its operations or by its bytes."""
        return sum(
            max(
                w.operations / (self.attention if w.attention else self.of(w.rows)) if w.operations else 0.0,
                w.bytes / self.bandwidth,
            )
            for w in work
        )


@dataclass(frozen=True)
class Part:
    """A part of a step: its work, its floor in seconds, and the seconds that it took."""

    name: str
    tokens: int
    operations: float
    bytes: float
    floor: float
    measured: float

    @classmethod
    def of(cls, name: str, tokens: int, work: Sequence[Work], rates: Rates, measured: float) -> Part:
        """`work` at `rates`."""
        operations, moved = sum(w.operations for w in work), sum(w.bytes for w in work)
        return cls(name, tokens, operations, moved, rates.seconds(work), measured)

    def __add__(self, other: Part) -> Part:
        return replace(
            self,
            tokens=self.tokens + other.tokens,
            operations=self.operations + other.operations,
            bytes=self.bytes + other.bytes,
            floor=self.floor + other.floor,
            measured=self.measured + other.measured,
        )

    @property
    def ratio(self) -> float:
        """Measured over floor; infinite for a part that has none."""
        return self.measured / self.floor if self.floor else float("inf")


def total(name: str, parts: Sequence[Part]) -> Part:
    """The sum of parts, under a name."""
    result = Part(name, 0, 0.0, 0.0, 0.0, 0.0)
    for part in parts:
        result += part
    return result


HEADER = ("", "tokens", "GFLOP", "GB", "floor, s", "measured, s", "measured over floor")


def row(part: Part) -> tuple[str, ...]:
    """A part as cells below `HEADER`."""
    return (
        part.name,
        f"{part.tokens:,}" if part.tokens else "",
        f"{part.operations / 1e9:,.1f}" if part.operations else "",
        f"{part.bytes / 1e9:,.2f}" if part.bytes else "",
        f"{part.floor:.3f}" if part.floor else "",
        f"{part.measured:.3f}",
        f"{part.ratio:.2f}" if part.floor else "",
    )


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table for a page."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])
