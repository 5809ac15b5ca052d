"""Decoding of many episodes at once with one key/value cache that lives across their turns: nothing is read twice.

Rows of a batch have different lengths, so the cache has holes: `valid_BL[b, l]` says whether column l of row b
holds a token. Between turns finished rows leave and holes are squeezed out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache, DynamicLayer

from algorithms.common.policy import Policy


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values in a buffer with room to grow, so that a new token copies nothing old."""

    keys: torch.Tensor
    values: torch.Tensor
    is_initialized: bool

    def __init__(self) -> None:
        super().__init__()
        self.length = 0
        self.room = 0  # columns to reserve beyond what is stored, set before each turn

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        end = self.length + key_states.shape[-2]
        if not self.is_initialized or end > self.keys.shape[-2]:
            self._grow(key_states, end + self.room)
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def _grow(self, like: torch.Tensor, capacity: int) -> None:
        B, heads, _, width = like.shape
        fresh = [like.new_empty(B, heads, capacity, width) for _ in range(2)]
        if self.is_initialized:
            fresh[0][:, :, : self.length] = self.keys[:, :, : self.length]
            fresh[1][:, :, : self.length] = self.values[:, :, : self.length]
        self.keys, self.values = fresh
        self.dtype, self.device = like.dtype, like.device
        self.is_initialized = True

    def get_seq_length(self) -> int:
        return self.length

    def keep(self, rows: torch.Tensor, columns: torch.Tensor) -> None:
        """Keep `columns[b]` of `rows[b]`, in that order."""
        index = columns[:, None, :, None].expand(-1, self.keys.shape[1], -1, self.keys.shape[3])
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_empty(len(rows), old.shape[1], columns.shape[1] + self.room, old.shape[3])
            new[:, :, : columns.shape[1]] = old[rows].gather(2, index)
            setattr(self, name, new)
        self.length = columns.shape[1]

    def fork(self, rows: torch.Tensor, columns: int, *, room: int) -> GrowingLayer:
        """A new layer that begins with the first `columns` of `rows` (which may repeat), with `room` for more."""
        new = GrowingLayer()
        _, heads, _, width = self.keys.shape
        for name in ("keys", "values"):
            buffer = self.keys.new_empty(len(rows), heads, columns + room, width)
            buffer[:, :, :columns] = getattr(self, name)[:, :, :columns][rows]
            setattr(new, name, buffer)
        new.length, new.dtype, new.device, new.is_initialized = columns, self.dtype, self.device, True
        return new


