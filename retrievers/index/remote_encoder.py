"""Encoders behind an address: a model that an embedding server holds, for example on another machine with a GPU.

http://HOST:8080            text-embeddings-inference (POST /embed, GET /info)
http://HOST:8000/v1         a server of OpenAI's form (POST /v1/embeddings): vLLM, llama.cpp, Infinity, Ollama
http://HOST:8000/v1#MODEL   one of several models of such a server
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np

from retrievers.base import Passage, RetrievalError
from retrievers.credentials import mask
from retrievers.index.embedding_servers import Form, OpenAIForm, TextEmbeddingsInference, unit_vectors
from retrievers.index.encoder import Encoder, EncoderError, SentenceEncoder, Vectors
from retrievers.index.prefixes import choose_prefixes
from retrievers.service.address import split_address
from retrievers.service.replicas import Replicas
from retrievers.service.request import RefusedError, Request
from retrievers.service.wire import is_address, unicode

logger = logging.getLogger(__name__)

PROBE = "The capital of France is Paris, a city on the Seine."
PROBE_NUMBERS = 64  # of the probe's vector that a fingerprint holds
SAME_COSINE = 0.995  # of two vectors of one text by one model: another precision or batch changes it by less


class ProbeVector(list[float]):
    """The beginning of the vector of `PROBE`, as JSON. Two are equal if one model may have made both."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, list) or len(other) != len(self):
            return False
        try:
            a, b = np.array(self, float), np.array(other, float)
        except (ValueError, TypeError):
            return False
        return bool(a @ b >= SAME_COSINE * np.linalg.norm(a) * np.linalg.norm(b) > 0)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None


