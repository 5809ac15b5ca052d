"""A time limit on the whole of a network call.

httpx limits single reads and writes, so a peer that sends a byte now and then is never too late; names are resolved
without any limit. Here a call runs in a thread of its own. When its time is up, the connection that it uses is shut
down and the caller continues.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import httpcore
import httpx

T = TypeVar("T")
KEEP_ALIVE = 5.0  # seconds for which an unused connection is kept, httpx's default


class OverdueError(Exception):
    """A call took longer than it may."""


def within(seconds: float, call: Callable[[], T]) -> T:
    """The result of `call`, which runs in a thread of its own.

    After `seconds` it raises `OverdueError`. What the call then uses of connections of `make_client` is shut down, so
    its thread ends as well; a call that hangs elsewhere keeps its thread, which does not keep the process alive.
    """
    running = _Call()
    future: Future[T] = Future()

    def run() -> None:
        _thread.call = running
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="network call", daemon=True).start()
    try:
        return future.result(timeout=max(seconds, 0.0))
    except TimeoutError:
        if future.done():  # the call itself raised it
            raise
        running.end()
        raise OverdueError(f"not complete within {seconds:.1f} s") from None


def make_client(keep_alive: int, transport: httpx.BaseTransport | None = None) -> httpx.Client:
    """An HTTP client whose calls `within` can end; it keeps up to `keep_alive` unused connections.

    With a transport of the caller's, `within` returns in time, but only the transport can close its connections.
    Proxy environment variables are ignored.
    """
    return httpx.Client(transport=transport or make_transport(keep_alive), trust_env=False)


def make_transport(keep_alive: int) -> httpx.HTTPTransport:
    """The transport of `make_client`."""
    transport = httpx.HTTPTransport(trust_env=False)
    transport.close()
    # httpx has no argument for the network backend of httpcore, which is the interface for this.
    transport._pool = _Pool(
        ssl_context=httpx.create_ssl_context(trust_env=False),
        max_connections=None,
        max_keepalive_connections=keep_alive,
        keepalive_expiry=KEEP_ALIVE,
        network_backend=_Backend(),
    )
    return transport


class _Call:
    """A call that is running: the socket that it reads or writes at the moment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._ended = False

    @contextmanager
    def using(self, used: socket.socket) -> Iterator[None]:
        with self._lock:
            if self._ended:
                raise httpcore.ReadTimeout("the time of the call is up")
            self._socket = used
        try:
            yield
        finally:
            with self._lock:
                self._socket = None

    def end(self) -> None:
        """Wake the thread from what it waits for; it may not read or write any more."""
        with self._lock:  # so the socket is not closed, and its number not in use by another, meanwhile
            self._ended = True
            if self._socket is not None:
                with suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # of TLS: not its own, which has a state


class _Thread(threading.local):
    call: _Call | None = None


_thread = _Thread()


class _Stream(httpcore.NetworkStream):
    """A connection that tells the call of its thread what it uses."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with self._used():
            return self._stream.read(max_bytes, timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with self._used():
            self._stream.write(buffer, timeout)

    def close(self) -> None:
        self._stream.close()

    def start_tls(self, *args: Any, **kwargs: Any) -> httpcore.NetworkStream:
        return _Stream(self._stream.start_tls(*args, **kwargs))  # its time-out is for the whole handshake

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

    @contextmanager
    def _used(self) -> Iterator[None]:
        if _thread.call is None:  # outside `within`
            yield
        else:
            with _thread.call.using(self._stream.get_extra_info("socket")):
                yield


class _Backend(httpcore.SyncBackend):
    def __init__(self) -> None:
        self.closed = False

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        stream = super().connect_tcp(host, port, timeout, local_address, socket_options)
        if self.closed:  # meanwhile: no pool would close this connection
            stream.close()
            raise httpcore.ConnectError("the client has been closed")
        return _Stream(stream)


class _Pool(httpcore.ConnectionPool):
    """A pool after whose end no connection begins."""

    def close(self) -> None:
        backend = self._network_backend
        if isinstance(backend, _Backend):
            backend.closed = True
        super().close()
