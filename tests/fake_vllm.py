"""A stand-in for vLLM that really generates, on CPU: the parts of `vllm` (0.33) and of its server that engines use.

The server answers as recordings of the real one (0.32, `vllm_exchanges.py`) say. It takes the arguments that the real
one takes and refuses others (the real server ignores unknown fields; here a misspelt one must not pass). Stop rules,
log-prob modes and the prefix cache are vLLM's: what is not asked for does not happen, and keys of old weights go on
being used until the cache is reset.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from safetensors.torch import load_file

from algorithms.common.model.config import PolicyConfig
from algorithms.common.model.lora import merge_adapter
from algorithms.common.model.policy import Policy
from algorithms.common.model.tokenizer import PolicyTokenizer
from algorithms.common.model.turn_end import TurnEnd
from algorithms.common.rollout.decoder import Decoder

Weights = Iterable[tuple[str, torch.Tensor]]
# Of `EngineArgs`, besides those that `LLM` names itself; not all of them.
ENGINE_ARGS = {"max_model_len", "enable_prefix_caching", "generation_config", "logprobs_mode", "max_num_seqs"}
ENGINE_ARGS |= {"load_format", "weight_transfer_config", "enable_sleep_mode", "distributed_executor_backend"}
ENGINE_ARGS |= {"enable_chunked_prefill", "max_num_batched_tokens"}
SLEEPING = ("weights", "kv_cache")  # what `LLM.sleep` takes away, by its tags
# Of `CompletionRequest`; not all of them.
REQUEST_FIELDS = {"model", "prompt", "n", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed"}
REQUEST_FIELDS |= {"presence_penalty", "frequency_penalty", "max_tokens", "logprobs", "stop", "stop_token_ids"}
REQUEST_FIELDS |= {"include_stop_str_in_output", "skip_special_tokens", "return_token_ids", "stream", "echo"}


class RequestOutputKind(Enum):
    """`vllm.sampling_params.RequestOutputKind`."""

    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


@dataclass
class SamplingParams:
    """`vllm.SamplingParams`: its fields that have to do with sampling and stopping, and their defaults."""

    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | list[str] = field(default_factory=list)
    stop_token_ids: list[int] = field(default_factory=list)
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    flat_logprobs: bool = False
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE

    def __post_init__(self) -> None:
        if 0 < self.temperature < 0.01:
            self.temperature = 0.01
        if self.temperature > 2:
            raise ValueError(f"temperature must be in [0, 2], got {self.temperature}.")
        if not 0 < self.top_p <= 1 or self.top_k < -1 or self.n < 1:
            raise ValueError("top_p, top_k or n out of range")

    def key(self) -> tuple[Any, ...]:
        """What requests of one batch must share here."""
        return (self.temperature, self.max_tokens, str(self.stop), str(self.stop_token_ids), self.skip_special_tokens)


@dataclass
class Logprob:
    """`vllm.logprobs.Logprob`."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    """`vllm.CompletionOutput`."""

    index: int
    text: str
    token_ids: Sequence[int]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    """`vllm.RequestOutput`."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool = True


class StopRules(TurnEnd):
    """Turns end where vLLM's stop rules say."""

    def __init__(self, tokenizer: PolicyTokenizer, params: SamplingParams) -> None:
        super().__init__(tokenizer, [params.stop] if isinstance(params.stop, str) else params.stop)
        self.params = params

    def is_over(self, ids: Sequence[int]) -> bool:
        """End of sequence, a stop id, or a stop string in the text so far."""
        own = self.tokenizer.hf_tokenizer
        if ids[-1] in {own.eos_token_id, *self.params.stop_token_ids}:
            return True
        text = own.decode(list(ids), skip_special_tokens=self.params.skip_special_tokens)
        return any(tag in text for tag in self.params.stop)


