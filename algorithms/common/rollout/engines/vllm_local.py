"""vLLM in this process, on the training GPU.

Experimental: tested against a fake of vLLM's API (as it is in 0.33), not yet on a GPU.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from algorithms.common.base.memory_line import MemoryLine
from algorithms.common.model.kv_cache import Ids
from algorithms.common.model.policy import Policy
from algorithms.common.model.turn_end import TurnEnd
from algorithms.common.rollout.config import EngineSettings
from algorithms.common.rollout.engines.base import Engine, EngineError, GenerationSizes, until_turn_end
from algorithms.common.rollout.turn_decoder import Completion
from igsearch_env.errors import ConfigurationError

LOWEST_TEMPERATURE = 0.01  # vLLM replaces any lower one but 0 by it
HIGHEST_TEMPERATURE = 2.0  # vLLM rejects higher ones
LOGPROBS_MODE = "processed_logprobs"  # of the tempered distribution; vLLM's default is that at temperature 1


class VllmEngine(Engine):
    """Completes with `vllm.LLM`. Experimental: tested against a fake of vLLM's API, not yet on a GPU.

    Weights are updated within the process by the worker's `reload_weights`, vLLM's documented way ("Layerwise
    reloading", since 0.16), which copies them to the addresses that the CUDA graphs use. The KV cache of the old
    weights is dropped afterwards.

    vLLM loads the policy's model by its name or folder.
    """

    name = "vllm"

    def __init__(self, policy: Policy, turn_end: TurnEnd, settings: EngineSettings) -> None:
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            raise ConfigurationError(
                f"rollout.engine='vllm' with {torch.distributed.get_world_size()} processes: vLLM in this process "
                "supports only one; start a server and set rollout.engine to vllm_server"
            )
        # vLLM would start a separate process, which could not read weights from the memory of this one.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        try:
            import vllm
        except ImportError as error:
            raise ConfigurationError(
                f"rollout.engine='vllm': vLLM can't be imported ({error}); pip install \"igsearch[vllm]\", or set "
                "rollout.engine to builtin or transformers, which need no other package, or to vllm_server"
            ) from error
        # Otherwise it limits this whole process to one thread, including the encoder and the trainer.
        os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
        self.turn_end = turn_end
        self.dtype = settings.dtype
        self._make_params = vllm.SamplingParams
        self.llm: Any = vllm.LLM(
            model=policy.model.config.name_or_path,  # the base model, if there is an adapter
            tokenizer=policy.tokenizer.hf_tokenizer.name_or_path,
            dtype=settings.dtype,
            gpu_memory_utilization=settings.gpu_memory_utilization,
            max_model_len=policy.context_length,
            enable_prefix_caching=True,
            generation_config="vllm",  # no defaults from the model
            logprobs_mode=LOGPROBS_MODE,
            seed=0,
        )

    @classmethod
    def memory(cls, settings: EngineSettings, sizes: GenerationSizes) -> Iterator[MemoryLine]:
        """`Engine.memory`."""
        share = settings.gpu_memory_utilization
        yield MemoryLine("vLLM", int(share * sizes.device_bytes), "rollout.gpu_memory_utilization")

    def complete(
        self, prompts: Sequence[Ids], seeds: Sequence[int], *, max_new_tokens: int, temperature: float
    ) -> list[Completion]:
        """`Engine.complete`."""
        outputs = self.llm.generate(
            [{"prompt_token_ids": list(prompt)} for prompt in prompts],
            [self._make_params(**sampling(self.turn_end, seed, max_new_tokens, temperature)) for seed in seeds],
            use_tqdm=False,
        )
        return [_completion(self.turn_end, output.outputs[0]) for output in outputs]

    @torch.no_grad()
    def update_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """`Engine.update_weights`, one tensor at a time."""
        detached = ((name, tensor.detach()) for name, tensor in weights)
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": detached})
        if not self.llm.reset_prefix_cache():
            raise EngineError(
                "rollout.engine='vllm': the prefix cache was not reset after a weight update, so it is that of the "
                "old weights; let nothing else use the engine while weights are updated"
            )

    def close(self) -> None:
        """Free the GPU memory that vLLM took."""
        self.llm = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


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
