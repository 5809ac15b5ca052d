"""Passes over micro-batches of a limited number of tokens, which is halved when memory runs out.

The split into micro-batches limits memory and does not change results, so a pass that did not fit is repeated in
smaller ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from algorithms.common.base.errors import TrainingError
from algorithms.common.distributed.processes import Processes
from algorithms.common.rollout.buffer import Float32s, RolloutBuffer
from algorithms.common.rollout.sequences import MicroBatch

T = TypeVar("T")


def run_in_micro_batches(
    split: Callable[[int], list[MicroBatch]],
    run: Callable[[list[MicroBatch]], T],
    max_tokens: int,
    *,
    option: str,
    what: str,
    discard: Callable[[], None] = lambda: None,
    together: Callable[[], str] = lambda: "",
) -> tuple[T, int]:
    """`run(split(max_tokens))`; when memory runs out, `max_tokens` is halved and the work is repeated.

    Args:
        split: returns micro-batches of at most the given number of padded tokens.
        run: processes all of them.
        option: the option that sets `max_tokens`, for messages.
        what: names the work in messages.
        discard: frees the memory of a failed attempt.
        together: why this process can't repeat the work on its own; empty if it can.

    Returns the result and the `max_tokens` that fitted. Raises `TrainingError` if the work can't be repeated or a
    micro-batch can't be split.
    """
    while True:
        batches = split(max_tokens)
        try:
            return run(batches), max_tokens
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = (str(error) or type(error).__name__).splitlines()[0]
        # Outside of the handler, whose traceback keeps tensors alive.
        discard()
        max_tokens = _halved(max_tokens, batches, option, reason, what, together())


@torch.no_grad()
def map_policy_tokens(
    buffer: RolloutBuffer,
    compute: Callable[[Tensor, Tensor], Tensor],
    max_tokens: int,
    *,
    option: str,
    pad_id: int,
    device: torch.device,
    processes: Processes,
    sharded: bool = False,
) -> Float32s:
    """`compute(ids_BT, mask_BT)` -> [n] over a whole buffer, in its flat layout; each process computes its share.

    `sharded`: `compute` is a pass of a sharded model, of which all processes must make the same number.
    """
    counts = buffer.policy_tokens
    rows = processes.share(len(counts))
    flat = np.zeros(int(counts.sum()), dtype=np.float32)

    def split(max_tokens: int) -> list[MicroBatch]:
        batches = list(buffer.micro_batches(flat, rows, max_tokens, pad_id))
        return processes.pad_to_longest(batches, lambda: buffer.blank_batch(pad_id)) if sharded else batches

    def run(batches: list[MicroBatch]) -> None:
        for batch in batches:
            values = compute(batch.ids_BT.to(device), batch.mask_BT.to(device))
            if batch.rows:
                flat[buffer.flat_index(batch.rows)] = values.float().cpu().numpy()

    together = "sharded" if sharded else ""
    run_in_micro_batches(split, run, max_tokens, option=option, what="log-probs and values", together=lambda: together)
    first = int(counts[: rows.start].sum())
    return np.concatenate(processes.gather(flat[first : first + int(counts[rows.start : rows.stop].sum())]))


def _halved(max_tokens: int, batches: Sequence[MicroBatch], option: str, reason: str, what: str, together: str) -> int:
    """Half of a number of tokens that did not fit. Raises `TrainingError` if no smaller one can be tried."""
    largest = max(batches, key=lambda batch: batch.ids_BT.numel())
    tokens, rows = largest.ids_BT.numel(), len(largest.rows)
    if together or rows == 1:
        why = f"one trajectory of {tokens} tokens" if rows == 1 else f"a micro-batch of {tokens} tokens, {together},"
        raise TrainingError(
            f"{what}: out of memory, and {why} can't be split further ({reason}). Set "
            f"policy.gradient_checkpointing true, {option} below {tokens}, a shorter "
            "policy.context_length or policy.lora.rank; the run resumes from its last checkpoint"
        )
    max_tokens = min(max_tokens, tokens) // 2
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    print(f"{what}: out of memory at {tokens} tokens per micro-batch; continuing with {max_tokens}", flush=True)
    return max_tokens


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or a CPU."""
    signs = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(sign in str(error) for sign in signs)
