"""vLLM servers, on separate GPUs.

Experimental: tested with vLLM 0.32 on a CPU (`tests/with_vllm`), not yet on a GPU.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from torch import Tensor

from algorithms.common.base.memory_line import MemoryLine
from algorithms.common.model.kv_cache import Ids
from algorithms.common.model.lora import adapted_layers, adapter_config
from algorithms.common.model.policy import Policy
from algorithms.common.model.pretrained import DTYPES
from algorithms.common.model.turn_end import TurnEnd
from algorithms.common.rollout.config import EngineSettings
from algorithms.common.rollout.engines.base import Engine, GenerationSizes, TurnRequest, until_turn_end
from algorithms.common.rollout.engines.event_loop import EventLoop, cancelled
from algorithms.common.rollout.engines.served_vllm import ServedVllm, split_addresses
from algorithms.common.rollout.engines.vllm_local import sampling
from algorithms.common.rollout.engines.weight_files import WeightFiles, handover_folder
from algorithms.common.rollout.turn_decoder import Completion

START_SECONDS = 60.0  # per request at the start: a server may need some seconds to collect its information
CLOSE_SECONDS = 5.0  # for a server to forget an adapter at the end

Turn = tuple[tuple[int, ...], tuple[float, ...]]  # ids and log-probs


class VllmServerEngine(Engine):
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
    streams = True

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
        self._files: WeightFiles | None = None
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
            self._files = WeightFiles(folder or handover_folder([s.host for s in self.servers], self._weight_bytes()))
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

    def complete(
        self, prompts: Sequence[Ids], seeds: Sequence[int], *, max_new_tokens: int, temperature: float
    ) -> list[Completion]:
        """`Engine.complete`; nothing else may be in progress."""
        asked = enumerate(zip(prompts, seeds, strict=True))
        self.submit([TurnRequest(key, prompt, seed, max_new_tokens, temperature, key) for key, (prompt, seed) in asked])
        turns: dict[int, Completion] = {}
        while len(turns) < len(prompts):
            turns.update(self.finished())
        return [turns[key] for key in range(len(prompts))]

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
        assert self._files is not None  # not closed
        if self.takes_adapters:
            path = self._files.write_adapter(weights, adapter_config(self.policy.model).save_pretrained)
            old, self.weights_name = self.weights_name, f"{path.parent.name}-{path.name}"
            self._every(lambda server: server.load_adapter(self.weights_name, path, self.seconds))
            if old:
                self._every(lambda server: server.unload_adapter(old, self.seconds))
        else:
            path = self._files.write(weights, self._file_dtype())
            self._every(lambda server: server.load_weights(path, self.seconds))
        self._every(lambda server: server.drop_cache(self.seconds))

    def close(self) -> None:
        """Close connections and the thread, and remove what was written."""
        if self._loop.closed:
            return
        self.cancel()
        if self._files is not None:
            if self.weights_name.startswith(self._files.folder.name):  # another process removes its own
                self._every(lambda server: server.unload_adapter(self.weights_name, CLOSE_SECONDS))
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
            task.add_done_callback(lambda _, key=request.key: ended.put(key))  # type: ignore[misc] # of its own key
            self._tasks[request.key] = task

    async def _write(self, server: ServedVllm, body: dict[str, Any]) -> Turn:
        try:
            return await server.complete(body, self.seconds)
        finally:
            server.writing -= 1

    def _every(self, ask: Callable[[ServedVllm], Awaitable[None]]) -> None:
        """Ask all servers at once; when all have answered or failed, raises the first error."""

        async def gather() -> None:
            answers = await asyncio.gather(*map(ask, self.servers), return_exceptions=True)
            for error in answers:
                if error is not None:
                    raise error

        self._loop.run(gather())

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
