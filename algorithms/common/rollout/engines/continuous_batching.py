"""The continuous batching of transformers: a paged KV cache, with flash attention if it is installed."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from algorithms.common.base.memory_line import MemoryLine
from algorithms.common.model.kv_cache import Ids
from algorithms.common.model.packing import own_attention
from algorithms.common.model.policy import Policy
from algorithms.common.model.pretrained import DTYPES
from algorithms.common.model.turn_end import TurnEnd
from algorithms.common.rollout.config import EngineSettings
from algorithms.common.rollout.engines.base import Engine, EngineError, GenerationSizes
from algorithms.common.rollout.turn_decoder import Completion
from igsearch_env.errors import ConfigurationError
from retrievers.random_streams import stream_seed

PAGE = 256  # tokens of a page, transformers' own default
POLL_SECONDS = 1.0  # between checks whether the generating thread is alive


class ContinuousBatchingEngine(Engine):
    """Completes with the policy's own model and transformers' `ContinuousBatchingManager`, on any device.

    transformers has no seed per request: one seed, derived from those of all requests, determines a whole call. So the
    same calls give the same turns, but the samples of an episode depend on the other requests. Matrix products have the
    precision of the weights, regardless of policy.compute_dtype.

    It can't stop at strings either. Requests stop at every token that could end a turn, and those whose turn is not
    over are continued; cached pages are kept, so little is read twice.

    The policy's weights are shared. The KV cache holds at least one context.
    """

    name = "transformers"
    own_weights = False

    def __init__(self, policy: Policy, turn_end: TurnEnd, settings: EngineSettings) -> None:
        try:
            from transformers import ContinuousBatchingConfig
            from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager

            if not hasattr(ContinuousBatchingManager, "pause"):
                raise ImportError("its continuous batching can't be paused")
        except ImportError as error:
            raise ConfigurationError(
                f"rollout.engine='transformers': the installed transformers is too old ({error}); "
                "pip install -U transformers, or use the builtin engine"
            ) from error
        self.policy = policy
        self.turn_end = turn_end
        self.dtype = str(policy.model.dtype).removeprefix("torch.")
        self.options: dict[str, Any] = {
            "return_logprobs": True,
            "page_size": PAGE,
            "num_blocks": -(-max(settings.kv_cache_tokens, policy.context_length) // PAGE) + 1,
            "max_batch_tokens": settings.pass_tokens,
        }
        self._make_config = ContinuousBatchingConfig

    @classmethod
    def memory(cls, settings: EngineSettings, sizes: GenerationSizes) -> Iterator[MemoryLine]:
        """`Engine.memory`: of a call, after which everything is freed."""
        tokens = -(-max(settings.kv_cache_tokens, sizes.context) // PAGE) * PAGE
        yield MemoryLine("keys and values", tokens * sizes.token_bytes, f"{tokens:,} tokens", "rollout")
        if settings.dtype == "float32" or not (is_flash_attn_2_available() or is_flash_attn_3_available()):
            columns = tokens + settings.pass_tokens
            mask = settings.pass_tokens * columns * DTYPES[settings.dtype].itemsize
            detail = f"{settings.pass_tokens:,} x {columns:,} tokens, as flash attention is not installed"
            yield MemoryLine("attention mask", mask, detail, "rollout")

    def complete(
        self, prompts: Sequence[Ids], seeds: Sequence[int], *, max_new_tokens: int, temperature: float
    ) -> list[Completion]:
        """`Engine.complete`."""
        ids: list[list[int]] = [[] for _ in prompts]
        logprobs: list[list[float]] = [[] for _ in prompts]
        unfinished = list(range(len(prompts)))
        with self._manager(seeds, temperature) as manager:
            while unfinished:
                try:
                    with manager.pause():  # all or none are in the first batch, on which the draws depend
                        for i in unfinished:
                            left = max_new_tokens - len(ids[i])
                            manager.add_request([*prompts[i], *ids[i]], request_id=str(i), max_new_tokens=left)
                except RuntimeError as error:  # the generating thread ended before its first batch
                    raise _stopped(manager.background_thread_status.fatal_error or error) from error
                for result in self._results(manager, len(unfinished)):
                    i = int(result.request_id)
                    ids[i] += result.generated_tokens
                    logprobs[i] += result.logprobs
                unfinished = [
                    i for i in unfinished if len(ids[i]) < max_new_tokens and not self.turn_end.is_over(ids[i])
                ]
        return [Completion(tuple(i), tuple(x)) for i, x in zip(ids, logprobs, strict=True)]

    def update_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Nothing to do: the model is the policy's."""

    @contextmanager
    def _manager(self, seeds: Sequence[int], temperature: float) -> Iterator[Any]:
        """A running manager. The attention implementation and torch's global generator are restored afterwards."""
        from transformers import GenerationConfig

        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        generation = GenerationConfig(
            eos_token_id=sorted(self.turn_end.eos_ids | self.turn_end.closing_ids),
            **(sampling if temperature > 0 else {"do_sample": False}),
        )
        seed = stream_seed("a call of the continuous batching engine", 0, *seeds) % 2**32
        model, device = self.policy.model, self.policy.device
        # Flash attention does not support float32, and the manager's thread has no autocast.
        half = model.dtype in (torch.float16, torch.bfloat16)
        settings = self._make_config(seed=seed, auto_switch_to_flash=half, **self.options)
        own = str(model.config._attn_implementation)
        plain = own_attention(model)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            try:
                # The paged cache of transformers does not support packed attention.
                model.set_attn_implementation(plain if half or "flash" not in plain else "sdpa")
                manager = model.init_continuous_batching(generation, settings)
                manager.start()
                try:
                    yield manager
                finally:
                    gc.freeze()  # stopping collects garbage several times, which took half a second per call
                    manager.stop(block=True, hard_stop=True)
                    manager.destroy()
                    gc.unfreeze()
            finally:
                model.set_attn_implementation(own)

    def _results(self, manager: Any, count: int) -> Iterator[Any]:
        """The outputs of `count` requests as they finish."""
        while count:
            result = manager.get_result(timeout=POLL_SECONDS)
            if result is not None and result.error is None:
                count -= 1
                yield result
            elif result is not None or not manager.is_running():
                raise _stopped(result.error if result is not None else manager.background_thread_status.fatal_error)


def _stopped(cause: object) -> EngineError:
    return EngineError(
        f"rollout.engine='transformers' stopped: {cause}; if memory ran out, lower kv_cache_tokens "
        "(rollout.kv_cache_tokens in training) or use the builtin engine"
    )
