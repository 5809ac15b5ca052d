"""BM25 searches through an index of Elasticsearch or OpenSearch, over plain HTTP."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np

from retrievers.base import CorpusError, IndexMismatchError, Passage, QueryError, RetrievalError, Retriever
from retrievers.engines.fields import OPTIONS, choose
from retrievers.engines.source import parse
from retrievers.service.replicas import Replicas
from retrievers.service.request import TRANSIENT, RefusedError, Request
from retrievers.service.wire import unicode

FORM = "elasticsearch:http://HOST:9200/INDEX?title=FIELD&text=FIELD"
MAX_RESULTS = 10_000  # of one search: the default of index.max_result_window
COPY = "igsearch"  # always the same copy of a shard, whose order of equal scores is the same each time


class ElasticsearchRetriever(Retriever):
    """Ranks by the engine's `multi_match` over title and text: BM25 unless the index says otherwise. Thread-safe.

    Equal scores are in the engine's order. Random passages are those of the engine's `random_score`, with a seed from
    the generator: at most 10,000 at once. The number of passages is that at the opening.

    Args:
        source: `elasticsearch:http://HOST:9200/INDEX`, also an alias; `http://USER:PASSWORD@HOST` is basic
            authentication. `?title=FIELD&text=FIELD` names the fields, `?contents=FIELD` one of title, newline and
            text; by default those of the names title and text, else contents.
        passages: the same corpus, if it is in memory: random passages are drawn from it.
        others: as in `RemoteRetriever`.

    Raises `CorpusError` for an index that has no such fields, `QueryError` where the engine refuses, `RetrievalError`
    if it does not answer.
    """

    def __init__(
        self,
        source: str,
        *,
        passages: Sequence[Passage] | None = None,
        deadline: float = 60.0,
        attempts: int = 3,
        backoff: float = 0.1,
        batch_size: int = 64,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        parsed = parse(source, FORM, OPTIONS)
        self.source, self.batch_size = parsed.text, batch_size
        self._index = quote(parsed.name, safe="")
        self._passages = passages
        self._replicas = Replicas(
            [parsed.place],
            deadline=deadline,
            attempts=attempts,
            backoff=backoff,
            patience=0.0,
            transport=transport,
            service="search engine",
            health="",
        )
        try:
            self._settings = self._get(f"/{self._index}/_settings")
            if len(self._settings) != 1:
                raise CorpusError(
                    f"{self.source}: names the indexes {sorted(self._settings)}; name one, or an alias of one"
                )
            existing = self._get(f"/{self._index}/_field_caps?fields=*", "fields")["fields"]
            self.fields = choose(parsed.options, [name for name in existing if not name.startswith("_")], self.source)
            self._check_searchable(existing)
            self._count = _number(self._get(f"/{self._index}/_count", "count"), "count")
        except BaseException:
            self.close()
            raise
        if not self._count or (passages is not None and len(passages) != self._count):
            self.close()
            raise IndexMismatchError(
                f"{self.source}: {self._count} documents"
                + (f" with a corpus of {len(passages)} passages" if passages is not None else "")
                + "; index the corpus first, one document for each passage"
            )

    @property
    def concurrency(self) -> int:
        """See `Retriever`."""
        return self._replicas.concurrency

    @staticmethod
    def opens(source: str) -> bool:
        """Whether `open` accepts `source`."""
        return source.startswith("elasticsearch:")

    @classmethod
    def open(cls, source: str, corpus: str, passages: Sequence[Passage] | None) -> ElasticsearchRetriever:
        """For `open_retriever`."""
        return cls(source, passages=passages)

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.check(queries, k)
        if k > MAX_RESULTS:
            raise QueryError(f"k={k}: the engine returns at most {MAX_RESULTS} documents of a search; lower k")
        ends = time.monotonic() + self._replicas.deadline
        asked = [i for i, query in enumerate(queries) if query.strip()]
        answers = self._replicas.ask_in_parts(
            [self._query(queries[i], k) for i in asked], self.batch_size, partial(self._request, k=k), ends
        )
        found: list[list[Passage] | None] = [[] for _ in queries]
        errors: list[RetrievalError] = []
        for i, answer in zip(asked, answers, strict=True):
            if isinstance(answer, RetrievalError):
                errors.append(answer)
                found[i] = None
            else:
                found[i] = answer
        if errors:
            message = f"{len(errors)} of {len(asked)} queries failed: {errors[0]}"
            raise RetrievalError(message, found if len(errors) < len(asked) else None) from errors[0]
        return [passages for passages in found if passages is not None]

    def sample(self, n: int, rng: np.random.Generator) -> list[Passage]:
        self.check_count(n, "n")
        if self._passages is not None:
            return [self._passages[int(i)] for i in rng.choice(len(self._passages), n, replace=False)]
        if n > MAX_RESULTS:
            raise QueryError(
                f"n={n}: at most {MAX_RESULTS} random passages at once; lower n, or pass the corpus as a file"
            )
        # Scores of documents are hashes of the seed and of a number that no other document of the shard has.
        random = {"seed": int(rng.integers(2**31)), "field": "_seq_no"}
        order = {"function_score": {"random_score": random, "boost_mode": "replace"}}
        body = {"query": order, "size": n, "_source": self.fields.names, "track_total_hits": False}
        answers = self._replicas.ask_in_parts(
            [body], 1, partial(self._request, k=n), time.monotonic() + self._replicas.deadline
        )
        (drawn,) = answers
        if isinstance(drawn, RetrievalError):
            raise drawn
        if len({passage.id for passage in drawn}) != n:
            raise RetrievalError(
                f"{self.source}: {len(drawn)} random documents where {n} were requested of {len(self)}"
            )
        return [passage.with_score(0.0) for passage in drawn]

    def fingerprint(self) -> dict[str, Any]:
        """`uuid` changes with the index, `writes` with each write to it (None where it may not be read)."""
        ((name, described),) = self._settings.items()
        try:
            settings = described["settings"]["index"]
            return {
                "engine": "elasticsearch",
                "index": name,
                "uuid": settings["uuid"],
                "writes": self._writes(name),
                "similarity": settings.get("similarity", {}),
                "fields": self.fields.names,
                "passages": len(self),
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise RetrievalError(f"{self.source}: not the settings or statistics of an index ({error!r})") from error

    def close(self) -> None:
        self._replicas.close()

    def __len__(self) -> int:
        return self._count

    def _query(self, query: str, k: int) -> dict[str, Any]:
        match = {"query": unicode(query), "fields": self.fields.names}
        return {"query": {"multi_match": match}, "size": k, "_source": self.fields.names, "track_total_hits": False}

    def _request(self, bodies: Sequence[dict[str, Any]], k: int) -> Request[Sequence[Any]]:
        lines = [line for body in bodies for line in ({"preference": COPY}, body)]
        content = "".join(json.dumps(line) + "\n" for line in lines).encode()
        return Request("POST", f"/{self._index}/_msearch", content, partial(self._read, searches=len(bodies), k=k))

    def _read(self, content: bytes, searches: int, k: int) -> list[list[Passage] | RetrievalError]:
        answer = json.loads(content)
        responses = answer.get("responses") if isinstance(answer, dict) else None
        if not isinstance(responses, list) or len(responses) != searches:
            raise ValueError(f"no list of {searches} `responses`")
        try:
            return [self._found(response, k) for response in responses]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a response without {error}") from error

    def _found(self, response: Any, k: int) -> list[Passage] | RetrievalError:
        """The passages of one search; the error of one that would fail again. Raises `ValueError` for any other."""
        if (status := response.get("status", 200)) != 200 or "error" in response:
            text = f"{self.source}: status {status}, {json.dumps(response.get('error'))[:500]}"
            if status in TRANSIENT:
                raise ValueError(text)
            return RetrievalError(text)
        if response.get("timed_out") is not False or response["_shards"]["failed"] != 0:
            raise ValueError(f"only a part of the index was searched: {json.dumps(response.get('_shards'))[:300]}")
        hits = response["hits"]["hits"]
        if len(hits) > k:
            raise ValueError(f"{len(hits)} documents where at most {k} were requested")
        return [self._passage(hit) for hit in hits]

    def _passage(self, hit: dict[str, Any]) -> Passage:
        id, score, document = hit["_id"], hit["_score"], hit.get("_source")
        if not isinstance(id, str) or type(score) not in (int, float) or not math.isfinite(score):
            raise ValueError(f"a document has the id {id!r} and the score {score!r}")
        if not isinstance(document, dict):
            raise CorpusError(f"{self.source}: document {id!r} has no _source; index it with _source enabled")
        return self.fields.passage(id, document, self.source, float(score))

    def _check_searchable(self, existing: dict[str, Any]) -> None:
        for name in self.fields.names:
            kinds = [kind for kind, described in existing[name].items() if described.get("searchable")]
            if not kinds or not set(kinds) <= {"text", "match_only_text", "search_as_you_type"}:
                raise CorpusError(
                    f"{self.source}: the field {name!r} is of the type {sorted(existing[name])}; words are found only "
                    "in one of the type text: map it so, and index the documents again"
                )

    def _writes(self, name: str) -> int | None:
        """Number of writes to the index ever, which a restart does not change; None if it may not be read."""
        try:
            stats = self._get(f"/{self._index}/_stats/docs?level=shards", "indices")["indices"]
        except CorpusError:
            return None
        copies = [copy for copies in stats[name]["shards"].values() for copy in copies]
        return sum(int(copy["seq_no"]["max_seq_no"]) + 1 for copy in copies if copy["routing"]["primary"])

    def _get(self, path: str, field: str = "") -> dict[str, Any]:
        """The object that a path has, with `field`."""

        def read(content: bytes) -> dict[str, Any]:
            value = json.loads(content)
            if not isinstance(value, dict) or (field and field not in value):
                raise ValueError(f"no object with {field!r}")
            return value

        try:
            (answer,) = self._replicas.ask(
                [Request("GET", path, None, read)], time.monotonic() + self._replicas.deadline
            )
        except RefusedError as error:
            raise CorpusError(f"{self.source}: {error}") from error
        if isinstance(answer, Exception):
            raise answer
        return answer


def _number(value: dict[str, Any], field: str) -> int:
    number = value[field]
    if type(number) is not int or number < 0 or value.get("_shards", {}).get("failed"):
        raise RetrievalError(f"{field} is {number!r}, of {value.get('_shards')}: not the whole index; check its state")
    return number
