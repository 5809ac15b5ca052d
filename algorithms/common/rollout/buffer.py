"""`RolloutBuffer`: the recorded episodes of a batch, from which every algorithm computes its advantages.

Flat layout. Estimators return one float per *policy token*: the tokens that the policy wrote, in the order
group, trajectory, turn, token. `RolloutBuffer` provides the index arrays to fill such a vector, and
`micro_batches` turns it into padded tensors.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from algorithms.common.base.files import atomic_write
from algorithms.common.base.typed import as_type
from algorithms.common.rollout.buffer_json import group_row, read_group
from algorithms.common.rollout.sequences import MicroBatch, QueryTokens, TokenSequence, token_sequence
from igsearch_env.errors import IGSearchError
from igsearch_env.evidence import has_evidence
from igsearch_env.trajectory import Group, Trajectory
from retrievers.reading import FileError, parse_json, read_lines

if TYPE_CHECKING:
    from algorithms.common.model.kv_cache import CachedPrefixes

FORMAT = 2  # of a saved buffer
MAX_PADDING = 1.05  # maximum ratio of padded to real tokens in a micro-batch

Float32s = NDArray[np.float32]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


class RolloutBufferError(IGSearchError, ValueError):
    """The buffer can't be used; the message names the value, the rule and the repair."""

    exit_status = 1