class RemoteEncoder:
    """An encoder at an address; see the module for the forms of addresses. Thread-safe.

    Vectors are normalised here, whatever the server does. Every request carries `PROBE` as well, whose vector must stay
    what it was: a server that is restarted with another model is noticed. Do not let the server add prefixes itself
    (`--default-prompt`).

    Args:
        address: of the server; credentials as `USER:PASSWORD@` or `TOKEN@` (a bearer token, an API key).
        query_prefix: prepended to every query; None: the convention of the served model's family.
        passage_prefix: the same for passages.
        deadline: seconds for a request including its repetitions; see `RemoteRetriever`, also for `attempts`, `backoff`
            and `transport`. A Retry-After is honoured within it.
        batch_size: texts per request; fewer where the server takes fewer. Four requests are sent at a time.

    Raises `EncoderError` for a wrong address, model or response, `RetrievalError` if the server does not answer.
    """

    def __init__(
        self,
        address: str,
        *,
        query_prefix: str | None = None,
        passage_prefix: str | None = None,
        deadline: float = 120.0,
        attempts: int = 3,
        backoff: float = 0.5,
        batch_size: int = 64,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        if not (deadline > 0 and attempts >= 1 and backoff >= 0 and batch_size >= 1):
            raise EncoderError(
                f"deadline={deadline}, attempts={attempts}, backoff={backoff}, batch_size={batch_size}: deadline must "
                "be above 0, attempts and batch_size at least 1, backoff at least 0"
            )
        url, model = _split_model(address.strip())
        url = url.rstrip("/").removesuffix("/embeddings").removesuffix("/embed").rstrip("/")
        try:
            self.url, _ = split_address(url)
        except ValueError as error:
            raise EncoderError(f"encoder: {error}") from error
        self.name = mask(f"{url}#{model}" if model else url)
        self._form: Form = (
            OpenAIForm() if httpx.URL(self.url).path.rstrip("/").endswith("/v1") else TextEmbeddingsInference()
        )
        self._replicas = Replicas(
            [url],
            deadline=deadline,
            attempts=attempts,
            backoff=backoff,
            patience=0.0,
            transport=transport,
            service="embedding server",
            health=self._form.health,
        )
        try:
            self._served = self._form.served(self._ask, model)
            self.prefixes = choose_prefixes(self._served.model, query_prefix, passage_prefix, {})
            self.query_prefix, self.passage_prefix = self.prefixes.query.text, self.prefixes.passage.text
            logger.info("%s: %s", self.name, self.prefixes)
            self.batch_size = max(min(batch_size, (self._served.max_texts or batch_size + 1) - 1), 1)
            self.dimension = 0  # any
            self._probe: Vectors | None = None
            (self._probe,) = self._vectors([PROBE])
            self.dimension = len(self._probe)
        except BaseException:
            self.close()
            raise

    def encode_queries(self, queries: Sequence[str]) -> Vectors:
        """Vectors of queries, normalised to length 1, in float32."""
        return self._vectors([self.query_prefix + query for query in queries])

    def encode_passages(self, passages: Sequence[Passage]) -> Vectors:
        """Vectors of passages (title, line break, text), normalised to length 1, in float32."""
        return self._vectors([f"{self.passage_prefix}{p.title}\n{p.text}" for p in passages])

    def fingerprint(self) -> dict[str, Any]:
        """The settings that determine the vectors, as JSON values: an index requires the same encoder."""
        numbers = [] if self._probe is None else self._probe[:PROBE_NUMBERS].tolist()
        return {
            "model": self._served.model,
            "served_model": self._served.model,
            "probe": ProbeVector(round(number, 5) for number in numbers),
            "query_prefix": self.query_prefix,
            "passage_prefix": self.passage_prefix,
            "max_length": self._served.max_length,
            "dimension": self.dimension,
        }

    def close(self) -> None:
        """Close connections and threads."""
        self._replicas.close()

    def _vectors(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors [texts, dimension]."""
        ends = time.monotonic() + self._replicas.deadline
        try:
            rows = self._replicas.ask_in_parts([unicode(text) for text in texts], self.batch_size, self._request, ends)
        except RefusedError as error:
            raise EncoderError(f"{error} (the encoder {self._served.model})") from error
        for row in rows:
            if isinstance(row, RetrievalError):
                raise row
        return np.stack(rows) if rows else np.zeros((0, self.dimension), np.float32)  # type: ignore[arg-type]

    def _request(self, texts: Sequence[str]) -> Request[Sequence[Vectors]]:
        probed = [*texts, PROBE]
        request = self._form.embed(probed, self._served.model)

        def read(content: bytes) -> Sequence[Vectors]:
            vectors = unit_vectors(request.read(content), len(probed), self.dimension)
            if self._probe is not None and float(vectors[-1] @ self._probe) < SAME_COSINE:
                raise EncoderError(
                    f"{self.url}: the server's model is no longer the {self._served.model} that it was (the vector of "
                    "a fixed text has changed); serve the same model again, or open the encoder again"
                )
            return list(vectors[:-1])

        return Request(request.method, request.path, request.body, read)

    def _ask(self, request: Request[Any]) -> Any:
        try:
            (answer,) = self._replicas.ask([request], time.monotonic() + self._replicas.deadline)
        except RefusedError as error:
            raise EncoderError(
                f"{error} (text-embeddings-inference has the address http://HOST:PORT, a server of OpenAI's form "
                "http://HOST:PORT/v1)"
            ) from error
        if isinstance(answer, Exception):
            raise answer
        return answer


def open_encoder(
    name: str,
    *,
    query_prefix: str | None = None,
    passage_prefix: str | None = None,
    max_length: int | None = None,
    dtype: str = "auto",
    batch_size: int | None = None,
) -> Encoder:
    """The encoder of a name: a `RemoteEncoder` for an address, else a `SentenceEncoder`, with the options of these.

    The precision and the maximum length of a remote encoder are its server's: `EncoderError` if others are given.
    """
    if not is_address(name):
        return SentenceEncoder(
            name,
            query_prefix=query_prefix,
            passage_prefix=passage_prefix,
            max_length=max_length,
            dtype=dtype,
            batch_size=batch_size,
        )
    if dtype != "auto":
        raise EncoderError(f"dtype={dtype!r} with {mask(name)}: the server chooses it; leave it out")
    encoder = RemoteEncoder(name, query_prefix=query_prefix, passage_prefix=passage_prefix, batch_size=batch_size or 64)
    served = encoder.fingerprint()["max_length"]
    if max_length not in (None, served):
        encoder.close()
        raise EncoderError(
            f"max_length={max_length} with {mask(name)}: the server's own limit is {served or 'not known'}; leave it "
            "out, or set it at the server"
        )
    return encoder


def close_encoder(encoder: Encoder | None) -> None:
    """Close the connections of an encoder, if it has some."""
    if isinstance(encoder, RemoteEncoder):
        encoder.close()


def _split_model(address: str) -> tuple[str, str]:
    """The address, and the model after its last #; one before an @ belongs to a password."""
    url, hash, model = address.rpartition("#")
    return (url, model) if hash and "@" not in model else (address, "")
