"""Refuses what a web page of another site could make a browser send to the service.

A page can send requests to any address that its reader's machine reaches. It can't set the content type of JSON without
the server's consent, which this service never gives; and where it has its own host name point to the service (DNS
rebinding), the Host header shows that name.
"""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

JSON = "application/json"


class Admission:
    """ASGI middleware: a known Host, and JSON wherever there is a body.

    Args:
        app: the application.
        hosts: names by which clients address it, besides `localhost`, the name of this machine and all IP addresses.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str] = ()) -> None:
        self.app = app
        own = socket.gethostname()
        self.hosts = frozenset(name.lower().rstrip(".") for name in ("localhost", own, *hosts) if name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        if scope["type"] == "http" and (refusal := self._refusal(scope["method"], Headers(scope=scope))):
            status, detail = refusal
            content = json.dumps({"detail": detail})
            await Response(content, status, media_type=JSON)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _refusal(self, method: str, headers: Headers) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if not self._known(host):
            return 403, (
                f"Host is {host[:200]!r}: it must be an IP address, or one of {', '.join(sorted(self.hosts))}; address "
                "the service by one of these, or start it with --allowed-hosts and that name"
            )
        kind = headers.get("content-type", "")
        if method not in ("GET", "HEAD", "OPTIONS") and kind.partition(";")[0].strip().lower() != JSON:
            return 415, f"Content-Type is {kind[:200]!r}: it must be {JSON}; send that header with a JSON body"
        return None

    def _known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if any(character in host for character in "/@?#\\"):
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.rstrip(".") in self.hosts
        return True
