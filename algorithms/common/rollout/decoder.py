"""Decoding of many episodes at once. Each live episode holds a slot of the KV cache, so nothing is read twice;
episodes start, prefill, decode and end independently of each other (continuous batching).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from algorithms.common.base.memory_line import MemoryLine
from algorithms.common.model.kv_cache import CachedPrefixes, KVCache
from algorithms.common.model.logprobs import tempered_log_softmax
from algorithms.common.model.packing import Block, pack, pack_slots, split_by_budget
from algorithms.common.model.policy import Policy
from algorithms.common.model.turn_end import TurnEnd
from algorithms.common.rollout.config import EngineSettings
from algorithms.common.rollout.engines.base import GenerationSizes
from algorithms.common.rollout.turn_decoder import Completion

# Bytes per logit of one slot while a token is sampled: float32 rows, stacked, as log-probs and as probabilities.
DRAWING = 4 + 4 + 4 + 4
BLOCK = 256  # tokens whose weights are summed before the token is located
BELOW_ONE = 1 - 2**-52  # a factor that makes every float64 number smaller


@dataclass
class _Slot:
    """An episode: the tokens stored in its slot, and those written in this turn."""

    generator: np.random.Generator | None
    stored: list[int]
    ids: list[int]
    logprobs: list[float]


def slots_within(kv_cache_tokens: int, slots: int, context_length: int) -> int:
    """How many of `slots` episodes fit into a cache of `kv_cache_tokens`, a whole context each; at least 1."""
    return max(1, min(slots, kv_cache_tokens // context_length))


def slot_size(stride: int, tokens: int, context_length: int) -> int:
    """Tokens that a slot of `stride` has room for when an episode needs `tokens`: `stride`, or more by at least half,
    so that long episodes copy the cache only a few times; at most a whole context."""
    if tokens <= stride:
        return stride
    return min(-(-max(tokens, stride * 3 // 2) // 64) * 64, context_length)


def decoder_memory(settings: EngineSettings, sizes: GenerationSizes) -> Iterator[MemoryLine]:
    """The memory of the built-in decoder, like `Engine.memory` of the engines."""
    slots = slots_within(settings.kv_cache_tokens, sizes.episodes, sizes.context)
    stride = 0
    for tokens in sizes.turns:
        stride = slot_size(stride, min(tokens, sizes.context), sizes.context)
    most = slots * sizes.context * sizes.token_bytes / 2**30
    detail = f"{slots} episodes of {stride:,} tokens; {most:.2f} GiB if they fill the context"
    yield MemoryLine("keys and values", slots * stride * sizes.token_bytes, detail)
    yield MemoryLine("logits", DRAWING * slots * sizes.vocabulary, f"of {slots} episodes", "rollout")


class Decoder:
    """Writes the turns of many episodes.

    Args:
        policy: the model that decodes.
        turn_end: detects the end of a turn.
        slots: maximum number of live episodes.
        max_new_tokens: maximum tokens per turn.
        temperature: 0 decodes greedily (log-probs are then those at temperature 1).
        kv_cache_tokens: limits the slots: each has room for as many tokens as the policy's context.
        pass_tokens: maximum tokens of a prefill pass.
        store: KV cache of a finished decoder, whose memory is reused.
        asynchronous: `TurnDecoder.asynchronous`.
    """

    # A pass costs about as much for a few rows as for one, so prefilling each episode by itself would double the
    # passes, and an episode that is held back leaves its place in them empty. With turns of L tokens the sum of both is
    # least where sqrt(2 / L) of them are prefilled together: 0.45 for L = 10, 0.2 for L = 50.
    prefill_share = 0.25

    def __init__(
        self,
        policy: Policy,
        turn_end: TurnEnd,
        *,
        slots: int,
        max_new_tokens: int,
        temperature: float,
        kv_cache_tokens: int = 262_144,
        pass_tokens: int = 8_192,
        store: KVCache | None = None,
        asynchronous: bool = False,
    ) -> None:
        self.policy = policy
        self.turn_end = turn_end
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.pass_tokens = pass_tokens
        self.asynchronous = asynchronous
        slots = slots_within(kv_cache_tokens, slots, policy.context_length)
        self.store = store or KVCache()
        self.store.reserve(slots, 0)
        # Slots that never held an episode come first: those that did stay readable as `prefixes` for longer.
        self._count = slots
        self._free = deque(range(slots))
        self._slots: dict[int, _Slot] = {}
        self._queue: dict[int, list[int]] = {}
        self._logits: dict[int, torch.Tensor] = {}

    @property
    def free(self) -> int:
        """Number of free slots."""
        return len(self._free)

    @property
    def writing(self) -> int:
        """Number of slots in the middle of a turn."""
        return len(self._logits)

    def begin(self, prompt: Sequence[int], generator: np.random.Generator | None = None) -> int:
        """Take a slot for an episode. `generator` makes all its draws, so they don't depend on other episodes."""
        slot = self._free.popleft()
        self._slots[slot] = _Slot(generator, [], [], [])
        self._queue[slot] = list(prompt)
        return slot

    def append_observation(self, slot: int, observation: Sequence[int]) -> None:
        """Queue the next turn of an episode: its last token, which is not read yet, and the observation."""
        state = self._slots[slot]
        self._queue[slot] = [state.ids[-1], *observation]
        state.ids, state.logprobs = [], []

    def end(self, slot: int) -> None:
        """Free the slot for another episode."""
        self._free.append(slot)

    def cancel(self) -> None:
        """`TurnDecoder.cancel`."""
        self._free, self._slots, self._queue, self._logits = deque(range(self._count)), {}, {}, {}

    @torch.no_grad()
    def prefill(self) -> None:
        """Prefill everything that is queued."""
        queue, self._queue = list(self._queue.items()), {}
        longest = max((len(self._slots[slot].stored) + len(ids) for slot, ids in queue), default=0)
        stride, context = self.store.stride, self.policy.context_length
        self.store.reserve(0, slot_size(stride, longest + self.max_new_tokens, context))
        for part in split_by_budget([len(ids) for _, ids in queue], self.pass_tokens):
            chosen = [queue[place] for place in part]
            blocks = [Block(ids, len(self._slots[slot].stored), slot * self.store.stride) for slot, ids in chosen]
            packed = pack(blocks, self.policy.device, store=self.store, keep=True)
            last = [first + len(block.ids) - 1 for first, block in zip(packed.first, blocks, strict=True)]
            logits = self.policy.logits(self.policy.forward_packed(packed)[last])
            for (slot, ids), row in zip(chosen, logits, strict=True):
                self._slots[slot].stored += ids
                self._logits[slot] = row

    @torch.no_grad()
    def decode_step(self, timeout: float | None = None) -> list[tuple[int, Completion]]:
        """Decode one token for each slot that is writing; returns the turns that are finished.

        A turn ends with a stop string, an EOS token or after `max_new_tokens`. `timeout` has no effect: it never waits.
        """
        slots = sorted(self._logits)
        tokens, logprobs = self._choose(slots)
        finished = []
        for slot, token, logprob in zip(slots, tokens, logprobs, strict=True):
            state = self._slots[slot]
            state.ids.append(token)
            state.logprobs.append(logprob)
            if self.turn_end.is_over(state.ids) or len(state.ids) == self.max_new_tokens:
                finished.append((slot, Completion(tuple(state.ids), tuple(state.logprobs))))
        done = {slot for slot, _ in finished}
        unfinished = [slot for slot in slots if slot not in done]
        self._logits = {}
        if unfinished:
            states = [self._slots[slot] for slot in unfinished]
            packed = pack_slots(
                [state.ids[-1] for state in states],
                unfinished,
                [len(state.stored) for state in states],
                self.policy.device,
                store=self.store,
            )
            logits = self.policy.logits(self.policy.forward_packed(packed))
            for slot, state, row in zip(unfinished, states, logits, strict=True):
                state.stored.append(state.ids[-1])
                self._logits[slot] = row
        return finished

    def prefixes(self) -> CachedPrefixes:
        """The sequences stored in the slots."""
        return CachedPrefixes(
            self.store, {slot * self.store.stride: tuple(s.stored) for slot, s in self._slots.items()}
        )

    def _choose(self, slots: list[int]) -> tuple[list[int], list[float]]:
        """Next token of each slot and its log-prob."""
        logits = torch.stack([self._logits[slot] for slot in slots])
        if self.temperature == 0:
            logps = torch.log_softmax(logits, dim=-1)
            tokens = logits.argmax(-1)
        else:
            logps = tempered_log_softmax(logits, self.temperature)
            draws = torch.tensor([self._draw(slot) for slot in slots], dtype=torch.float64)
            tokens = inverse_cdf(logps.exp(), draws.to(logits.device))
        return tokens.tolist(), logps.gather(-1, tokens[:, None]).squeeze(-1).tolist()

    def _draw(self, slot: int) -> float:
        generator = self._slots[slot].generator
        assert generator is not None  # sampling needs one
        return float(generator.random())


