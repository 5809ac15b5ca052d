"""The server behind an `EndpointScorer`: its model, and requests whose failures are errors of this package."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import httpx

from igsearch_env.errors import ConfigurationError, ScoringError
from retrievers.base import QueryError, RetrievalError
from retrievers.service.address import split_address
from retrievers.service.replicas import Replicas
from retrievers.service.request import RefusedError, Request

T = TypeVar("T")
PATHS = ("/completions", "/v1", "/generate")  # of addresses that are given with one


class Served(NamedTuple):
    """What a server says about its model."""

    model: str
    owner: str  # "vllm", "sglang", or another
    max_length: int | None  # tokens; None if it does not say


class ScoringServer:
    """Sends requests to a server. Thread-safe. The arguments are documented in `EndpointScorer`."""

    def __init__(
        self, address: str, *, deadline: float, attempts: int, backoff: float, transport: httpx.BaseTransport | None
    ) -> None:
        if not (deadline > 0 and attempts >= 1 and backoff >= 0):
            raise ConfigurationError(
                f"deadline={deadline}, attempts={attempts}, backoff={backoff}: deadline must be above 0, attempts at "
                "least 1, backoff at least 0"
            )
        url = address.strip().rstrip("/")
        for path in PATHS:
            url = url.removesuffix(path).rstrip("/")
        try:
            self.address, _ = split_address(url)
        except ValueError as error:
            raise ConfigurationError(f"the address of a scorer: {error}") from error
        self._replicas = Replicas(
            [url],
            deadline=deadline,
            attempts=attempts,
            backoff=backoff,
            patience=0.0,
            transport=transport,
            service="scoring server",
            health="/v1/models",
        )

    def ask(self, requests: Sequence[Request[T]]) -> list[T]:
        """The result of each request. Raises `ScoringError` if one has none, `ConfigurationError` if it is rejected."""
        if not requests:
            return []
        try:
            answers = self._replicas.ask(requests, time.monotonic() + self._replicas.deadline)
        except RefusedError as error:
            raise _rejection(error) from error
        except QueryError as error:
            raise ConfigurationError(str(error)) from error
        results: list[T] = []
        for answer in answers:
            if isinstance(answer, RefusedError):
                raise _rejection(answer) from answer
            if isinstance(answer, RetrievalError):
                raise ScoringError(str(answer)) from answer
            results.append(answer)
        return results

    def served(self, model: str | None) -> Served:
        """The model of that name, or the only one. Raises `ConfigurationError` if there is none."""
        (cards,) = self.ask([Request("GET", "/v1/models", None, _cards)])
        names = [str(card["id"]) for card in cards]
        wanted = model if model is not None else names[0] if len(names) == 1 else None
        if wanted not in names:
            raise ConfigurationError(f"model={model!r}: {self.address} serves {names}; name one of them")
        card = cards[names.index(wanted)]
        length = card.get("max_model_len")
        return Served(wanted, str(card.get("owned_by", "")), length if type(length) is int and length > 1 else None)

    def close(self) -> None:
        """Close connections and threads."""
        self._replicas.close()


def _cards(content: bytes) -> list[dict[str, Any]]:
    response = json.loads(content)
    cards = response.get("data") if isinstance(response, dict) else None
    if not isinstance(cards, list) or not all(isinstance(card, dict) and "id" in card for card in cards):
        raise ValueError('no list "data" of models')
    return cards


def _rejection(error: RefusedError) -> ConfigurationError:
    match error.status:
        case 401 | 403:
            repair = "give its API key in the address, http://KEY@HOST:PORT"
        case 404:
            repair = "check that the address is a server of vLLM, SGLang or OpenAI's completions, and serves the model"
        case 413:
            repair = "raise the server's limit on the size of a request"
        case _:
            repair = "check that the tokenizer is the model's, and context_length at most the server's"
    return ConfigurationError(f"{error} ({repair})")
