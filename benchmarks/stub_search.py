"""Client and server of a search engine that always returns the same passages, so that only environments are measured.

The stub is a process that answers HTTP requests in the formats of Search-R1, skyrl-gym and gem-llm.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from multiprocessing.connection import Connection
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from retrievers import Passage, RetrievalError, Retriever

PASSAGES = [Passage(str(i), f"Title {i}", (f"{i} some text of words " * 20).strip(), 1.0 - i / 10) for i in range(3)]


class HttpRetriever(Retriever):
    """Uses the wire format of Search-R1, with one request per batch, over one connection."""

    def __init__(self, url: str, timeout: float = 30.0) -> None:
        self.path = urlsplit(url).path
        self.connection = HTTPConnection(urlsplit(url).netloc, timeout=timeout)

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.check(queries, k)
        body = json.dumps({"queries": list(queries), "topk": k, "return_scores": True})
        try:
            self.connection.request("POST", self.path, body.encode(), {"Content-Type": "application/json"})
            reply = self.connection.getresponse()
            text = reply.read()
        except (OSError, HTTPException) as error:
            self.connection.close()
            raise RetrievalError(f"the search service failed: {error!r}") from error
        if reply.status != 200:
            raise RetrievalError(f"the search service answered with status {reply.status}")
        return [
            [Passage.from_contents(d["document"]["id"], d["document"]["contents"], d["score"]) for d in found]
            for found in json.loads(text)["result"]
        ]

    def sample(self, n: int, rng: np.random.Generator) -> list[Passage]:
        raise RetrievalError("the search service does not support random passages")

    def __len__(self) -> int:
        return len(PASSAGES)


def msgpack(value: Any) -> bytes:
    """Encode strings, floats, lists and dictionaries as MessagePack."""
    if isinstance(value, str):
        return struct.pack(">BI", 0xDB, len(value.encode())) + value.encode()
    if isinstance(value, float):
        return struct.pack(">Bd", 0xCB, value)
    if isinstance(value, list):
        return struct.pack(">BI", 0xDD, len(value)) + b"".join(map(msgpack, value))
    return struct.pack(">BI", 0xDF, len(value)) + b"".join(msgpack(x) for pair in value.items() for x in pair)


FOUND = [{"document": {"id": p.id, "contents": f'"{p.title}"\n{p.text}'}, "score": p.score} for p in PASSAGES]
FOUND_JSON, FOUND_MSGPACK = json.dumps(FOUND).encode(), msgpack({"result": FOUND})


class _Stub(asyncio.Protocol):
    """Answers POST /retrieve ("queries", or skyrl-gym's "query") and gem's /retrieve/msgpack, with keep-alive."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.received = transport, b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, ended, body = self.received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        if not ended or length is None or len(body) < int(length[1]):
            return
        self.received = b""  # clients don't pipeline requests
        if head.split(b" ", 2)[1].endswith(b"/msgpack"):
            reply = FOUND_MSGPACK
        else:
            queries = json.loads(body).get("queries", [""])
            reply = b'{"result":[%s]}' % b",".join([FOUND_JSON] * len(queries))
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(reply), reply))


def _serve(pipe: Connection) -> None:
    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(_Stub, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


@contextmanager
def stub_server() -> Iterator[str]:
    """Run the stub in a separate process; yields its address."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(sender,), daemon=True)
    process.start()
    if not receiver.poll(60):
        raise RuntimeError("the stub server did not start within 60 seconds")
    try:
        yield f"http://127.0.0.1:{receiver.recv()}/retrieve"
    finally:
        process.terminate()
        process.join()
