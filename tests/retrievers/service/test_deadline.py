"""Connections of the HTTP client that every network call uses."""

from __future__ import annotations

from typing import Any

import httpcore
import httpx
import pytest

from retrievers.service.deadline import make_client


def test_a_connection_that_comes_after_the_end_of_its_client_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    client = make_client(1)
    streams: list[Any] = []

    class Late:
        closed = False

        def close(self) -> None:
            self.closed = True

    def connect(*_: Any, **__: Any) -> Late:
        client.close()  # another thread does, while this one connects
        streams.append(Late())
        return streams[0]

    monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", connect)
    with pytest.raises(httpx.ConnectError, match="the client has been closed"):
        client.get("http://127.0.0.1:9")
    assert streams[0].closed
