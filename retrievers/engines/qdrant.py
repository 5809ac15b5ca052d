"""Dense searches through a collection of Qdrant, on a server or in a folder of its local mode."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np

from retrievers.base import CorpusError, IndexMismatchError, Passage, RetrievalError, Retriever
from retrievers.engines.fields import OPTIONS, choose
from retrievers.engines.qdrant_folder import check_folder
from retrievers.engines.source import parse
from retrievers.index.encoder import Encoder, Vectors
from retrievers.index.remote_encoder import RemoteEncoder, open_encoder
from retrievers.reading import import_optional, one_line
from retrievers.service.address import split_address
from retrievers.service.deadline import OverdueError, within
from retrievers.service.request import TRANSIENT
from retrievers.service.wire import is_address

T = TypeVar("T")
FORM = "qdrant:http://HOST:6333/COLLECTION?encoder=MODEL"
TIES = 8  # points that are read beyond k, since Qdrant cuts equal scores anywhere
PAGE = 10_000  # points of one listing
COMPARED = 16  # points whose content is part of the fingerprint
SAME_MODEL_COSINE = 0.5  # of a stored vector and that of the encoder; those of different models are near 0


class QdrantRetriever(Retriever):
    """Ranks by Qdrant's score of the query's vector, equal scores by id. Thread-safe.

    An approximate index may find other passages for a larger k; scores of the local mode with the distance Cosine vary
    by 1e-7. The first random passage lists the ids of all points,
    unless `passages` are given.

    Args:
        source: `qdrant:http://HOST:6333/COLLECTION?encoder=MODEL` (`TOKEN@HOST` for an API key) or
            `qdrant:FOLDER/COLLECTION?encoder=MODEL`. Further options, joined by `&`: `title`, `text` or `contents` name
            fields of the payload as for `ElasticsearchRetriever`, `id` the field of the passage's id (default: the
            point's), `vector` the name of the vector.
        encoder: the model of the vectors, if it is loaded already. A stored point is encoded, to notice another model.
        passages: the same corpus, if it is in memory: random passages are drawn from it.
        deadline: seconds for each call to Qdrant, including its repetitions.
        attempts: maximum number of times a call is made.
        backoff: seconds before the first repetition, doubled each time.
        batch_size: maximum queries per call.

    Raises `CorpusError` or `IndexMismatchError` for a collection that does not fit, `RetrievalError` if the server does
    not answer, `MissingPackageError` without qdrant-client.
    """

    def __init__(
        self,
        source: str,
        *,
        encoder: Encoder | None = None,
        passages: Sequence[Passage] | None = None,
        deadline: float = 60.0,
        attempts: int = 3,
        backoff: float = 0.1,
        batch_size: int = 64,
    ) -> None:
        parsed = parse(source, FORM, (*OPTIONS, "encoder", "id", "vector"))
        self.source, self.collection = parsed.text, parsed.name
        self.deadline, self.attempts, self.backoff, self.batch_size = deadline, attempts, backoff, batch_size
        if encoder is None and "encoder" not in parsed.options:
            raise CorpusError(f"{self.source}: names no encoder of the queries; write it as {FORM}")
        self._models = import_optional("qdrant_client.models", "qdrant", f"{self.source}:")
        self._errors = import_optional("qdrant_client.http.exceptions", "qdrant", f"{self.source}:")
        self._exhausted = import_optional("qdrant_client.common.client_exceptions", "qdrant", f"{self.source}:")
        self._own: RemoteEncoder | None = None  # closed with the retriever
        self._client = self._open(parsed.place)
        try:
            info = self._call(lambda: self._client.get_collection(self.collection))
            self.vector = parsed.options.get("vector", "")
            self._size, self.distance = self._vector(info.config.params.vectors)
            self._count: int = self._call(lambda: self._client.count(self.collection, exact=True)).count
            if not self._count or (passages is not None and len(passages) != self._count):
                raise IndexMismatchError(
                    f"{self.source}: {self._count} points"
                    + (f" with a corpus of {len(passages)} passages" if passages is not None else "")
                    + "; index the corpus first, one point for each passage"
                )
            self._passages = passages
            self._ids: Sequence[Any] | None = None
            self._id_field = parsed.options.get("id", "")
            points = self._scroll(COMPARED, None, with_payload=True, with_vectors=True)[0]
            self.fields = choose(parsed.options, list(points[0].payload or {}), self.source)
            self._content = self._digest(points)
            if encoder is None:
                encoder = open_encoder(parsed.options["encoder"])
                self._own = encoder if isinstance(encoder, RemoteEncoder) else None
            self.encoder = encoder
            self._check_encoder(points[0])
        except BaseException:
            self.close()
            raise

    @staticmethod
    def opens(source: str) -> bool:
        """Whether `open` accepts `source`."""
        return source.startswith("qdrant:")

    @classmethod
    def open(cls, source: str, corpus: str, passages: Sequence[Passage] | None) -> QdrantRetriever:
        """For `open_retriever`."""
        return cls(source, passages=passages)

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.check(queries, k)
        asked = [i for i, query in enumerate(queries) if query.strip()]
        found: list[list[Passage]] = [[] for _ in queries]
        for start in range(0, len(asked), self.batch_size):
            part = asked[start : start + self.batch_size]
            vectors = self.encoder.encode_queries([queries[i] for i in part])
            for i, points in zip(part, self._ranked(vectors, k, k + TIES), strict=True):
                found[i] = [self._passage(point, score) for score, point in points]
        return found

    def _ranked(self, vectors: Vectors, k: int, limit: int) -> list[list[tuple[float, Any]]]:
        """The best `k` points of each vector with their scores, by score and id. `limit`: of those that are read."""
        fields, limit = self._read_fields(), min(limit, self._count)
        requests = [
            self._models.QueryRequest(query=v.tolist(), using=self.vector or None, limit=limit, with_payload=fields)
            for v in vectors
        ]
        answers = self._call(lambda: self._client.query_batch_points(self.collection, requests))
        if len(answers) != len(vectors):
            raise RetrievalError(f"{self.source}: {len(answers)} results for {len(vectors)} queries")
        ranked = []
        for number, answer in enumerate(answers):
            # In float32, as a server computes them: further digits of the local mode depend on the limit.
            scored = [(float(np.float32(point.score)), point) for point in answer.points]
            scored.sort(key=lambda item: (-item[0], isinstance(item[1].id, str), item[1].id))
            if k < len(scored) == limit < self._count and scored[k - 1][0] == scored[-1][0]:
                # The next point may have the same score, and a smaller id.
                scored = self._ranked(vectors[number : number + 1], k, 2 * limit)[0]
            ranked.append(scored[:k])
        return ranked

    def sample(self, n: int, rng: np.random.Generator) -> list[Passage]:
        self.check_count(n, "n")
        if self._passages is not None:
            return [self._passages[int(i)] for i in rng.choice(len(self._passages), n, replace=False)]
        if self._ids is None:
            self._ids = self._all_ids()
        drawn = [self._ids[int(i)] for i in rng.choice(len(self._ids), n, replace=False)]
        points = self._call(lambda: self._client.retrieve(self.collection, drawn, with_payload=self._read_fields()))
        by_id = {point.id: point for point in points}
        if set(by_id) != set(drawn):
            raise RetrievalError(
                f"{self.source}: {len(by_id)} points where {n} were requested; has the collection changed?"
            )
        return [self._passage(by_id[id], 0.0) for id in drawn]

    def fingerprint(self) -> dict[str, Any]:
        """`content` is a hash of the first points by id: it changes when these do, not with every write."""
        return {
            "engine": "qdrant",
            "collection": self.collection,
            "vector": self.vector,
            "distance": self.distance,
            "content": self._content,
            "fields": self.fields.names,
            "encoder": self.encoder.fingerprint(),
            "passages": len(self),
        }

    def close(self) -> None:
        self._client.close()
        if self._own is not None:
            self._own.close()

    def __len__(self) -> int:
        return self._count

    def _open(self, place: str) -> Any:
        """A client of a server or of a folder."""
        QdrantClient = import_optional("qdrant_client", "qdrant", f"{self.source}:").QdrantClient
        if not is_address(place):
            check_folder(Path(place), self.collection)
            return self._call(lambda: QdrantClient(path=place, force_disable_check_same_thread=True))
        try:
            url, auth = split_address(place)
        except ValueError as error:
            raise CorpusError(f"{self.source}: {error}") from error
        return QdrantClient(
            url=url, auth=auth, timeout=math.ceil(self.deadline), trust_env=False, check_compatibility=False
        )

    def _vector(self, described: Any) -> tuple[int, str]:
        """Dimension and distance of the vector that is searched."""
        named = described if isinstance(described, dict) else {"": described}
        if self.vector not in named:
            raise CorpusError(
                f"{self.source}: no vector {self.vector!r}, but {sorted(named)}; name one of them by ?vector=NAME"
            )
        chosen = named[self.vector]
        distance = str(chosen.distance.value)
        if distance not in ("Cosine", "Dot") or chosen.multivector_config is not None:
            many = "several vectors" if chosen.multivector_config else "one vector"
            raise CorpusError(
                f"{self.source}: the distance {distance} between {many} a point; a score needs Cosine or Dot and one "
                "vector a point: build the collection so"
            )
        return int(chosen.size), distance

    def _check_encoder(self, point: Any) -> None:
        """Raise `IndexMismatchError` unless the encoder makes vectors such as that of a stored point."""
        if self.encoder.dimension != self._size:
            raise IndexMismatchError(
                f"{self.source}: vectors of {self._size} dimensions, the encoder makes {self.encoder.dimension}; name "
                "the encoder that the collection was built with"
            )
        stored = np.asarray(point.vector[self.vector] if self.vector else point.vector, np.float64)
        (made,) = self.encoder.encode_passages([self._passage(point, 0.0)])
        cosine = float(stored @ made) / max(float(np.linalg.norm(stored)), 1e-12)
        if not cosine >= SAME_MODEL_COSINE:
            raise IndexMismatchError(
                f"{self.source}: the vector of point {point.id!r} is not one of this encoder (cosine {cosine:.2f} "
                "with that of its text); name the encoder that the collection was built with"
            )

    def _read_fields(self) -> list[str]:
        return [*self.fields.names, *([self._id_field] if self._id_field else [])]

    def _passage(self, point: Any, score: float) -> Passage:
        payload = point.payload or {}
        id = payload.get(self._id_field) if self._id_field else point.id
        if isinstance(id, bool) or not isinstance(id, (str, int)):
            raise CorpusError(
                f"{self.source}: the id of point {point.id!r} is {id!r}: it must be a string or an integer"
            )
        return self.fields.passage(str(id), payload, self.source, float(score))

    def _scroll(self, limit: int, offset: Any, **options: bool) -> tuple[list[Any], Any]:
        """Points in the order of their ids, and the id of the next one."""
        found: tuple[list[Any], Any] = self._call(
            lambda: self._client.scroll(self.collection, limit=limit, offset=offset, **options)
        )
        return found

    def _all_ids(self) -> Sequence[Any]:
        ids: list[Any] = []
        after = None
        while not ids or after is not None:
            points, after = self._scroll(PAGE, after, with_payload=False, with_vectors=False)
            ids += [point.id for point in points]
        if len(set(ids)) != self._count:
            raise RetrievalError(
                f"{self.source}: {len(set(ids))} points, {self._count} when it was opened: open it again"
            )
        return ids

    def _digest(self, points: Sequence[Any]) -> str:
        content = [[str(point.id), point.payload] for point in points]
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def _call(self, call: Callable[[], T]) -> T:
        """The result of a call to Qdrant, within the deadline."""
        ends = time.monotonic() + self.deadline
        for attempt in range(self.attempts):
            try:
                return within(ends - time.monotonic(), call)
            except OverdueError as error:
                raise RetrievalError(f"{self.source}: Qdrant's answer was {error}; raise the deadline") from error
            except self._exhausted.ResourceExhaustedResponse as error:
                failure, pause = error, float(error.retry_after_s)
            except self._errors.UnexpectedResponse as error:
                if error.status_code not in TRANSIENT:
                    raise CorpusError(f"{self.source}: Qdrant refuses ({one_line(error)}); correct the name") from error
                failure, pause = error, 0.0
            except (self._errors.ResponseHandlingException, httpx.HTTPError) as error:
                failure, pause = error, 0.0
            except (ValueError, RuntimeError, OSError) as error:  # of the local mode
                raise CorpusError(f"{self.source}: {one_line(error)}; correct the name, or use a server") from error
            pause = max(pause, self.backoff * 2.0**attempt)
            if attempt + 1 == self.attempts or time.monotonic() + pause >= ends:
                break
            time.sleep(pause)
        raise RetrievalError(f"{self.source}: Qdrant failed ({one_line(failure)}); check that it runs") from failure
