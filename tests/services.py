"""Services for tests: real ones in a thread, and one in Search-R1's format that is not ours."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
from fastapi import FastAPI

from igsearch.testing.retriever_contract import CORPUS
from retrievers import Retriever
from retrievers.service.connections import bind, make_server


@contextmanager
def serving(app: FastAPI, max_connections: int = 512) -> Iterator[str]:
    """The address of an application that is served in a thread."""
    listener = bind("127.0.0.1", 0)
    server = make_server(app, max_connections)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def raw_service(answer: Callable[[socket.socket, threading.Event], None]) -> Iterator[str]:
    """The address of a service that does with each connection what `answer` does; the event is set at the end."""
    ended = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def handle(connection: socket.socket) -> None:
        with connection, suppress(OSError):  # the client may have gone
            answer(connection, ended)

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            if ended.is_set():
                connection.close()
                return
            threads.append(threading.Thread(target=handle, args=(connection,)))
            threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    port = listener.getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        ended.set()
        socket.create_connection(("127.0.0.1", port)).close()
        accepting.join()
        listener.close()
        for thread in threads:
            thread.join()


def free_port() -> int:
    """A port at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class SearchR1Service(httpx.MockTransport):
    """Search-R1's service over a retriever, as an httpx transport: nothing but /retrieve.

    `requests` holds the bodies; `shape` is called with each document for what else shall stand in it.
    """

    def __init__(
        self, retriever: Retriever, *, scores: bool = True, shape: Callable[[dict[str, Any]], dict[str, Any]] = dict
    ) -> None:
        super().__init__(self.answer)
        self.retriever = retriever
        self.scores = scores
        self.shape = shape
        self.requests: list[dict[str, Any]] = []
        self.urls: list[str] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        """The answer to a request."""
        if request.url.path != "/retrieve":
            return httpx.Response(404, json={"detail": "Not Found"})
        body = json.loads(request.content)
        self.urls.append(str(request.url))
        self.requests.append(body)
        result: list[list[dict[str, Any]]] = []
        for passages in self.retriever.search(body["queries"], body["topk"]):
            documents = [self.shape({"id": p.id, "contents": f'"{p.title}"\n{p.text}'}) for p in passages]
            scored = [{"document": d, "score": p.score} for d, p in zip(documents, passages, strict=True)]
            result.append(scored if self.scores else documents)
        return httpx.Response(200, json={"result": result})


@contextmanager
def process(*command: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A service in a process of its own, once it serves, and its address."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, *command], stdout=pipe, stderr=pipe, text=True) as service:
        try:
            assert service.stdout is not None
            line = service.stdout.readline()
            assert line.startswith(f"serving {len(CORPUS)} passages on http://127.0.0.1:"), line
            yield service, line.split()[-1]
        finally:
            service.kill()
