"""Limits on the requests and queues of the retrieval service."""

from __future__ import annotations

from dataclasses import dataclass

from retrievers.base import QueryError


@dataclass(frozen=True)
class Limits:
    """Limits on the requests and queues of a service."""

    default_k: int = 3
    """Passages per query if a request has no topk."""
    max_k: int = 100
    """Maximum passages per query."""
    max_results: int = 65_536
    """Maximum passages per request: its queries times topk."""
    max_body_bytes: int = 16 * 2**20
    """Maximum bytes of a request's body."""
    max_response_bytes: int = 64 * 2**20
    """Maximum bytes of a response's body."""
    max_batch: int = 256
    """Maximum queries per search; a larger request is searched in parts, between which other requests are."""
    max_waiting: int = 4096
    """Maximum waiting queries, of a larger request its current part; further requests get status 429."""
    max_connections: int = 512
    """Maximum open connections; beyond it, one that is idle or has an incomplete request is closed for the next."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise QueryError(f"{name}={value}: must be at least 1")
        if self.default_k > self.max_k:
            raise QueryError(f"default_k={self.default_k} is above max_k={self.max_k}: lower it or raise max_k")
        if self.max_k > self.max_results:
            raise QueryError(
                f"max_k={self.max_k} is above max_results={self.max_results}: lower it or raise max_results"
            )
