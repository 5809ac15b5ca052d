"""vLLM servers, on separate GPUs.

Experimental: tested with vLLM 0.32 on a CPU (`tests/with_vllm`), not yet on a GPU.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from torch import Tensor

from algorithms.common.base.memory_line import MemoryLine
from algorithms.common.model.lora import adapted_layers, adapter_config
from algorithms.common.model.policy import Policy
from algorithms.common.model.pretrained import DTYPES
from algorithms.common.model.turn_end import TurnEnd
from algorithms.common.rollout.addresses import split_addresses
from algorithms.common.rollout.config import EngineSettings
from algorithms.common.rollout.engines.base import (
    Engine,
    GenerationSizes,
    StreamingEngine,
    TurnRequest,
    until_turn_end,
)
from algorithms.common.rollout.engines.event_loop import EventLoop, cancelled
from algorithms.common.rollout.engines.served_vllm import ServedVllm
from algorithms.common.rollout.engines.vllm_local import sampling
from algorithms.common.rollout.engines.weight_files import WeightFiles, handover_folder
from algorithms.common.rollout.turn_decoder import Completion

START_SECONDS = 60.0  # per request at the start: a server may need some seconds to collect its information
CLOSE_SECONDS = 5.0  # for a server to forget an adapter at the end
READ_SECONDS = 60.0  # after an interruption, for servers to read the weights that are being sent

Turn = tuple[tuple[int, ...], tuple[float, ...]]  # ids and log-probs


class VllmServerEngine(StreamingEngine):
    """Completes with vLLM servers. Experimental: tested with vLLM 0.32 on a CPU, not yet on a GPU.

    Start each server (vLLM 0.19.1 or later) with the model that is trained, on a trusted network, since its development
    mode lets anyone change the weights:

        VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --max-model-len CONTEXT --dtype bfloat16 \\
            --logprobs-mode processed_logprobs --generation-config vllm

    All turns of an episode are requested from the same server, which has the episode in its prefix cache. Each request
    has its own seed, so the samples of an episode depend on other requests only by rounding.

    Weights are passed as safetensors in a folder that all can read at the same path; a server reloads them from there
    (`/collective_rpc` with `reload_weights`), then drops the KV cache of the old ones. If the policy trains an adapter
    and every server was started with `--enable-lora`, the adapter alone is passed (`/v1/load_lora_adapter`).

    Args:
        policy, turn_end, settings: as for every engine; `settings.server_url` has the addresses, separated by commas.
        seconds: timeout of one turn and of one weight update.
        folder: where weights are written; default: in memory if the servers are on this machine and TMPDIR is not set,
            else the folder for temporary files.
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
        self.seconds = seconds
        self.servers = [ServedVllm(address) for address in split_addresses(settings.server_url)]
        self._loop = EventLoop("vLLM servers")
        self._folder = folder
        self._files: WeightFiles | None = None  # of the process that sends weights
        self._loading: asyncio.Future[Any] | None = None  # the last transfer
        self._adapters: list[str] = []  # names that this process has sent
        self._tasks: dict[int, asyncio.Task[Turn]] = {}
        self._ended: SimpleQueue[int] = SimpleQueue()  # keys of tasks, in the order in which they ended
        self._server_of: dict[int, ServedVllm] = {}  # by episode
        try:
            limit = min(seconds, START_SECONDS)
            self._every(lambda server: server.look(policy.context_length, limit))
            adapter = adapter_config(policy.model)
            self.takes_adapters = adapter is not None and all(server.lora is not None for server in self.servers)
            if adapter is not None and self.takes_adapters:
                layers = {name.rpartition(".")[2] for name in adapted_layers(policy.model)}
                self._every(lambda server: server.check_adapter(adapter.r, layers, limit))
            self.dtype = "/".join(sorted({server.dtype for server in self.servers}))
        except BaseException:
            self.close()
            raise

    @property
    def place(self) -> str:
        """`Engine.place`, with the addresses."""
        return f"rollout.engine={self.name!r} at {', '.join(server.address for server in self.servers)}"

    @classmethod
    def memory(cls, settings: EngineSettings, sizes: GenerationSizes) -> Iterator[MemoryLine]:
        """`Engine.memory`: nothing, since servers use their own."""
        yield from ()

    def instances(self) -> Sequence[Engine]:
        """`Engine.instances`: one per server. They share the connections of this one, which alone is closed."""
        return [self._alone(server) for server in self.servers]

    def submit(self, requests: Sequence[TurnRequest]) -> None:
        """`Engine.submit`: sent at once."""
        bodies = [(request, self._body(request)) for request in requests]
        self._loop.run(self._start(bodies))

    def finished(self, timeout: float | None = None) -> list[tuple[int, Completion]]:
        """`Engine.finished`. After the first error, all other requests are cancelled."""
        if not self._tasks:
            return []
        try:
            ended = [self._ended.get(timeout=timeout)]
        except Empty:
            return []
        with suppress(Empty):
            while True:
                ended.append(self._ended.get_nowait())
        try:
            turns = [(key, self._tasks.pop(key).result()) for key in ended]
        except BaseException:
            self.cancel()
            raise
        return [(key, until_turn_end(self.turn_end, *turn)) for key, turn in turns]

    def cancel(self) -> None:
        """`Engine.cancel`: connections are closed, so that servers stop, too."""
        self._loop.run(cancelled(list(self._tasks.values())))
        self._tasks, self._ended, self._server_of = {}, SimpleQueue(), {}

    def end_episode(self, episode: int) -> None:
        """`Engine.end_episode`: another episode of this number may go to another server."""
        self._server_of.pop(episode, None)

    def update_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """`Engine.update_weights`, on all servers at once."""
        if self._files is None:
            hosts = [server.host for server in self.servers]
            self._files = WeightFiles(self._folder or handover_folder(hosts, self._weight_bytes()))
        if self.takes_adapters:
            path = self._files.write_adapter(weights, adapter_config(self.policy.model).save_pretrained)
            name = f"{path.parent.name}-{path.name}"
            self._adapters.append(name)
            self._load(lambda server: server.load_adapter(name, path, self.seconds))
            self.weights_name = name
            self._unload(self._adapters[:-1], self.seconds)
        else:
            path = self._files.write(weights, self._file_dtype())
            self._load(lambda server: server.load_weights(path, self.seconds))
        self._every(lambda server: server.drop_cache(self.seconds))

    def close(self) -> None:
        """Close connections and the thread, and remove what was written.

        After an interruption, it waits up to `READ_SECONDS` for servers that read the files: vLLM ends if they vanish.
        """
        if self._loop.closed:
            return
        self.cancel()
        if self._loading is not None and not self._loading.done():
            self._loop.run(_ended(self._loading, READ_SECONDS))
        self._unload(self._adapters, CLOSE_SECONDS)
        if self._files is not None:
            self._files.close()
        self._every(ServedVllm.close)
        self._loop.close()

    # ---------------------------------------------------------------- requests

    def _body(self, request: TurnRequest) -> dict[str, Any]:
        return {
            "prompt": list(request.prompt),
            "return_token_ids": True,
            **sampling(self.turn_end, request.seed, request.max_new_tokens, request.temperature),
        }

    async def _start(self, bodies: Sequence[tuple[TurnRequest, dict[str, Any]]]) -> None:
        ended = self._ended
        for request, body in bodies:
            if request.episode not in self._server_of:
                self._server_of[request.episode] = min(self.servers, key=lambda server: server.writing)
            server = self._server_of[request.episode]
            server.writing += 1
            task = asyncio.create_task(self._write(server, {"model": self.weights_name or server.model, **body}))
            task.add_done_callback(partial(_put, ended, request.key))
            self._tasks[request.key] = task

    async def _write(self, server: ServedVllm, body: dict[str, Any]) -> Turn:
        try:
            return await server.complete(body, self.seconds)
        finally:
            server.writing -= 1

    def _every(self, ask: Callable[[ServedVllm], Awaitable[None]]) -> None:
        """Ask all servers at once; when all have answered or failed, raises the first error."""

        async def gather() -> None:
            _raise_first(await asyncio.gather(*map(ask, self.servers), return_exceptions=True))

        self._loop.run(gather())

    def _load(self, ask: Callable[[ServedVllm], Awaitable[None]]) -> None:
        """As `_every`; an interruption does not end the requests, since servers would still read the files."""

        async def gather() -> None:
            self._loading = asyncio.gather(*map(ask, self.servers), return_exceptions=True)
            _raise_first(await asyncio.shield(self._loading))

        self._loop.run(gather())

    def _unload(self, names: Sequence[str], seconds: float) -> None:
        for name in list(names):
            self._every(partial(ServedVllm.unload_adapter, name=name, seconds=seconds))
            self._adapters.remove(name)

    def _alone(self, server: ServedVllm) -> VllmServerEngine:
        """This engine with one of its servers."""
        alone = copy.copy(self)
        alone.servers, alone.dtype = [server], server.dtype
        alone._tasks, alone._ended, alone._server_of = {}, SimpleQueue(), {}
        return alone

    # ---------------------------------------------------------------- weights

    def _file_dtype(self) -> Any:
        """The precision of the servers, if it is the same; files are not wider than they need."""
        return DTYPES.get(self.dtype)

    def _weight_bytes(self) -> int:
        """Bytes of an update; a tied output layer is written twice (`with_tied_head`)."""
        dtype = self._file_dtype()
        model = self.policy.model
        parameters = [*model.parameters(), model.get_output_embeddings().weight]
        return sum(p.numel() * min(p.element_size(), dtype.itemsize if dtype else 8) for p in parameters)


def _put(ended: SimpleQueue[int], key: int, task: asyncio.Task[Turn]) -> None:
    """Callback of a task that has ended."""
    ended.put(key)


def _raise_first(answers: Sequence[BaseException | None]) -> None:
    for error in answers:
        if error is not None:
            raise error


async def _ended(future: asyncio.Future[Any], seconds: float) -> None:
    """Wait until it is done, up to some seconds."""
    await asyncio.wait([future], timeout=seconds)