def inverse_cdf(weights_nV: torch.Tensor, draws_n: torch.Tensor) -> torch.Tensor:
    """The index [n] of each row whose interval of the row's CDF holds its draw.

    A row depends on its own draw only, not on the other rows of the batch. An index of weight 0 is never drawn.

    Args:
        weights_nV: not negative, and a row's sum is positive; they need not sum to 1.
        draws_n: float64, from [0, 1).
    """
    # Sums in float64, in two levels: of blocks, and within the block that holds the draw. A running sum over a whole
    # vocabulary takes longer than a decoding step's share of the output layer.
    n, V = weights_nV.shape
    blocks_nbB = F.pad(weights_nV, (0, -V % BLOCK)).view(n, -1, BLOCK)
    block_n, rest_n = _locate(blocks_nbB.sum(-1, dtype=torch.float64), draws_n)
    within_n, _ = _locate(blocks_nbB[torch.arange(n, device=block_n.device), block_n].double(), rest_n)
    return block_n * BLOCK + within_n


def _locate(weights_nk: torch.Tensor, draws_n: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The index that holds each draw, and the place of the draw in its interval, from [0, 1)."""
    ends_nk = weights_nk.cumsum(-1)
    targets_n1 = draws_n[:, None] * ends_nk[:, -1:]
    index_n1 = torch.searchsorted(ends_nk, targets_n1, right=True)
    widths_n1 = weights_nk.gather(-1, index_n1)
    places_n1 = (targets_n1 - (ends_nk.gather(-1, index_n1) - widths_n1)) / widths_n1
    return index_n1[:, 0], places_n1[:, 0].clamp(0, BELOW_ONE)