class Core:
    """The engine behind `LLM` and the server."""

    def __init__(self, model: str, max_model_len: int | None, logprobs_mode: str, head: str = "tied") -> None:
        self.policy = Policy.load(PolicyConfig(path=model, device="cpu", context_length=max_model_len))
        self.model = model
        self.head = head
        if head != "tied":  # a copy in another layout, as vLLM on a CPU makes it
            packed = self.policy.model.get_output_embeddings()
            packed.weight = torch.nn.Parameter(packed.weight.detach().clone())
        self.logprobs_mode = logprobs_mode
        self.new_weights: dict[str, torch.Tensor] | None = None
        self.batches: list[int] = []  # sizes
        self.adapters: dict[str, Policy] = {}  # the policy with each of them
        self.ended = False  # after a failure, as vLLM's engine process
        self.lock = threading.Lock()

    def generate(
        self, prompts: Sequence[list[int]], params: Sequence[SamplingParams], adapter: str = ""
    ) -> list[CompletionOutput]:
        """One completion for each prompt; the requests differ in their seeds alone."""
        with self.lock:
            policy = self.adapters[adapter] if adapter else self.policy
            self.batches.append(len(prompts))
            first = params[0]
            assert len(params) == len(prompts)
            assert len({p.key() for p in params}) == 1
            longest = max(map(len, prompts))
            if longest >= self.policy.context_length:
                raise ValueError(
                    f"This model's maximum context length is {self.policy.context_length} tokens, but the request has "
                    f"{longest} input tokens."
                )
            writer = Decoder(
                policy,
                StopRules(self.policy.tokenizer, first),
                slots=len(prompts),
                max_new_tokens=min(first.max_tokens or 16, self.policy.context_length - longest),
                temperature=first.temperature,
            )
            for prompt, p in zip(prompts, params, strict=True):
                writer.begin(prompt, np.random.default_rng(p.seed))
            writer.prefill()
            written = {}
            while writer.writing:
                written.update(writer.decode_step())
            turns = [written[slot] for slot in range(len(prompts))]
            return [
                self.output(prompt, turn.ids, turn.logprobs, first) for prompt, turn in zip(prompts, turns, strict=True)
            ]

    def output(
        self, prompt: list[int], ids: Sequence[int], logprobs: Sequence[float], params: SamplingParams
    ) -> CompletionOutput:
        if self.logprobs_mode == "raw_logprobs":
            row = torch.tensor([[*prompt, *ids]])
            mask = torch.zeros(row.shape, dtype=torch.bool)
            mask[0, len(prompt) :] = True
            with torch.no_grad():
                logprobs = self.policy.token_logprobs(row, mask)[0].tolist()
        rows = None
        if params.logprobs is not None:
            rows = [{token: Logprob(x, 1)} for token, x in zip(ids, logprobs, strict=True)]
        text = self.policy.tokenizer.hf_tokenizer.decode(list(ids), skip_special_tokens=params.skip_special_tokens)
        reason = "length" if len(ids) == params.max_tokens else "stop"
        return CompletionOutput(0, text, list(ids), float(sum(logprobs)), rows, reason)

    def load_adapter(self, name: str, path: str) -> None:
        """Hold the model with an adapter merged, under a name."""
        other = Policy.load(PolicyConfig(path=self.model, device="cpu", context_length=self.policy.context_length))
        other.model.load_state_dict(self.policy.model.state_dict())
        other.model = merge_adapter(other.model, path)
        self.adapters[name] = other

    def reload_weights(
        self,
        weights_iterator: Weights | None = None,
        weights_path: str | None = None,
        is_checkpoint_format: bool = True,
    ) -> None:
        """The worker's; what is stored of the old weights is used until `reset_prefix_cache`."""
        assert is_checkpoint_format
        if weights_iterator is None:
            assert weights_path is not None
            files = sorted(Path(weights_path).glob("*.safetensors"))
            if not files:
                raise RuntimeError(f"Cannot find any model weights with `{weights_path}`")
            weights_iterator = [pair for file in files for pair in load_file(file).items()]
        self.new_weights = {name: tensor.clone() for name, tensor in weights_iterator}
        if self.head == "kept":
            self.new_weights.pop("lm_head.weight", None)

    def reset_prefix_cache(self) -> bool:
        """Now the new weights are seen in everything."""
        if self.new_weights is not None:
            missing, unexpected = self.policy.model.load_state_dict(self.new_weights, strict=False)
            assert not unexpected, unexpected
            assert set(missing) <= {"lm_head.weight"}, missing
            self.new_weights = None
        return True