@dataclass
class RolloutBuffer:
    """Groups of finished trajectories. `failed` counts the episodes left out because their retrieval failed.

    Not saved, and stale once weights change: `prefixes` (sequences in the KV cache of the policy), and, per policy
    token, `values` of the critic and `reference_logprobs` of the starting policy for algorithms that need them, and
    `importance`, the importance weights where the sampler differs from the policy that is updated.
    """

    groups: list[Group]
    failed: int = 0
    metadata: dict[str, Any] = field(default_factory=dict)
    prefixes: CachedPrefixes | None = field(default=None, repr=False, compare=False)
    values: Float32s | None = field(default=None, repr=False, compare=False)
    reference_logprobs: Float32s | None = field(default=None, repr=False, compare=False)
    importance: Float32s | None = field(default=None, repr=False, compare=False)

    @cached_property
    def trajectories(self) -> list[Trajectory]:
        """All trajectories, group by group."""
        return [trajectory for group in self.groups for trajectory in group.trajectories]

    @cached_property
    def outcomes(self) -> Float32s:
        """Outcome reward of each trajectory."""
        return np.array([t.outcome for t in self.trajectories], dtype=np.float32)

    @cached_property
    def group_index(self) -> Ints:
        """Group of each trajectory."""
        return np.repeat(np.arange(len(self.groups)), [len(g.trajectories) for g in self.groups])

    @cached_property
    def lost_siblings(self) -> Flags:
        """Whether each trajectory is the only one left of a larger group, as the retrieval of the others failed.

        There is nothing left to compare it with, and its plain reward would be of another scale than the advantages
        of other groups.
        """
        return np.array([len(g.trajectories) == 1 and g.failed > 0 for g in self.groups for _ in g.trajectories], bool)

    @cached_property
    def turn_counts(self) -> Ints:
        """Number of turns of each trajectory."""
        return np.array([len(t.turns) for t in self.trajectories], dtype=np.int64)

    @cached_property
    def turn_tokens(self) -> Ints:
        """Number of policy tokens of each turn, trajectory by trajectory."""
        return np.array([len(turn.completion_ids) for t in self.trajectories for turn in t.turns], dtype=np.int64)

    @cached_property
    def policy_tokens(self) -> Ints:
        """Number of policy tokens of each trajectory."""
        trajectories = np.repeat(np.arange(len(self.trajectories)), self.turn_counts)
        return np.bincount(trajectories, self.turn_tokens, len(self.trajectories)).astype(np.int64)

    @cached_property
    def first_token(self) -> Ints:
        """Index of each trajectory's first policy token in the flat layout."""
        return np.cumsum(self.policy_tokens) - self.policy_tokens

    def broadcast(self, values: Sequence[float] | NDArray[Any]) -> Float32s:
        """One value per trajectory -> one per policy token."""
        if len(values) != len(self.trajectories):
            raise RolloutBufferError(
                f"{len(values)} values for {len(self.trajectories)} trajectories: give one for each"
            )
        return np.repeat(np.asarray(values, dtype=np.float32), self.policy_tokens)

    def broadcast_turns(self, values: Sequence[float] | NDArray[Any]) -> Float32s:
        """One value per turn -> one per policy token."""
        return np.repeat(np.asarray(values, dtype=np.float32), self.turn_tokens)

    def flat_index(self, rows: Sequence[int]) -> Ints:
        """Indices of the policy tokens of some trajectories in the flat layout, row by row."""
        starts = self.first_token
        spans = [np.arange(starts[row], starts[row] + self.policy_tokens[row]) for row in rows]
        return np.concatenate([np.zeros(0, dtype=np.int64), *spans])

    @property
    def versions(self) -> Ints:
        """Version of the weights that sampled each policy token: the number of training steps that they had seen."""
        turns = [turn.weights_version for t in self.trajectories for turn in t.turns]
        return np.repeat(np.array(turns, dtype=np.int64), self.turn_tokens)

    @property
    def logprobs(self) -> Float32s:
        """Log-prob of each policy token, by the policy that sampled it."""
        return np.concatenate([sequence.logprobs for sequence in self.sequences])

    def set_logprobs(self, values: Float32s) -> None:
        """Replace the log-prob of each policy token."""
        rest = iter(values.tolist())
        for trajectory in self.trajectories:
            for turn in trajectory.turns:
                turn.logprobs = tuple(islice(rest, len(turn.completion_ids)))
        self.__dict__.pop("sequences", None)  # computed from the old ones; `lengths` stay

    def query_tokens(self, *, tags: bool = False, closing_tag: bool = False) -> Iterator[QueryTokens]:
        """Every search with at least one query token; with the tags around the query, or the one that ends it."""
        for row, (trajectory, start) in enumerate(zip(self.trajectories, self.first_token.tolist(), strict=True)):
            for turn in trajectory.turns:
                inner, outer = turn.query_span, turn.search_span
                span = outer if tags else inner
                if span is not None and span[1] > span[0]:
                    end = outer[1] if closing_tag and outer is not None else span[1]
                    yield QueryTokens(row, turn, slice(start + span[0], start + end))
                start += len(turn.completion_ids)

    def release_prefixes(self) -> None:
        """Free the keys and values of the rollout, whoever still refers to them."""
        if self.prefixes is not None:
            self.prefixes.store.clear()
        self.prefixes = None

    def check_trainable(self) -> None:
        """Raise `RolloutBufferError` unless the buffer can be trained on."""
        if not self.trajectories:
            raise RolloutBufferError(
                f"the buffer has no trajectory ({self.failed} failed retrievals left out): collect again"
            )
        empty = int((self.policy_tokens == 0).sum())
        if empty:
            raise RolloutBufferError(f"{empty} trajectories have no policy token: record the rollout with a policy")
        bad = self.outcomes[~np.isfinite(self.outcomes)]
        if bad.size:
            raise RolloutBufferError(f"an outcome reward is {bad[0]}: rewards must be finite; fix the reward function")

    def check_gains(self) -> None:
        """Raise `RolloutBufferError` if searches found passages, but none has an information gain."""
        searches = [turn for t in self.trajectories for turn in t.turns if turn.is_search]
        if any(has_evidence(turn) for turn in searches) and not any(turn.gain for turn in searches):
            raise RolloutBufferError(
                f"none of {len(searches)} searches has an information gain: measure it first "
                "(measure_information_gain), or use an algorithm that needs none"
            )

    # ---------------------------------------------------------------- tensors

    @cached_property
    def sequences(self) -> list[TokenSequence]:
        """Each trajectory as one token sequence with its loss mask."""
        return [token_sequence(trajectory) for trajectory in self.trajectories]

    @cached_property
    def lengths(self) -> Ints:
        """Number of tokens of each sequence."""
        return np.array([len(sequence.ids) for sequence in self.sequences], dtype=np.int64)

    def lengths_with(self, values: Float32s) -> Ints:
        """Number of tokens of each sequence up to the last one with a value other than 0; 0 if there is none.

        `values`: one per policy token.
        """
        lengths = np.zeros(len(self.sequences), dtype=np.int64)
        for row, (sequence, start) in enumerate(zip(self.sequences, self.first_token.tolist(), strict=True)):
            nonzero = np.flatnonzero(values[start : start + self.policy_tokens[row]])
            if nonzero.size:
                lengths[row] = np.flatnonzero(sequence.mask)[nonzero[-1]] + 1
        return lengths

    def micro_batches(
        self, advantages: Float32s, rows: Sequence[int], max_tokens: int, pad_id: int, lengths: Ints | None = None
    ) -> Iterator[MicroBatch]:
        """Batches of `rows` with at most `max_tokens` padded tokens (or one row), sorted by length.

        A batch ends early if the next row would add too much padding. `lengths`: the sequences are cut after so many
        tokens, and those of length 0 are left out; default: whole ones.
        """
        lengths = self.lengths if lengths is None else lengths
        order = sorted((row for row in rows if lengths[row]), key=lambda row: int(lengths[row]))
        batch: list[int] = []
        tokens = 0
        for row in order:
            length = int(lengths[row])
            padded = (len(batch) + 1) * length
            if batch and (padded > max_tokens or padded > MAX_PADDING * (tokens + length) + max_tokens / 16):
                yield self._micro_batch(advantages, batch, pad_id, lengths)
                batch, tokens = [], 0
            batch.append(row)
            tokens += length
        if batch:
            yield self._micro_batch(advantages, batch, pad_id, lengths)

    @staticmethod
    def blank_batch(pad_id: int) -> MicroBatch:
        """A batch without loss, for a process that has none left but must make as many passes as the others."""
        import torch

        ids_BT = torch.full((1, 2), pad_id)
        none_BT = torch.zeros(ids_BT.shape)
        return MicroBatch([], ids_BT, none_BT.bool(), none_BT, none_BT)

    def _micro_batch(self, advantages: Float32s, rows: list[int], pad_id: int, lengths: Ints) -> MicroBatch:
        import torch

        length = int(lengths[rows].max())
        ids_BT = np.full((len(rows), length), pad_id, dtype=np.int64)
        mask_BT = np.zeros((len(rows), length), dtype=np.bool_)
        old_BT = np.zeros((len(rows), length), dtype=np.float32)
        advantages_BT = np.zeros((len(rows), length), dtype=np.float32)
        for b, row in enumerate(rows):
            sequence = self.sequences[row]
            T = int(lengths[row])
            ids_BT[b, :T] = sequence.ids[:T]
            mask = sequence.mask[:T]
            mask_BT[b, :T] = mask
            start, count = self.first_token[row], int(mask.sum())
            old_BT[b, :T][mask] = sequence.logprobs[:count]
            advantages_BT[b, :T][mask] = advantages[start : start + count]
        return MicroBatch(
            rows,
            torch.from_numpy(ids_BT),
            torch.from_numpy(mask_BT),
            torch.from_numpy(old_BT),
            torch.from_numpy(advantages_BT),
        )

    # ---------------------------------------------------------------- disk

    def save(self, path: str | Path) -> None:
        """Write the buffer atomically as gzipped JSON lines: a header, then one group per line."""
        path = Path(path)
        with atomic_write(path) as partial, gzip.open(partial, "wt", encoding="utf-8", compresslevel=3) as file:
            file.write(json.dumps({"format": FORMAT, "failed": self.failed, "metadata": self.metadata}) + "\n")
            for group in self.groups:
                file.write(json.dumps(group_row(group), ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> RolloutBuffer:
        """Read what `save` wrote. Raises `RolloutBufferError` for a file of another version, or a damaged one."""
        header: dict[str, Any] = {}
        groups: list[Group] = []
        try:
            for number, line in read_lines(path):
                where = f"{path}, line {number}"
                if number > 1:
                    groups.append(read_group(parse_json(line, where), where))
                    continue
                header = as_type(dict[str, Any], parse_json(line, where), where)
                if header.get("format") != FORMAT:
                    version = header.get("format")
                    raise RolloutBufferError(f"{path}: format {version!r}, this version reads {FORMAT}; collect again")
            failed = as_type(int, header.get("failed"), f"{path}: failed")
            metadata = as_type(dict[str, Any], header.get("metadata"), f"{path}: metadata")
        except FileError as error:
            raise RolloutBufferError(
                f"{path}: not a saved buffer ({error.inside(path)}); give a file that save() wrote"
            ) from error
        return cls(groups, failed, metadata)
