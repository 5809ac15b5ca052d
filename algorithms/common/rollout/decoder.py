"""Decoding of many episodes at once. Each live episode has its keys and values in the KV cache, so nothing is read
twice; episodes start, prefill, decode and end independently of each other (continuous batching).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from algorithms.common.model.kv_cache import CachedPrefixes, KVCache
from algorithms.common.model.logprobs import tempered_log_softmax
from algorithms.common.model.packing import Block, pack, pack_slots, split_by_budget
from algorithms.common.model.policy import Policy
from algorithms.common.model.turn_end import TurnEnd
from algorithms.common.rollout.kv_space import KVSpace, limited_rows
from algorithms.common.rollout.turn_decoder import Completion

BLOCK = 256  # tokens among which the second draw of a token chooses


@dataclass
class _Episode:
    """A live episode, or the last one of a slot."""

    number: int
    generator: np.random.Generator | None
    ids: list[int]
    """All its tokens so far."""
    begun: int
    """Number of tokens before the turn that is being written."""
    stored: int = 0
    """Number of tokens whose keys and values are stored: the first ones."""
    logprobs: list[float] = field(default_factory=list)
    """Of the tokens of this turn."""


class Decoder:
    """Writes the turns of many episodes.

    The keys and values of the live episodes are at most `kv_cache_tokens`. Where episodes grow beyond, the youngest one
    is preempted: its rows are freed, and it is read again when there is room. This changes no result.

    Args:
        policy: the model that decodes.
        turn_end: detects the end of a turn.
        slots: maximum number of live episodes.
        max_new_tokens: maximum tokens per turn.
        temperature: 0 decodes greedily (log-probs are then those at temperature 1).
        kv_cache_tokens: maximum rows of the KV cache, a row per token; at least a context of the policy is used.
        pass_tokens: maximum tokens of a prefill pass.
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
        asynchronous: bool = False,
    ) -> None:
        self.policy = policy
        self.turn_end = turn_end
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.pass_tokens = pass_tokens
        self.asynchronous = asynchronous
        self.store = KVCache()
        rows = limited_rows(kv_cache_tokens, policy.context_length)
        self.space = KVSpace(rows, policy.context_length, aligned=not policy.attends_by_length)
        # Slots that never held an episode come first: those that did stay readable as `prefixes` for longer.
        self._free = deque(range(slots))
        self._episodes: dict[int, _Episode] = {}
        self._live: set[int] = set()
        self._queue: dict[int, None] = {}  # slots that have tokens to read, in the order in which they got them
        self._logits: dict[int, torch.Tensor] = {}
        self._begun = 0
        self._ended_tokens = 0
        self._reserved: int | None = 0  # sum of `_claim` over live episodes; None: it has changed

    @property
    def free(self) -> int:
        """Number of episodes that can begin: free slots, as far as the cache has room; 1 if no episode is live."""
        if self._reserved is None:
            self._reserved = sum(map(self._claim, self._live))
        room = (self.space.rows - self._reserved) // self._claim()
        return min(len(self._free), max(room, 0 if self._live else 1))

    @property
    def writing(self) -> int:
        """Number of slots in the middle of a turn."""
        return len(self._logits)

    def begin(self, prompt: Sequence[int], generator: np.random.Generator | None = None) -> int:
        """Take a slot for an episode. `generator` makes all its draws, so they don't depend on other episodes."""
        slot = self._free.popleft()
        self.space.release(slot)  # of its last episode
        self._episodes[slot] = _Episode(self._begun, generator, list(prompt), len(prompt))
        self._begun += 1
        self._live.add(slot)
        self._queue[slot] = None
        if self._reserved is not None:
            self._reserved += self._claim(slot)
        return slot

    def append_observation(self, slot: int, observation: Sequence[int]) -> None:
        """Queue the next turn of an episode: its last token, which is not read yet, and the observation."""
        episode = self._episodes[slot]
        episode.ids += observation
        episode.begun, episode.logprobs = len(episode.ids), []
        self._queue[slot] = None
        self._reserved = None

    def end(self, slot: int) -> None:
        """Free the slot for another episode."""
        self.space.end(slot)
        self._live.remove(slot)
        self._ended_tokens += self._needs(slot)
        self._free.append(slot)
        self._reserved = None

    def cancel(self) -> None:
        """`TurnDecoder.cancel`."""
        for slot in sorted(self._live):
            self.end(slot)
        self._queue, self._logits = {}, {}

    @torch.no_grad()
    def prefill(self) -> None:
        """Prefill what is queued. Episodes for which there is no room stay queued, the youngest first: call it again.

        Where all live episodes are queued, at least one is read.
        """
        queue = self._with_room()
        for part in split_by_budget([len(self._unread(slot)) for slot in queue], self.pass_tokens):
            chosen = [queue[place] for place in part]
            blocks = [
                Block(self._unread(slot), self._episodes[slot].stored, self.space.live[slot].start) for slot in chosen
            ]
            packed = pack(blocks, self.policy.device, store=self.store, keep=True)
            last = [first + len(block.ids) - 1 for first, block in zip(packed.first, blocks, strict=True)]
            logits = self.policy.logits(self.policy.forward_packed(packed)[last])
            for slot, row in zip(chosen, logits, strict=True):
                self._episodes[slot].stored = len(self._episodes[slot].ids)
                self._logits[slot] = row

    @torch.no_grad()
    def decode_step(self, timeout: float | None = None) -> list[tuple[int, Completion]]:
        """Decode one token for each slot that is writing; returns the turns that are finished.

        A turn ends with a stop string, an EOS token or after `max_new_tokens`. `timeout` has no effect: it never waits.
        """
        slots = sorted(self._logits)
        if not slots:
            return []
        tokens, logprobs = self._choose(slots)
        finished = []
        for slot, token, logprob in zip(slots, tokens, logprobs, strict=True):
            episode = self._episodes[slot]
            episode.ids.append(token)
            episode.logprobs.append(logprob)
            turn = episode.ids[episode.begun :]
            if self.turn_end.is_over(turn) or len(turn) == self.max_new_tokens:
                finished.append((slot, Completion(tuple(turn), tuple(episode.logprobs))))
        done = {slot for slot, _ in finished}
        unfinished = [slot for slot in slots if slot not in done]
        self._logits = {}
        if unfinished:
            episodes = [self._episodes[slot] for slot in unfinished]
            packed = pack_slots(
                [episode.ids[-1] for episode in episodes],
                [self.space.live[slot] for slot in unfinished],
                [episode.stored for episode in episodes],
                self.policy.device,
                store=self.store,
            )
            logits = self.policy.logits(self.policy.forward_packed(packed))
            for slot, episode, place in zip(unfinished, episodes, packed.first, strict=True):
                episode.stored += 1
                self._logits[slot] = logits[place]
        return finished

    def prefixes(self) -> CachedPrefixes:
        """The sequences whose keys and values are stored."""
        spans = self.space.live | self.space.ended
        episodes = ((span.start, self._episodes[slot]) for slot, span in spans.items())
        return CachedPrefixes(self.store, {start: tuple(e.ids[: e.stored]) for start, e in episodes if e.stored})

    # ---------------------------------------------------------------- room in the cache

    def _claim(self, slot: int | None = None) -> int:
        """Rows that an episode counts with when others begin: what it needs now, or the mean of those that ended."""
        ended = self._begun - len(self._live)
        usual = self.space.needed(self._ended_tokens // ended if ended else 0)
        return usual if slot is None else max(usual, self.space.needed(self._needs(slot)))

    def _needs(self, slot: int) -> int:
        """Tokens that an episode may have at the end of its turn."""
        return self._episodes[slot].begun + self.max_new_tokens

    def _unread(self, slot: int) -> list[int]:
        return self._episodes[slot].ids[self._episodes[slot].stored :]

    def _with_room(self) -> list[int]:
        """Give queued episodes room for their turns, the oldest first; returns those that have it, off the queue."""
        old = dict(self.space.live)
        placed: set[int] = set()
        for slot in sorted(self._queue, key=self._age):
            while not (has_room := self.space.grow(slot, self._needs(slot))):
                youngest = max(self.space.live, key=self._age, default=slot)
                if self._age(youngest) <= self._age(slot):
                    break
                self._preempt(youngest)
            if has_room:
                placed.add(slot)
        self.store.reserve(self.space.high)
        new = self.space.live
        self.store.move(
            [
                (old[slot].start, new[slot].start, self._episodes[slot].stored)
                for slot in sorted(placed & old.keys(), key=self._age)
                if old[slot].start != new[slot].start and self._episodes[slot].stored
            ]
        )
        queue = [slot for slot in self._queue if slot in placed]
        for slot in queue:
            del self._queue[slot]
        return queue

    def _age(self, slot: int) -> int:
        return self._episodes[slot].number

    def _preempt(self, slot: int) -> None:
        """Free the rows of an episode. It is read again before it writes further."""
        self.space.release(slot)
        self._episodes[slot].stored = 0
        if self._logits.pop(slot, None) is not None:  # in the middle of a turn, whose last token was read
            self._queue[slot] = None

    def _choose(self, slots: list[int]) -> tuple[list[int], list[float]]:
        """Next token of each slot and its log-prob."""
        logits = torch.stack([self._logits[slot] for slot in slots])
        if self.temperature == 0:
            logps = torch.log_softmax(logits, dim=-1)
            tokens = logits.argmax(-1)
        else:
            logps = tempered_log_softmax(logits, self.temperature)
            draws = torch.tensor([self._draws(slot) for slot in slots], dtype=torch.float64)
            tokens = inverse_cdf(logps.exp(), draws.to(logits.device))
        return tokens.tolist(), logps.gather(-1, tokens[:, None]).squeeze(-1).tolist()

    def _draws(self, slot: int) -> list[float]:
        generator = self._episodes[slot].generator
        assert generator is not None  # sampling needs one
        draws: list[float] = generator.random(2).tolist()
        return draws


def inverse_cdf(weights_nV: torch.Tensor, draws_n2: torch.Tensor) -> torch.Tensor:
    """An index [n] of each row, drawn in proportion to its weight: a block by the first draw, one of it by the second.

    A row depends on its own draws only, not on the other rows of the batch. An index of weight 0 is never drawn.

    Args:
        weights_nV: not negative, and a row's sum is positive; they need not sum to 1.
        draws_n2: float64, from [0, 1).
    """
    # Rounding, which depends on the other rows of a pass, moves every boundary of the CDF a little, and a draw next to
    # one gives another token. With one draw there are as many boundaries as tokens, each off by the errors of all
    # tokens before it: with a vocabulary of 49,152 a fifth of the episodes of a hundred tokens then differed. Sums are
    # in float64. A running sum over a whole vocabulary takes longer than a decoding step's share of the output layer.
    n, V = weights_nV.shape
    blocks_nbB = F.pad(weights_nV, (0, -V % BLOCK)).view(n, -1, BLOCK)
    block_n = _locate(blocks_nbB.sum(-1, dtype=torch.float64), draws_n2[:, 0])
    within_nB = blocks_nbB[torch.arange(n, device=block_n.device), block_n]
    return block_n * BLOCK + _locate(within_nB.double(), draws_n2[:, 1])


def _locate(weights_nk: torch.Tensor, draws_n: torch.Tensor) -> torch.Tensor:
    """The index [n] of each row whose interval of the row's CDF holds its draw."""
    ends_nk = weights_nk.cumsum(-1)
    return torch.searchsorted(ends_nk, draws_n[:, None] * ends_nk[:, -1:], right=True)[:, 0]