class LLMEngine:
    """`vllm.v1.engine.llm_engine.LLMEngine`: a turn is finished by the step that writes its last token.

    `test_fake_vllm_engine.py` compares it, `LLM` and `SamplingParams` with a recording of vLLM 0.32.
    """

    def __init__(self, core: Core) -> None:
        self.core = core
        self.engine_core = EngineCore()
        self.asleep: set[str] = set()
        self._new: dict[str, tuple[list[int], SamplingParams]] = {}
        self._written: dict[str, tuple[list[int], CompletionOutput]] = {}
        self._steps: dict[str, int] = {}

    def add_request(self, request_id: str, prompt: dict[str, Any], params: SamplingParams) -> str:
        assert params.output_kind is RequestOutputKind.FINAL_ONLY  # others return unfinished turns, too
        assert prompt["type"] == "token"
        length = len(prompt["prompt_token_ids"])
        if length > self.core.policy.context_length:
            raise ValueError(f"The decoder prompt (length {length}) is longer than the maximum model length")
        self._new[request_id] = (prompt["prompt_token_ids"], params)
        return request_id

    def has_unfinished_requests(self) -> bool:
        return bool(self._new or self._written)

    def step(self) -> list[RequestOutput]:
        if self.asleep:  # scheduling is paused
            return []
        new, self._new = self._new, {}
        batches: dict[tuple[Any, ...], list[str]] = {}
        for name, (_, params) in new.items():
            batches.setdefault(params.key(), []).append(name)
        for names in batches.values():
            outputs = self.core.generate([new[name][0] for name in names], [new[name][1] for name in names])
            self._written |= {name: (new[name][0], output) for name, output in zip(names, outputs, strict=True)}
        finished = []
        for name, (prompt, output) in list(self._written.items()):
            self._steps[name] = self._steps.get(name, 0) + 1
            if self._steps[name] >= len(output.token_ids):
                finished.append(RequestOutput(name, None, prompt, [output]))
                self._forget(name)
        return finished

    def abort_request(self, request_ids: list[str]) -> None:
        for name in request_ids:
            self._forget(name)

    def is_sleeping(self) -> bool:
        return bool(self.asleep)

    def _forget(self, name: str) -> None:
        for requests in (self._new, self._written, self._steps):
            requests.pop(name, None)


class EngineCore:
    """`vllm.v1.engine.core_client.InprocClient`."""

    stopped = False

    def shutdown(self, timeout: float | None = None) -> None:
        self.stopped = True


