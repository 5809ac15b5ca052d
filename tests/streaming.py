"""An engine that serves requests one by one in random order, and retrievers that are slow, out of order or fail."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from helpers import CountingRetriever, small_retriever
from torch import Tensor

from algorithms.common.base.memory_line import MemoryLine
from algorithms.common.model.tokenizer import PolicyTokenizer
from algorithms.common.rollout.config import EngineSettings
from algorithms.common.rollout.engines.base import Engine, GenerationSizes, TurnRequest
from algorithms.common.rollout.turn_decoder import Completion
from retrievers import Passage, RetrievalError

TURNS = (
    "<search> Alan Brin</search>",
    "<search> Mira Sorel</search>",
    "<search> fail here</search>",
    "<search></search>",
    "<answer> Tolona</answer>",
    "<answer> Ostue</answer>",
)


class StreamingEngine(Engine):
    """Writes one of `TURNS`, which the prompt and the seed determine; what is finished first is drawn with `order`.

    Args:
        last: an episode whose turns are finished only when no other turn is being written or waits for a search.
        on_finished: called before turns are returned.
    """

    name = "streaming"
    streams = True

    def __init__(
        self,
        tokenizer: PolicyTokenizer,
        order: int = 0,
        *,
        last: int | None = None,
        on_finished: Callable[[], None] = lambda: None,
    ) -> None:
        self.tokenizer = tokenizer
        self.last, self.on_finished = last, on_finished
        self.asked: list[TurnRequest] = []  # in order of submission
        self.written: list[int] = []  # episodes of the turns that were returned, in order
        self.cancelled = 0
        self._order = np.random.default_rng(order)
        self._writing: list[TurnRequest] = []

    def submit(self, requests: Sequence[TurnRequest]) -> None:
        self.asked += requests
        self._writing += requests

    def finished(self, timeout: float | None = None) -> list[tuple[int, Completion]]:
        self.on_finished()
        if timeout is not None and self._order.random() < 0.5:
            time.sleep(min(timeout, 0.001))
            return []
        ready = [request for request in self._writing if request.episode != self.last]
        if not ready and timeout is None:
            ready = self._writing
        count = int(self._order.integers(1, len(ready) + 1)) if ready else 0
        chosen = [ready[int(place)] for place in self._order.permutation(len(ready))[:count]]
        self._writing = [request for request in self._writing if request not in chosen]
        self.written += [request.episode for request in chosen]
        return [(request.key, self._turn(request)) for request in chosen]

    def cancel(self) -> None:
        self.cancelled += 1
        self._writing = []

    def _turn(self, request: TurnRequest) -> Completion:
        digest = hashlib.sha256(repr((request.prompt, request.seed)).encode()).digest()
        ids = self.tokenizer.encode(TURNS[digest[0] % len(TURNS)])[: request.max_new_tokens]
        return Completion(tuple(ids), tuple(-(byte + 1) / 256 for byte in digest[: len(ids)]))

    def complete(
        self, prompts: Sequence[tuple[int, ...]], seeds: Sequence[int], *, max_new_tokens: int, temperature: float
    ) -> list[Completion]:
        raise AssertionError

    @classmethod
    def memory(cls, settings: EngineSettings, sizes: GenerationSizes) -> Iterator[MemoryLine]:
        raise AssertionError

    def update_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        raise AssertionError


class SlowRetriever(CountingRetriever):
    """Several searches at a time, each of which takes up to `seconds`; queries with "fail" have no result.

    `names_failures`: whether a call that fails for some queries returns the results of the others.
    """

    def __init__(self, seconds: float = 0.004, seed: int = 0, calls: int = 3, *, names_failures: bool = True) -> None:
        super().__init__(small_retriever())
        self.seconds, self.names_failures = seconds, names_failures
        self.most = self._now = 0  # calls at a time
        self._calls = calls
        self._random = np.random.default_rng(seed)
        self._lock = threading.Lock()

    @property
    def concurrency(self) -> int:
        return self._calls

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
            seconds = self.seconds * float(self._random.random())
        time.sleep(seconds)
        with self._lock:
            self._now -= 1
            found = super().search(queries, k)
        results = [None if "fail" in query else passages for query, passages in zip(queries, found, strict=True)]
        if None in results:
            partly = self.names_failures and any(passages is not None for passages in results)
            raise RetrievalError("the index is away", results if partly else None)
        return found


def search_threads() -> list[threading.Thread]:
    """Threads of rollouts that are alive."""
    return [thread for thread in threading.enumerate() if thread.name == "rollout-search"]
