"""Addresses of services: checked, and taken apart into the plain address and its credentials."""

from __future__ import annotations

import os

import httpx

from retrievers.credentials import MASK, mask

VARIABLE = "IGSEARCH_CREDENTIALS"  # USER:PASSWORD for addresses whose credentials are masked


def split_address(address: str) -> tuple[str, httpx.Auth | None]:
    """An address without its credentials, and these for httpx; for masked ones, those of the environment.

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
    user, password = url.username, url.password
    if user == MASK:
        user, colon, password = os.environ.get(VARIABLE, "").partition(":")
        if not colon:
            raise ValueError(
                f"{shown!r}: its credentials are masked, as in a saved configuration: set {VARIABLE}=USER:PASSWORD in "
                "the environment, or give the whole address on the command line"
            )
    return str(url.copy_with(userinfo=b"")), httpx.BasicAuth(user, password)