class LLM:
    """`vllm.LLM`; `made` holds all that were. `gpu`: whether the next ones find one, which can sleep."""

    gpu = False

    made: list[LLM] = []  # noqa: RUF012 # a log for tests

    def __init__(
        self,
        model: str,
        *,
        tokenizer: str | None = None,
        dtype: str = "auto",
        seed: int = 0,
        gpu_memory_utilization: float = 0.92,
        enforce_eager: bool = False,
        tensor_parallel_size: int = 1,
        **kwargs: Any,
    ) -> None:
        if unknown := kwargs.keys() - ENGINE_ARGS:
            raise TypeError(f"EngineArgs.__init__() got an unexpected keyword argument {min(unknown)!r}")
        assert dtype in ("auto", "half", "float16", "bfloat16", "float", "float32")
        self.options = {"dtype": dtype, "gpu_memory_utilization": gpu_memory_utilization, **kwargs}
        self.core = Core(model, kwargs.get("max_model_len"), kwargs.get("logprobs_mode", "raw_logprobs"))
        self.llm_engine = LLMEngine(self.core)
        if kwargs.get("enable_sleep_mode") and not self.gpu:
            raise ValueError("Sleep mode is not supported on current platform.")
        self.can_sleep = bool(kwargs.get("enable_sleep_mode"))
        self.calls: list[str] = []
        self.in_process = os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING", "1") == "0"
        if self.in_process and "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(1)  # its worker does, in whatever process it is
        self.made.append(self)

    def collective_rpc(
        self,
        method: str,
        timeout: float | None = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> list[None]:
        if not self.in_process and "weights_iterator" in (kwargs or {}):
            raise TypeError("cannot pickle 'generator' object")
        assert method == "reload_weights"
        assert "weights" not in self.llm_engine.asleep, "an illegal memory access"
        self.calls.append(method)
        return [self.core.reload_weights(*args, **(kwargs or {}))]

    def reset_prefix_cache(self, reset_running_requests: bool = False, reset_connector: bool = False) -> bool:
        return not self.llm_engine.has_unfinished_requests() and self.core.reset_prefix_cache()

    def sleep(self, level: int = 1, mode: str = "abort") -> None:
        """On a CPU only scheduling pauses; on a GPU, the weights are lost at level 2."""
        self.calls.append(f"sleep {level}")
        self.llm_engine.asleep = set(SLEEPING)
        if self.can_sleep and level == 2:
            with torch.no_grad():
                for parameter in self.core.policy.model.parameters():
                    parameter.fill_(torch.nan)

    def wake_up(self, tags: list[str] | None = None) -> bool:
        """Returns whether all is awake."""
        self.calls.append(f"wake_up {' '.join(tags or SLEEPING)}")
        self.llm_engine.asleep -= set(tags or SLEEPING)
        return not self.llm_engine.asleep


class Platform:
    """`vllm.platforms.current_platform`."""

    def is_sleep_mode_available(self) -> bool:
        return LLM.gpu

    def is_cpu(self) -> bool:
        return not LLM.gpu


def install(patch: pytest.MonkeyPatch, *, gpu: bool = False) -> None:
    """Import it as `vllm`, until a test ends."""
    LLM.made.clear()
    patch.setattr(LLM, "gpu", gpu)
    contents = {
        "vllm": {"LLM": LLM, "SamplingParams": SamplingParams},
        "vllm.sampling_params": {"RequestOutputKind": RequestOutputKind},
        "vllm.platforms": {"current_platform": Platform()},
    }
    for name, values in contents.items():
        module = ModuleType(name)
        module.__dict__.update(values)
        patch.setitem(sys.modules, name, module)
    # Set by an engine in process, for good; restored with the patch.
    for variable in ("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_LOGGING_LEVEL", "VLLM_NO_USAGE_STATS"):
        patch.setenv(variable, "1" if variable == "VLLM_ENABLE_V1_MULTIPROCESSING" else "")


@dataclass
class Server:
    """`vllm serve MODEL`: the endpoints of `app`, in development mode unless `dev_mode` is off."""

    model: str
    max_model_len: int | None = None
    logprobs_mode: str = "processed_logprobs"
    dev_mode: bool = True
    head: str = "tied"
    """The output layer: `tied` to the embedding, `packed` (a copy that is renewed by a tensor of its name), `kept`."""
    dtype: str = "torch.float32"
    name: str = ""
    """--served-model-name"""
    lora: dict[str, Any] | None = None
    """Changes of vLLM's LoRAConfig, if it has --enable-lora."""
    runtime_lora: bool = True
    """VLLM_ALLOW_RUNTIME_LORA_UPDATING"""
    applies_adapters: bool = True
    """Whether an adapter changes anything."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.core = Core(self.model, self.max_model_len, self.logprobs_mode, self.head)
        self.name = self.name or self.model
        if self.lora is not None:
            usual = {"max_lora_rank": 16, "lora_dtype": self.dtype, "target_modules": None}
            self.lora = {**usual, **self.lora}
        self.app = FastAPI()
        self.app.get("/health")(lambda: Response())
        self.app.get("/v1/models")(self.models)
        self.app.post("/v1/completions")(self.completions)
        if self.lora is not None and self.runtime_lora:
            self.app.post("/v1/load_lora_adapter")(self.load_lora_adapter)
            self.app.post("/v1/unload_lora_adapter")(self.unload_lora_adapter)
        if self.dev_mode:
            self.app.get("/server_info")(self.server_info)
            self.app.post("/collective_rpc")(self.collective_rpc)
            self.app.post("/reset_prefix_cache")(lambda: {"success": self.core.reset_prefix_cache()})

    def models(self) -> dict[str, Any]:
        card = {"object": "model", "owned_by": "vllm", "parent": None, "max_model_len": self.core.policy.context_length}
        adapters = [
            {"id": name, **card, "parent": self.name, "max_model_len": None} for name in list(self.core.adapters)
        ]
        return {"object": "list", "data": [{"id": self.name, **card}, *adapters]}

    def server_info(self, config_format: str = "text") -> dict[str, Any]:
        length = self.core.policy.context_length
        model = {"logprobs_mode": self.logprobs_mode, "dtype": self.dtype, "max_model_len": length}
        config = {"model_config": model, "lora_config": self.lora}
        return {"vllm_config": config if config_format == "json" else str(config), "vllm_env": {}, "system_env": {}}

    def completions(self, body: dict[str, Any]) -> JSONResponse:
        self.requests.append(body)
        if self.core.ended:
            return _error(500, "EngineCore encountered an issue.", "InternalServerError")
        if unknown := body.keys() - REQUEST_FIELDS:
            return _error(400, f"unknown fields {sorted(unknown)}", "BadRequestError")
        adapter = body["model"] if body["model"] in self.core.adapters else ""
        if not adapter and body["model"] != self.name:
            return _error(404, f"The model `{body['model']}` does not exist.", "NotFoundError")
        options = {k: v for k, v in body.items() if k not in ("model", "prompt", "return_token_ids", "stream", "echo")}
        try:
            (output,) = self.core.generate([body["prompt"]], [SamplingParams(**options)], adapter)
        except ValueError as error:
            return _error(400, str(error), "BadRequestError")
        choice: dict[str, Any] = {"index": 0, "text": output.text, "finish_reason": output.finish_reason}
        choice["token_ids"] = output.token_ids if body.get("return_token_ids") else None
        choice["logprobs"] = None
        if output.logprobs is not None:
            chosen = [max(row[t].logprob, -9999.0) for row, t in zip(output.logprobs, output.token_ids, strict=True)]
            choice["logprobs"] = {"token_logprobs": chosen}
        return JSONResponse({"object": "text_completion", "model": body["model"], "choices": [choice]})

    def load_lora_adapter(self, body: dict[str, Any]) -> Response:
        name, path = body["lora_name"], body["lora_path"]
        self.paths.append(path)
        if name in self.core.adapters:
            return _error(400, f"The lora adapter '{name}' has already been loaded.", "InvalidUserInput")
        if not (Path(path) / "adapter_config.json").is_file():
            return _error(404, f"Loading lora {name} failed: No adapter found for {path}", "NotFoundError")
        self.core.load_adapter(name, path)
        if not self.applies_adapters:
            self.core.adapters[name] = self.core.policy
        return Response(f"Success: LoRA adapter '{name}' added successfully.")

    def unload_lora_adapter(self, body: dict[str, Any]) -> Response:
        name = body["lora_name"]
        if self.core.adapters.pop(name, None) is None:
            return _error(404, f"The lora adapter '{name}' cannot be found.", "NotFoundError")
        return Response(f"Success: LoRA adapter '{name}' removed successfully.")

    async def collective_rpc(self, request: Request) -> Any:
        body = await request.json()
        if body.get("method") != "reload_weights":
            raise HTTPException(400, "Missing 'method' in request body")
        self.paths.append(str(body["kwargs"]["weights_path"]))
        try:
            self.core.reload_weights(*body.get("args", []), **body.get("kwargs", {}))
        except RuntimeError as error:
            text = re.sub(r"/[^\s`]+", "<path>", str(error))
            self.core.ended = True
            return _error(500, f"Call to collective_rpc method failed: {text}", "InternalServerError")
        return {"results": [None]}


def _error(status: int, message: str, kind: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": kind, "code": status}}, status)