@dataclass(frozen=True)
class Completion:
    """What the policy wrote in one turn: ids and their log-probs under the sampling distribution."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]


class Decoder:
    """Writes the turns of a batch of episodes.

    Use: `start(prompts)`, then in turn `complete()` and `proceed(observations)` until no row is left.

    Args:
        policy: what writes.
        max_new_tokens: of one turn.
        temperature: 0 decodes greedily (log-probs are then those at temperature 1).
        generators: one per row of `start`, so that what a row draws does not depend on its neighbours.
            Not used by greedy decoding.
    """

    def __init__(
        self, policy: Policy, *, max_new_tokens: int, temperature: float, generators: Sequence[np.random.Generator] = ()
    ) -> None:
        self.policy = policy
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.generators = list(generators)
        self.layers = [GrowingLayer() for _ in range(policy.model.config.num_hidden_layers)]
        self.cache = Cache(layers=self.layers)

    @torch.no_grad()
    def start(self, prompts: Sequence[Sequence[int]]) -> None:
        """Read the prompts, one row each."""
        B, device = len(prompts), self.policy.device
        self.valid_BL = torch.zeros(B, 0, dtype=torch.bool, device=device)
        self.positions_B = torch.zeros(B, dtype=torch.long, device=device)
        self.last = [0] * B  # the last sampled token of each row: not yet read
        self._read([list(prompt) for prompt in prompts])

    @torch.no_grad()
    def proceed(self, observations: Sequence[Sequence[int] | None]) -> None:
        """Read what each row observed; None drops the row."""
        rows = [row for row, observed in enumerate(observations) if observed is not None]
        if not rows:
            return
        kept = torch.tensor(rows, device=self.policy.device)
        valid = self.valid_BL[kept]
        longest = int(valid.sum(1).max())
        # A stable sort of the flags puts holes first and keeps the order of the rest: rows end up right-aligned.
        columns = valid.int().argsort(dim=1, stable=True)[:, valid.shape[1] - longest :]
        blocks = [[self.last[row], *(observations[row] or ())] for row in rows]
        for layer in self.layers:
            layer.room = max(map(len, blocks)) + self.max_new_tokens
            layer.keep(kept, columns)
        self.valid_BL = valid.gather(1, columns)
        self.positions_B = self.positions_B[kept]
        self.generators = [self.generators[row] for row in rows] if self.generators else []
        self.last = [self.last[row] for row in rows]
        self._read(blocks)

    def _read(self, blocks: list[list[int]]) -> None:
        """Append one block a row to the cache and keep the logits after it."""
        B, device = len(blocks), self.policy.device
        m = max(map(len, blocks))
        ids = torch.full((B, m), self.policy.pad_id)
        new = torch.zeros(B, m, dtype=torch.bool)
        for row, block in enumerate(blocks):  # padded on the left: every row's last token is in the last column
            ids[row, m - len(block) :] = torch.tensor(block)
            new[row, m - len(block) :] = True
        ids, new = ids.to(device), new.to(device)
        for layer in self.layers:
            layer.room = max(layer.room, self.max_new_tokens)
        positions = (self.positions_B[:, None] + new.long().cumsum(1) - 1).clamp(min=0)
        old = self.valid_BL.shape[1]
        self.valid_BL = torch.cat([self.valid_BL, new], dim=1)
        columns = torch.arange(old + m, device=device)
        queries = columns[old:]
        # A query sees the valid columns up to its own; its own always, or a pad's softmax would have no support.
        mask = (self.valid_BL[:, None, :] & (columns <= queries[:, None])) | (columns == queries[:, None])
        self.logits_BV = self._forward(ids, positions, mask[:, None])
        self.positions_B = self.positions_B + new.sum(1)

    def _forward(self, ids_Bm: torch.Tensor, positions_Bm: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits after the last column. `mask` [B, 1, m, columns] is True where a query may look."""
        hidden = self.policy.hidden_states(
            ids_Bm,
            attention_mask=self.policy.attention_mask(mask),
            position_ids=positions_Bm,
            past_key_values=self.cache,
            use_cache=True,
        )
        return self.policy.logits(hidden[:, -1])

    @torch.no_grad()
    def complete(self) -> list[Completion]:
        """Let every row write one turn: to the end of its action, the end of sequence or `max_new_tokens`."""
        B, device = len(self.valid_BL), self.policy.device
        ids: list[list[int]] = [[] for _ in range(B)]
        logprobs: list[list[float]] = [[] for _ in range(B)]
        active = list(range(B))
        for position in range(self.max_new_tokens):
            tokens, logps = self._choose(active)
            for row, token, logp in zip(active, tokens, logps, strict=True):
                ids[row].append(token)
                logprobs[row].append(logp)
                self.last[row] = token
            still = [row for row in active if not self.policy.ends_turn(ids[row])]
            if not still or position == self.max_new_tokens - 1:
                break
            active = still
            step_ids = torch.full((B, 1), self.policy.pad_id)
            step_ids[active, 0] = torch.tensor([self.last[row] for row in active])
            new = torch.zeros(B, 1, dtype=torch.bool, device=device)
            new[active] = True
            mask = torch.cat([self.valid_BL, torch.ones_like(new)], dim=1)[:, None, None]
            self.logits_BV = self._forward(step_ids.to(device), self.positions_B[:, None], mask)
            self.valid_BL = torch.cat([self.valid_BL, new], dim=1)
            self.positions_B = self.positions_B + new[:, 0]
        return [Completion(tuple(i), tuple(lp)) for i, lp in zip(ids, logprobs, strict=True)]

    def _choose(self, active: list[int]) -> tuple[list[int], list[float]]:
        """Next token of each active row and its log-prob."""
        logits = self.logits_BV[active]
        if self.temperature == 0:
            logps = torch.log_softmax(logits, dim=-1)
            tokens = logits.argmax(-1)
        else:
            logps = torch.log_softmax(logits / self.temperature, dim=-1)
            # Inverse CDF in float64 by each row's own draw: independent of who else is in the batch.
            draws = torch.tensor([self.generators[row].random() for row in active], dtype=torch.float64)
            cumulative = logps.double().exp().cumsum(-1)
            tokens = torch.searchsorted(cumulative, draws.to(logits.device)[:, None] * cumulative[:, -1:], right=True)
            tokens = tokens.squeeze(-1).clamp(max=logits.shape[-1] - 1)
        return tokens.tolist(), logps.gather(-1, tokens[:, None]).squeeze(-1).tolist()
