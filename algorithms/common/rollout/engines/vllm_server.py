"""A vLLM server, on separate GPUs.

Experimental: tested against a fake of vLLM's API (as it is in 0.33) and with vLLM 0.32 on a CPU, not yet on a GPU.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import httpx
from safetensors.torch import save_file
from torch import Tensor

from algorithms.common.base.memory_line import MemoryLine
from algorithms.common.model.kv_cache import Ids
from algorithms.common.model.policy import Policy
from algorithms.common.model.turn_end import TurnEnd
from algorithms.common.rollout.config import EngineSettings
from algorithms.common.rollout.engines.base import Engine, EngineError, GenerationSizes, until_turn_end
from algorithms.common.rollout.engines.vllm_local import LOGPROBS_MODE, sampling
from algorithms.common.rollout.turn_decoder import Completion
from igsearch_env.errors import ConfigurationError
from retrievers.service.address import split_address
from retrievers.service.deadline import OverdueError, make_client, within

IN_FLIGHT = 128  # requests at once; vLLM batches them itself
CONNECT_SECONDS = 5.0  # a machine that is up accepts a connection well within this
START_SECONDS = 60.0  # per request at the start: a server may need some seconds to collect its information
MALFORMED = (ValueError, KeyError, IndexError, TypeError)  # raised by reading an answer that is not vLLM's


class VllmServerEngine(Engine):
    """Completes with a vLLM server. Experimental: tested with vLLM 0.32 on a CPU, not yet on a GPU.

    Start the server (vLLM 0.19.1 or later) with the model that is trained, on a trusted network, since its development
    mode lets anyone change the weights:

        VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --max-model-len CONTEXT --dtype bfloat16 \\
            --logprobs-mode processed_logprobs --generation-config vllm

    Weights are passed as safetensors in a folder that both can read at the same path; the server reloads them from
    there (`/collective_rpc` with `reload_weights`), then drops the KV cache of the old ones. Each request has its own
    seed, so the samples of an episode depend on other requests only by rounding.

    Args:
        policy, turn_end, settings: as for every engine; the address is `settings.server_url`.
        seconds: timeout of one call and of one weight update.
        folder: where weights are written; default: the system's temporary folder, for a server on this machine.
    """

    name = "vllm_server"
    shared = True

    def __init__(
        self,
        policy: Policy,
        turn_end: TurnEnd,
        settings: EngineSettings,
        *,
        seconds: float = 600.0,
        folder: Path | None = None,
    ) -> None:
        self.policy = policy
        self.turn_end = turn_end
        self.address, self._auth = _address(settings.server_url)
        self.seconds = seconds
        self._pool = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="vllm")
        self._client = make_client(IN_FLIGHT)
        self._folder: Path | None = None
        self._updates = 0
        try:
            self.model = self._look_at_server()
            self._folder = Path(tempfile.mkdtemp(prefix="igsearch-weights-", dir=folder))
        except BaseException:
            self.close()
            raise

    @property
    def place(self) -> str:
        """`Engine.place`, with the address."""
        return f"rollout.engine={self.name!r} at {self.address}"

    @classmethod
    def memory(cls, settings: EngineSettings, sizes: GenerationSizes) -> Iterator[MemoryLine]:
        """`Engine.memory`: nothing, since the server uses its own."""
        yield from ()

    def complete(
        self, prompts: Sequence[Ids], seeds: Sequence[int], *, max_new_tokens: int, temperature: float
    ) -> list[Completion]:
        """`Engine.complete`."""
        bodies = [
            {
                "model": self.model,
                "prompt": list(prompt),
                "return_token_ids": True,
                **sampling(self.turn_end, seed, max_new_tokens, temperature),
            }
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        futures = [self._pool.submit(self._complete, body) for body in bodies]
        done, waiting = wait(futures, timeout=self.seconds, return_when=FIRST_EXCEPTION)
        for future in waiting:
            future.cancel()
        for future in done:
            future.result()  # raises its error
        if waiting:
            raise EngineError(
                f"the vLLM server at {self.address} completed {len(done)} of {len(bodies)} turns within "
                f"{self.seconds:g} s; check its load and its log"
            )
        return [future.result() for future in futures]

    def update_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """`Engine.update_weights`; all weights are briefly in this machine's memory."""
        assert self._folder is not None  # not closed
        self._updates += 1
        path = self._folder / f"{self._updates:06d}"
        _write(weights, path)
        call = {"method": "reload_weights", "kwargs": {"weights_path": str(path)}, "timeout": self.seconds}
        try:
            self._ask("POST", "/collective_rpc", call)
        except EngineError as error:  # vLLM's answer leaves paths out
            raise EngineError(
                f"{error}. Check that the server, as the user that it runs as, can read {path}; restart it, since its "
                "weights may be incomplete"
            ) from error
        content = self._ask("POST", "/reset_prefix_cache").content
        if content and not json.loads(content).get("success", True):  # older versions answer without a body
            raise EngineError(
                f"the vLLM server at {self.address} did not reset its prefix cache after a weight update, so it is "
                "that of the old weights; let nothing else use the server while weights are updated"
            )
        shutil.rmtree(self._folder / f"{self._updates - 1:06d}", ignore_errors=True)

    def close(self) -> None:
        """Close connections and threads, and remove the weights that were written."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _look_at_server(self) -> str:
        """The name of the served model. Raises an error unless the server meets the requirements."""
        self._ask("GET", "/health", seconds=START_SECONDS)
        answer = self._ask("GET", "/v1/models", seconds=START_SECONDS)
        try:
            card = answer.json()["data"][0]
            name, context = str(card["id"]), int(card["max_model_len"])
        except MALFORMED as error:
            raise EngineError(f"{self.address}/v1/models: not an answer of vLLM: {answer.text[:200]!r}") from error
        if context < self.policy.context_length:
            raise ConfigurationError(
                f"the vLLM server at {self.address} has a context of {context} tokens, but the policy one of "
                f"{self.policy.context_length}; start it with --max-model-len {self.policy.context_length}, or set "
                "policy.context_length"
            )
        try:
            info = self._ask("GET", "/server_info?config_format=json", seconds=START_SECONDS).json()
            model = info["vllm_config"]["model_config"]
            mode = model["logprobs_mode"]
            self.dtype = str(model.get("dtype", "unknown")).removeprefix("torch.")
        except EngineError as error:
            raise ConfigurationError(
                f"{error}. The server must run in development mode to accept weights: start it with "
                "VLLM_SERVER_DEV_MODE=1"
            ) from error
        except MALFORMED:
            return name  # its configuration has another form: that affects no token
        if mode != LOGPROBS_MODE:
            raise ConfigurationError(
                f"the vLLM server at {self.address} has logprobs-mode {mode!r}: its log-probs are not those of the "
                f"distribution that it samples from; start it with --logprobs-mode {LOGPROBS_MODE}"
            )
        return name

    def _complete(self, body: dict[str, Any]) -> Completion:
        answer = self._ask("POST", "/v1/completions", body)
        try:
            choice = answer.json()["choices"][0]
            ids = tuple(int(token) for token in choice["token_ids"])
            return until_turn_end(self.turn_end, ids, tuple(float(x) for x in choice["logprobs"]["token_logprobs"]))
        except MALFORMED as error:
            raise EngineError(
                f"{self.address}/v1/completions: no token ids and log-probs in the answer ({error}): "
                f"{answer.text[:200]!r}; check that it is a vLLM server, 0.19.1 or later"
            ) from error

    def _ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, seconds: float | None = None
    ) -> httpx.Response:
        """The answer to one request. Raises `EngineError` unless its status is 200."""
        seconds = min(seconds or self.seconds, self.seconds)
        timeout = httpx.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))

        def send() -> httpx.Response:
            try:
                return self._client.request(method, self.address + path, json=body, timeout=timeout, auth=self._auth)
            except (httpx.NetworkError, httpx.RemoteProtocolError):
                # Retry once: the server may have just closed an idle connection. All requests are idempotent.
                return self._client.request(method, self.address + path, json=body, timeout=timeout, auth=self._auth)

        try:
            answer = within(seconds, send)
        except (httpx.HTTPError, OverdueError) as error:
            raise EngineError(
                f"rollout.server_url={self.address!r} did not answer {method} {path} within {seconds:g} s "
                f"({type(error).__name__}: {error}); check that it runs, and its log"
            ) from error
        if answer.status_code != 200:
            raise EngineError(
                f"rollout.server_url={self.address!r} answered {method} {path} with status {answer.status_code}: "
                f"{answer.text[:500]!r}"
            )
        return answer


def _address(text: str) -> tuple[str, httpx.Auth | None]:
    """An address without /v1 and credentials, and these."""
    try:
        return split_address(text.strip().rstrip("/").removesuffix("/v1").rstrip("/"))
    except ValueError as error:
        raise ConfigurationError(
            f"rollout.server_url is not the address of a server; give http://HOST:PORT: {error}"
        ) from error


def _write(weights: Iterable[tuple[str, Tensor]], folder: Path) -> None:
    """Write weights to a folder with one safetensors file; it gets its name once it is complete."""
    tensors: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in weights:
        kept = tensor.detach().cpu().contiguous()
        # Tied weights share memory, which safetensors refuses; the server needs both names (`with_tied_head`).
        tensors[name] = kept.clone() if kept.data_ptr() in places else kept
        places.add(kept.data_ptr())
    partial = folder.with_suffix(".partial")
    partial.mkdir()
    save_file(tensors, partial / "model.safetensors")
    partial.rename(folder)
