"""`split_addresses`: the addresses in `rollout.server_url`. No httpx, so that a configuration is read fast."""

from __future__ import annotations

from urllib.parse import urlsplit

from igsearch_env.errors import ConfigurationError
from retrievers.credentials import mask, split

PORTS = {"http": 80, "https": 443}  # without one in the address


def split_addresses(text: str) -> list[str]:
    """The addresses of `rollout.server_url`. Raises `ConfigurationError` if one is invalid, or named twice."""
    parts = [part.strip() for part in split(text, ",")]
    seen = set()
    for part in parts:
        if not part and len(parts) > 1:
            raise ConfigurationError(
                f"rollout.server_url={mask(text)!r}: one of its addresses is empty, a comma is left over; remove it"
            )
        server = _server(part)
        if server in seen:
            raise ConfigurationError(f"rollout.server_url names {_plain(part)} twice; name each server once")
        seen.add(server)
    return parts


def base_address(text: str) -> str:
    """An address without the /v1 of clients of OpenAI."""
    return text.strip().rstrip("/").removesuffix("/v1").rstrip("/")


def _server(text: str) -> tuple[str, str, int, str]:
    """Scheme, host, port and path: the same however an address is written."""
    try:
        url = urlsplit(base_address(text))
        if url.scheme not in PORTS or not url.hostname or url.query or url.fragment:
            raise ValueError("other parts")
        port = PORTS[url.scheme] if url.port is None else url.port
    except ValueError as error:
        shown = mask(text) if "://" in text else text.rpartition("@")[2]
        raise ConfigurationError(
            "rollout.server_url is not the address of a server; give http://HOST:PORT, several separated by commas: "
            f"{shown!r} is not one"
        ) from error
    return url.scheme, url.hostname, port, url.path


def _plain(text: str) -> str:
    url = urlsplit(base_address(text))
    return url._replace(netloc=url.netloc.rpartition("@")[2]).geturl()
