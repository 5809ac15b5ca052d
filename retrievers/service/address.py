"""Addresses of services: checked, and taken apart into the plain address and its credentials."""

from __future__ import annotations

import os
from collections.abc import Generator

import httpx

from retrievers.credentials import MASK, mask

VARIABLE = "IGSEARCH_CREDENTIALS"  # USER:PASSWORD or TOKEN for addresses whose credentials are masked


def split_address(address: str) -> tuple[str, httpx.Auth | None]:
    """An address without its credentials, and these for httpx; for masked ones, those of the environment.

    `USER:PASSWORD@` is basic authentication; `TOKEN@`, without a colon, a bearer token.
    Raises `ValueError` with a message that shows no secret: name, rule and repair.
    """
    shown = mask(address) if "://" in address else address.rpartition("@")[2]
    try:
        url = httpx.URL(address)
    except httpx.InvalidURL as error:
        why = "its credentials may need percent-encoding" if shown != address else str(error)
        raise ValueError(f"{shown!r} is not an address ({why}): use http://HOST:PORT") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"{shown!r} is not the address of a service: it must be http:// or https:// and a host")
    if url.query or url.fragment:
        raise ValueError(f"{shown!r} has a query or a fragment: use http://HOST:PORT, with USER:PASSWORD@ if needed")
    if not url.userinfo:
        return address, None
    user, colon, password = url.username, b":" in url.userinfo, url.password
    if user == MASK:
        user, separator, password = os.environ.get(VARIABLE, "").partition(":")
        colon = bool(separator)
        if not user:
            raise ValueError(
                f"{shown!r}: its credentials are masked, as in a saved configuration: set {VARIABLE}=USER:PASSWORD (or "
                "TOKEN) in the environment, or give the whole address on the command line"
            )
    return str(url.copy_with(userinfo=b"")), httpx.BasicAuth(user, password) if colon else Bearer(user)


class Bearer(httpx.Auth):
    """Authentication by a token, such as the API key of an embedding server."""

    def __init__(self, token: str) -> None:
        try:
            self._header = f"Bearer {token}".encode("ascii").decode()
        except UnicodeEncodeError:
            raise ValueError("the token of an address has characters that are not ASCII: correct it") from None

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Send the token with the request."""
        request.headers["authorization"] = self._header
        yield request
