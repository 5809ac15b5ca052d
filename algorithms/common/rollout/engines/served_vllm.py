"""`ServedVllm`: one vLLM server: what it serves, and the requests that it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from algorithms.common.rollout.addresses import base_address
from algorithms.common.rollout.engines.base import EngineError
from algorithms.common.rollout.engines.vllm_local import LOGPROBS_MODE
from igsearch_env.errors import ConfigurationError
from retrievers.service.address import split_address

IN_FLIGHT = 256  # requests of this process at once, as many as vLLM batches by default; others wait here
KEEP_ALIVE = 2.0  # seconds for which an unused connection is kept; vLLM closes it after 5
CONNECT_SECONDS = 5.0  # a machine that is up accepts a connection well within this
RESET_SECONDS = 10.0  # within which aborted requests have given their blocks back
MAX_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # values of --max-lora-rank
# How to repair that a server, in a container or on another machine, does not see the folder of the weights.
SHARED = " (if it can't see that folder, set TMPDIR of the training to one that both see at the same path)"
MALFORMED = (ValueError, KeyError, IndexError, TypeError)  # raised by reading an answer that is not vLLM's


class ServedVllm:
    """A vLLM server. Its coroutines raise `EngineError`, which names its address, unless they say otherwise.

    Args:
        address: http://HOST:PORT, with credentials if it needs any. Raises `ConfigurationError` if it is none.
    """

    def __init__(self, address: str) -> None:
        self.address, auth = _address(address)
        self.model = ""
        self.dtype = "unknown"
        self.lora: dict[str, Any] | None = None  # vLLM's LoRAConfig, if it was started with --enable-lora
        self.writing = 0  # turns that were submitted and are not finished
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=IN_FLIGHT, keepalive_expiry=KEEP_ALIVE)
        self._client = httpx.AsyncClient(auth=auth, limits=limits, trust_env=False)

    @property
    def host(self) -> str:
        """Name or number of its machine."""
        return httpx.URL(self.address).host

    async def look(self, context_length: int, seconds: float) -> None:
        """Read what it serves. Raises `ConfigurationError` unless it meets the requirements."""
        await self.ask("GET", "/health", seconds=seconds)
        answer = await self.ask("GET", "/v1/models", seconds=seconds)
        try:
            card = answer.json()["data"][0]
            self.model, context = str(card["id"]), int(card["max_model_len"])
        except MALFORMED as error:
            raise EngineError(f"{self.address}/v1/models: not an answer of vLLM: {answer.text[:200]!r}") from error
        if context < context_length:
            raise ConfigurationError(
                f"the vLLM server at {self.address} has a context of {context} tokens, but the policy one of "
                f"{context_length}; start it with --max-model-len {context_length}, or set context_length "
                "(policy.context_length in training)"
            )
        try:
            config = (await self.ask("GET", "/server_info?config_format=json", seconds=seconds)).json()["vllm_config"]
            mode = config["model_config"]["logprobs_mode"]
            self.dtype = str(config["model_config"].get("dtype", "unknown")).removeprefix("torch.")
            self.lora = config.get("lora_config")
        except EngineError as error:
            raise ConfigurationError(
                f"{error}. The server must run in development mode to accept weights: start it with "
                "VLLM_SERVER_DEV_MODE=1"
            ) from error
        except MALFORMED:
            return  # its configuration has another form: that affects no token
        if mode != LOGPROBS_MODE:
            raise ConfigurationError(
                f"the vLLM server at {self.address} has logprobs-mode {mode!r}: its log-probs are not those of the "
                f"distribution that it samples from; start it with --logprobs-mode {LOGPROBS_MODE}"
            )

    async def check_adapter(self, rank: int, layers: Iterable[str], seconds: float) -> None:
        """Raise `ConfigurationError` unless it can be given adapters of this rank for layers of these names."""
        assert self.lora is not None
        who = f"the vLLM server at {self.address}, started with --enable-lora,"
        most = int(self.lora.get("max_lora_rank", rank))
        if rank > most:
            least = next((allowed for allowed in MAX_RANKS if allowed >= rank), rank)
            raise ConfigurationError(
                f"{who} takes adapters up to rank {most}, but policy.lora.rank is {rank}; start it with "
                f"--max-lora-rank {least}, or without --enable-lora, for merged weights"
            )
        only = sorted(self.lora.get("target_modules") or ())
        left_out = sorted(set(layers) - set(only)) if only else []
        if left_out:
            raise ConfigurationError(
                f"{who} applies adapters to {', '.join(only)} alone, but the policy's are in "
                f"{', '.join(left_out)}, too; start it without --lora-target-modules, or change "
                "policy.lora.target_modules"
            )
        dtype = str(self.lora.get("lora_dtype", self.dtype)).removeprefix("torch.")
        if dtype not in (self.dtype, "auto"):
            raise ConfigurationError(
                f"{who} holds adapters in {dtype} beside a model in {self.dtype}, which is not how the policy computes "
                "them; start it with --lora-dtype auto"
            )
        if (await self._send("GET", "/v1/load_lora_adapter", None, seconds)).status_code == 404:
            raise ConfigurationError(
                f"{who} takes no new adapters: start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, or without "
                "--enable-lora, for merged weights"
            )

    async def complete(self, body: dict[str, Any], seconds: float) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Ids and log-probs of what follows a prompt. If cancelled, it closes the connection, and vLLM stops."""
        async with self._slots:
            answer = await self.ask("POST", "/v1/completions", body, seconds=seconds)
        try:
            choice = answer.json()["choices"][0]
            ids = tuple(int(token) for token in choice["token_ids"])
            return ids, tuple(float(x) for x in choice["logprobs"]["token_logprobs"])
        except MALFORMED as error:
            raise EngineError(
                f"{self.address}/v1/completions: no token ids and log-probs in the answer ({error}): "
                f"{answer.text[:200]!r}; check that it is a vLLM server, 0.19.1 or later"
            ) from error

    async def load_weights(self, folder: Path, seconds: float) -> None:
        """Replace its weights by those in a folder."""
        call = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}, "timeout": seconds}
        try:
            await self.ask("POST", "/collective_rpc", call, seconds=seconds)
        except EngineError as error:  # vLLM's answer leaves paths out
            raise EngineError(
                f"{error}. Check that the server, as the user that it runs as, can read {folder}{SHARED}; restart the "
                "server, since its weights may be incomplete"
            ) from error

    async def load_adapter(self, name: str, folder: Path, seconds: float) -> None:
        """Load an adapter; requests name it as their model."""
        # Under a new name each time: an adapter that is loaded in place is read from its file in every pass.
        try:
            await self.ask(
                "POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)}, seconds=seconds
            )
        except EngineError as error:
            if "has already been loaded" in str(error):  # the answer to the first of two attempts was lost
                return
            raise EngineError(
                f"{error}. Check that the server can read {folder}{SHARED}, and that its version supports adapters in "
                "all layers that policy.lora.target_modules names; without --enable-lora it is sent merged weights"
            ) from error

    async def unload_adapter(self, name: str, seconds: float) -> None:
        """Forget an adapter, if it is there and the server answers; requests that are running keep it."""
        with suppress(EngineError):
            await self.ask("POST", "/v1/unload_lora_adapter", {"lora_name": name}, seconds=seconds)

    async def drop_cache(self, seconds: float) -> None:
        """Drop the KV cache of old weights."""
        ends = asyncio.get_running_loop().time() + min(seconds, RESET_SECONDS)
        while True:
            answer = await self.ask("POST", "/reset_prefix_cache", seconds=seconds)
            try:
                done = not answer.content or dict(answer.json()).get("success", True)  # older versions have no body
            except MALFORMED as error:
                raise EngineError(
                    f"{self.address}/reset_prefix_cache: not an answer of vLLM: {answer.text[:200]!r}; check that it "
                    "is a vLLM server, 0.19.1 or later"
                ) from error
            if done:
                return
            if asyncio.get_running_loop().time() > ends:
                raise EngineError(
                    f"the vLLM server at {self.address} did not reset its prefix cache after a weight update, so it is "
                    "that of the old weights; let nothing else use the server while weights are updated"
                )
            await asyncio.sleep(0.1)  # requests that were cancelled may hold blocks for a moment

    async def ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, seconds: float
    ) -> httpx.Response:
        """The answer to one request, whose status is 200."""
        answer = await self._send(method, path, body, seconds)
        if answer.status_code != 200:
            raise EngineError(
                f"rollout.server_url={self.address!r} answered {method} {path} with status {answer.status_code}: "
                f"{answer.text[:500]!r}"
            )
        return answer

    async def _send(self, method: str, path: str, body: dict[str, Any] | None, seconds: float) -> httpx.Response:
        connect = min(seconds, CONNECT_SECONDS)
        timeout = httpx.Timeout(seconds, connect=connect)
        url = self.address + path
        why: Exception
        try:
            async with asyncio.timeout(seconds):
                try:
                    return await self._client.request(method, url, json=body, timeout=timeout)
                except (httpx.NetworkError, httpx.RemoteProtocolError):
                    # Retry once: the server may have just closed an idle connection. All requests are idempotent.
                    return await self._client.request(method, url, json=body, timeout=timeout)
        except httpx.HTTPError as error:
            why = error
        except TimeoutError:
            why = TimeoutError("the answer is not complete")
        match why:
            case httpx.ConnectError():
                what = f"can't be connected to for {method} {path}"
            case httpx.ConnectTimeout():
                what = f"can't be connected to within {connect:g} s for {method} {path}"
            case httpx.TimeoutException() | TimeoutError():
                what = f"did not answer {method} {path} within {seconds:g} s"
            case _:
                what = f"did not answer {method} {path}"
        raise EngineError(
            f"rollout.server_url={self.address!r} {what} ({type(why).__name__}: {why}); check that it runs, its "
            "address, its load and its log"
        ) from why

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()


def _address(text: str) -> tuple[str, httpx.Auth | None]:
    """An address without /v1 and credentials, and these."""
    try:
        return split_address(base_address(text))
    except ValueError as error:
        raise ConfigurationError(
            "rollout.server_url is not the address of a server; give http://HOST:PORT, several separated by commas: "
            f"{error}"
        ) from error
