"""Connections of the service's HTTP server with a limit on their number and on the time that each may take.

uvicorn waits for a request as long as its client likes, and at its own end too. Here the head and the body of a request
must each be complete within a time, however they arrive, and a response must be read within one. When there are too
many connections, the one that has waited longest in the middle of its request makes room for the next.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, cast

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from retrievers.base import QueryError

HEAD_SECONDS = 10.0  # from the connection, or the first byte of a further request, to the end of the head
BODY_SECONDS = 20.0  # from the end of the head to that of the body
READ_SECONDS = 30.0  # for which a client may leave a response unread
KEEP_ALIVE = 75  # seconds; longer than clients keep connections, so that the clients close them
SHUTDOWN_SECONDS = 25  # for running requests; process managers wait 30 seconds before they kill
HEAD, BODY, IDLE, WORK = "head", "body", "idle", "work"  # what a connection is waiting for
DETAIL = b'{"detail": "too many connections are open, and all of them are at work: retry in a second"}'
FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(DETAIL), DETAIL)
)


def bind(host: str, port: int) -> socket.socket:
    """A bound TCP socket; port 0 for any free one. Raises `QueryError`."""
    if not 0 <= port <= 65535:
        raise QueryError(f"port={port}: must be from 0 to 65535")
    with ExitStack() as failed:
        try:
            family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            # With an explicit protocol, asyncio sets TCP_NODELAY; else each response waits 40 ms for the client's ACK.
            listener = failed.enter_context(socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except (OSError, OverflowError) as error:
            raise QueryError(
                f"can't listen on host {host!r}, port {port} ({error}): use another --port or --host"
            ) from error
        failed.pop_all()  # it stays open
    return listener


def make_server(app: ASGIApp, max_connections: int) -> uvicorn.Server:
    """A server of an application; `run(sockets=[...])` serves until `should_exit` is set.

    Running requests are then completed within `SHUTDOWN_SECONDS`. Incomplete ones are dropped at once.
    """

    def connection(**options: Any) -> H11Protocol:
        return _Connection(max_connections, **options)

    config = uvicorn.Config(
        app,
        http=cast(type[asyncio.Protocol], connection),
        ws="none",
        log_level="warning",
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    return uvicorn.Server(config)


class _Connection(H11Protocol):
    def __init__(self, max_connections: int, **options: Any) -> None:
        super().__init__(**options)
        self.max_connections = max_connections
        self.waits_for = HEAD
        self.since = self.loop.time()
        self._request: object = None  # the one that `waits_for` is about
        self._late: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        super().connection_made(transport)
        self._limit(HEAD_SECONDS)
        if len(self.connections) > self.max_connections and not self._make_room():
            transport.write(FULL)
            transport.close()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._unread = self._abort_after(READ_SECONDS, self._unread)
        self._look()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self._abort_after(READ_SECONDS, self._unread)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self.transport.abort()  # what a client has not read by now would keep the connection open

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for timer in (self._late, self._unread):
            if timer is not None:
                timer.cancel()

    def shutdown(self) -> None:
        """uvicorn's shutdown, which would wait for requests that are still arriving."""
        if self.waits_for in (HEAD, BODY):
            self.transport.abort()
        else:
            super().shutdown()

    def _look(self) -> None:
        """Start the clock when the connection begins to wait for something else; what arrives does not restart it."""
        waits_for = self._phase()
        if (waits_for, self.cycle) != (self.waits_for, self._request):
            self.waits_for, self._request, self.since = waits_for, self.cycle, self.loop.time()
            self._limit({HEAD: HEAD_SECONDS, BODY: BODY_SECONDS}.get(waits_for))

    def _phase(self) -> str:
        if self.conn.their_state is h11.SEND_BODY:
            return BODY
        if self.conn.their_state is not h11.IDLE:
            return WORK
        begun, _ = self.conn.trailing_data
        return HEAD if begun or self.cycle is None else IDLE

    def _limit(self, seconds: float | None) -> None:
        if seconds is not None:
            self._late = self._abort_after(seconds, self._late)
        elif self._late is not None:
            self._late.cancel()

    def _abort_after(self, seconds: float, earlier: asyncio.TimerHandle | None) -> asyncio.TimerHandle:
        if earlier is not None:
            earlier.cancel()
        abort: Callable[[], None] = self.transport.abort
        return self.loop.call_later(seconds, abort)

    def _make_room(self) -> bool:
        """Close another connection: the oldest with an incomplete request, else the longest unused one."""
        others = [c for c in self.connections if isinstance(c, _Connection) and c is not self]
        for kinds in ((HEAD, BODY), (IDLE,)):
            waiting = [c for c in others if c.waits_for in kinds and not c.transport.is_closing()]
            if waiting:
                min(waiting, key=lambda c: c.since).transport.abort()
                return True
        return False
