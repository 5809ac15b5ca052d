"""vLLM in the processes of a run, each on the device that it trains on.

Experimental: tested with vLLM 0.32 on a CPU (`tests/with_vllm`); what only GPUs do was checked against its source.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from algorithms.common.base.memory_line import MemoryLine
from algorithms.common.model.policy import Policy
from algorithms.common.model.turn_end import TurnEnd
from algorithms.common.rollout.config import EngineSettings
from algorithms.common.rollout.engines.base import (
    EngineError,
    GenerationSizes,
    StreamingEngine,
    TurnRequest,
    until_turn_end,
)
from algorithms.common.rollout.turn_decoder import Completion
from igsearch_env.errors import ConfigurationError, IGSearchError

LOWEST_TEMPERATURE = 0.01  # vLLM replaces any lower one but 0 by it
HIGHEST_TEMPERATURE = 2.0  # vLLM rejects higher ones
LOGPROBS_MODE = "processed_logprobs"  # of the tempered distribution; vLLM's default is that at temperature 1
_KEPT: list[Any] = []  # closed engines, until the process ends


class VllmEngine(StreamingEngine):
    """Completes with `vllm.LLM`. Experimental: tested with vLLM 0.32 on a CPU, not yet on a GPU.

    Each process of a run has a vLLM of its own on its device, which serves the episodes of that process. Several use
    vLLM's executor `external_launcher`: in the process group of the run, vLLM makes groups of one process each and
    communicates with others only when it starts. So all processes must start theirs at the same time.

    Weights are updated within the process by the worker's `reload_weights`, vLLM's documented way ("Layerwise
    reloading", since 0.16), which casts them and copies them to the addresses that the CUDA graphs use. The KV cache of
    the old weights is dropped afterwards.

    On a GPU, `sleep` frees the memory of weights and KV cache (level 2 of vLLM's sleep mode: no copy is kept on the
    host, since an update replaces the weights anyway). `update_weights` allocates that of the weights, fills it, and
    then allocates that of the KV cache.

    vLLM loads the policy's model by its name or folder.
    """

    name = "vllm"

    def __init__(self, policy: Policy, turn_end: TurnEnd, settings: EngineSettings) -> None:
        if policy.device.type == "cuda" and not dist.is_initialized() and policy.device.index not in (None, 0):
            raise ConfigurationError(
                f"policy.device='{policy.device}' with rollout.engine='vllm': vLLM in this process uses the first GPU "
                f"that it sees; set CUDA_VISIBLE_DEVICES={policy.device.index} and policy.device to cuda"
            )
        _set_environment()
        try:
            import vllm
            from vllm.platforms import current_platform
            from vllm.sampling_params import RequestOutputKind
        except ImportError as error:
            raise ConfigurationError(
                f"rollout.engine='vllm': vLLM can't be imported ({error}); pip install \"igsearch[vllm]\", or set "
                "rollout.engine to builtin or transformers, which need no other package, or to vllm_server"
            ) from error
        self.turn_end = turn_end
        self.dtype = settings.dtype
        self._make_params = vllm.SamplingParams
        self._whole_turns = RequestOutputKind.FINAL_ONLY
        self._writing: set[int] = set()  # keys of requests
        self._can_sleep = bool(current_platform.is_sleep_mode_available())
        self.asleep = False
        self._shares_group = dist.is_initialized()
        options: dict[str, Any] = {}
        if self._shares_group and dist.get_world_size() > 1:
            options["distributed_executor_backend"] = "external_launcher"
        if self._can_sleep:
            options["enable_sleep_mode"] = True
        if current_platform.is_cpu():
            # On a CPU, a request with a seed fails if its prompt is split; compiling takes minutes.
            longest = max(policy.context_length, settings.pass_tokens)
            options |= {"enable_chunked_prefill": False, "max_num_batched_tokens": longest, "enforce_eager": True}
        model = policy.model.config.name_or_path  # the base model, if there is an adapter
        try:
            with _globals_restored(policy.device):
                self.llm: Any = vllm.LLM(
                    model=model,
                    tokenizer=policy.tokenizer.hf_tokenizer.name_or_path,
                    dtype=settings.dtype,
                    gpu_memory_utilization=settings.gpu_memory_utilization,
                    max_model_len=policy.context_length,
                    enable_prefix_caching=True,
                    generation_config="vllm",  # no defaults from the model
                    logprobs_mode=LOGPROBS_MODE,
                    seed=0,
                    **options,
                )
        except Exception as error:
            raise ConfigurationError(
                f"rollout.engine='vllm': vLLM does not start with {model!r}: {error}; if it is short of memory, change "
                "rollout.gpu_memory_utilization; else check that IGSearch supports its version and vLLM the model, or "
                "use the builtin engine"
            ) from error

    @classmethod
    def memory(cls, settings: EngineSettings, sizes: GenerationSizes) -> Iterator[MemoryLine]:
        """`Engine.memory`: on a GPU only in rollouts, since it sleeps in updates."""
        share, phase = settings.gpu_memory_utilization, "rollout" if sizes.cuda else "always"
        yield MemoryLine("vLLM", int(share * sizes.device_bytes), "rollout.gpu_memory_utilization", phase)

    def submit(self, requests: Sequence[TurnRequest]) -> None:
        """`Engine.submit`."""
        if self.asleep:
            raise EngineError(f"{self.place} sleeps, without weights; call update_weights before a rollout")
        for request in requests:
            options = sampling(self.turn_end, request.seed, request.max_new_tokens, request.temperature)
            with self._failures("to take a request"):
                self.llm.llm_engine.add_request(
                    str(request.key),
                    {"type": "token", "prompt_token_ids": list(request.prompt)},
                    self._make_params(**options, output_kind=self._whole_turns),
                )
            self._writing.add(request.key)

    def finished(self, timeout: float | None = None) -> list[tuple[int, Completion]]:
        """`Engine.finished`. Decodes at least one token of every request, in this thread."""
        until = None if timeout is None else time.monotonic() + timeout
        engine = self.llm.llm_engine
        turns: list[tuple[int, Completion]] = []
        while self._writing and not turns:
            with self._failures("to decode"):
                if not engine.has_unfinished_requests():
                    raise RuntimeError(f"{len(self._writing)} requests are lost")
                outputs = [output for output in engine.step() if output.finished]
                turns = [(int(o.request_id), _completion(self.turn_end, o.outputs[0])) for o in outputs]
            self._writing -= {key for key, _ in turns}
            if until is not None and time.monotonic() >= until:
                break
        return turns

    def cancel(self) -> None:
        """`Engine.cancel`."""
        keys, self._writing = sorted(self._writing), set()
        if keys:
            self.llm.llm_engine.abort_request([str(key) for key in keys])

    @torch.no_grad()
    def update_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """`Engine.update_weights`, one tensor at a time."""
        detached = ((name, tensor.detach()) for name, tensor in weights)
        with self._failures("to load weights"):
            if self.asleep:
                torch.cuda.empty_cache()  # vLLM takes memory that torch has returned to the GPU
                self.llm.wake_up(tags=["weights"])
            self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": detached})
            if self.asleep:
                self.llm.wake_up(tags=["kv_cache"])
                self.asleep = False
        if not self.llm.reset_prefix_cache():
            raise EngineError(
                "rollout.engine='vllm': the prefix cache was not reset after a weight update, so it is that of the "
                "old weights; let nothing else use the engine while weights are updated"
            )

    def sleep(self) -> None:
        """`Engine.sleep`, on a GPU; vLLM has no sleep mode for CPUs."""
        if self._can_sleep and not self.asleep:
            with self._failures("to sleep"):
                self.llm.sleep(level=2)
            self.asleep = True

    def close(self) -> None:
        """Free the memory that vLLM took.

        In the process group of a run it only goes to sleep: its shutdown would destroy that group.
        """
        llm, self.llm = self.llm, None
        if llm is None:
            return
        self._writing = set()
        if self._shares_group:
            _forget_shutdown(llm)
        with suppress(Exception):  # of an engine that has failed before
            if self._shares_group and self._can_sleep and not self.asleep:
                llm.sleep(level=2)
            elif not self._shares_group and not self.asleep:
                llm.llm_engine.engine_core.shutdown()
        if self._shares_group or self.asleep:
            _KEPT.append(llm)  # vLLM can't free memory that it has already given up
        del llm
        gc.collect()
        torch.cuda.empty_cache()

    @contextmanager
    def _failures(self, what: str) -> Iterator[None]:
        """Cancels all requests and raises `EngineError` where vLLM fails."""
        try:
            yield
        except Exception as error:
            with suppress(Exception):  # it may fail in that, too; the first error matters
                self.cancel()
            if isinstance(error, IGSearchError):
                raise
            raise EngineError(
                f"{self.place} failed {what}: {type(error).__name__}: {error}; if memory ran out, change "
                "rollout.gpu_memory_utilization; the last checkpoint is intact"
            ) from error


def _set_environment() -> None:
    """What vLLM reads from the environment when it is imported or started."""
    # vLLM would start a separate process, which could not read weights from the memory of this one.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    # Otherwise it limits this whole process to one thread, including the encoder and the trainer.
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")  # it logs every start and every update at length
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # which it sends over the network


@contextmanager
def _globals_restored(device: torch.device) -> Iterator[None]:
    """vLLM seeds torch, sets its precision of float32 and, on a CPU, replaces `torch.set_num_threads`."""
    precision, set_num_threads = torch.get_float32_matmul_precision(), torch.set_num_threads
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.set_num_threads = set_num_threads


def _forget_shutdown(llm: Any) -> None:
    """Keep vLLM (since about 0.28) from shutting down when it is collected or the process ends."""
    finalizer = getattr(llm.llm_engine.engine_core, "_finalizer", None)
    if finalizer is not None:
        finalizer.detach()


def sampling(turn_end: TurnEnd, seed: int, max_new_tokens: int, temperature: float) -> dict[str, Any]:
    """Options of one turn, the same for `SamplingParams` and a request to a server: the plain distribution."""
    if temperature and not LOWEST_TEMPERATURE <= temperature <= HIGHEST_TEMPERATURE:
        raise ConfigurationError(
            f"rollout.temperature={temperature}: vLLM samples at {LOWEST_TEMPERATURE} to {HIGHEST_TEMPERATURE}; change "
            "it, or use the builtin engine"
        )
    return {
        "n": 1,
        "temperature": temperature,
        "top_p": 1.0,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "seed": seed,
        "max_tokens": max_new_tokens,
        "logprobs": 0,  # only that of the sampled token
        "stop": list(turn_end.stop_strings),
        "stop_token_ids": sorted(turn_end.eos_ids),
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,  # a tag that is a special token must be visible to stop at it
    }


def _completion(turn_end: TurnEnd, output: Any) -> Completion:
    """The completion that vLLM returned for one prompt."""
    ids = tuple(int(token) for token in output.token_ids)
    rows: Sequence[Mapping[int, Any]] | None = output.logprobs
    if rows is None or len(rows) != len(ids) or any(token not in row for token, row in zip(ids, rows, strict=True)):
        raise EngineError(
            f"rollout.engine='vllm' returned {len(ids)} tokens with log-probs of {len(rows or ())} others; it must "
            "return those of its tokens: check that IGSearch supports its version"
        )
    logprobs = tuple(float(row[token].logprob) for token, row in zip(ids, rows, strict=True))
    return until_turn_end(turn_end, ids, logprobs)
