"""Elasticsearch as its clients see it, for tests: the answers of one index over HTTP, ranked by a real BM25."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse

from retrievers import BM25Retriever, Passage

SHARDS = {"total": 1, "successful": 1, "skipped": 0, "failed": 0}
TEXT = {"text": {"type": "text", "metadata_field": False, "searchable": True, "aggregatable": False}}
METADATA = {"_id": {"_id": {"type": "_id", "metadata_field": True, "searchable": True, "aggregatable": False}}}


class ElasticsearchServer:
    """The index `wiki` over passages; attributes may be changed while it serves.

    `faults`: responses that are given before good ones; `items`: the same for single searches of _msearch.
    """

    def __init__(self, passages: Sequence[Passage]) -> None:
        self.bm25 = BM25Retriever(passages)
        self.documents = {p.id: {"title": p.title, "text": p.text} for p in passages}
        self.uuid = "p1UcxUcXQ4i5j1mXnZ1v5A"
        self.capabilities: dict[str, Any] = {"title": TEXT, "text": TEXT, **METADATA}
        self.authorization = ""
        self.faults: list[JSONResponse] = []
        self.items: list[dict[str, Any]] = []
        self.searches: list[dict[str, Any]] = []
        self.headers: list[dict[str, Any]] = []
        self.indexes = ["wiki"]
        self.app = FastAPI()
        self.app.add_api_route("/{index}/{path:path}", self.answer, methods=["GET", "POST"], response_model=None)

    async def answer(self, index: str, path: str, request: Request) -> JSONResponse:
        """The answer to any request."""
        if self.authorization and request.headers.get("authorization") != self.authorization:
            error = {"type": "security_exception", "reason": "missing authentication credentials"}
            return JSONResponse({"error": error, "status": 401}, 401)
        if index != "wiki":
            error = {"type": "index_not_found_exception", "reason": f"no such index [{index}]", "index": index}
            return JSONResponse({"error": {"root_cause": [error], **error}, "status": 404}, 404)
        if self.faults:
            return self.faults.pop(0)
        if path == "_msearch":
            assert request.headers["content-type"] == "application/x-ndjson"
            return JSONResponse(self.msearch(await request.body()))
        return JSONResponse(getattr(self, path.lstrip("_").partition("/")[0])())

    def settings(self) -> dict[str, Any]:
        """GET /INDEX/_settings."""
        created = {"creation_date": "1750000000000", "number_of_shards": "1", "number_of_replicas": "1"}
        return {name: {"settings": {"index": {"uuid": self.uuid, **created}}} for name in self.indexes}

    def field_caps(self) -> dict[str, Any]:
        """GET /INDEX/_field_caps."""
        return {"indices": self.indexes, "fields": self.capabilities}

    def count(self) -> dict[str, Any]:
        """GET /INDEX/_count."""
        return {"count": len(self.documents), "_shards": SHARDS}

    def stats(self) -> dict[str, Any]:
        """GET /INDEX/_stats/docs?level=shards."""
        number = len(self.documents) - 1
        copies = [
            {
                "routing": {"state": "STARTED", "primary": primary, "node": "n1", "relocating_node": None},
                "docs": {"count": number + 1, "deleted": 0},
                "commit": {"id": "x", "generation": 3, "user_data": {}, "num_docs": number + 1},
                "seq_no": {"max_seq_no": number, "local_checkpoint": number, "global_checkpoint": number},
            }
            for primary in (True, False)
        ]
        return {"_shards": SHARDS, "_all": {}, "indices": {"wiki": {"uuid": self.uuid, "shards": {"0": copies}}}}

    def msearch(self, content: bytes) -> dict[str, Any]:
        """POST /INDEX/_msearch."""
        lines = content.decode().split("\n")
        assert lines.pop() == ""
        rows = [json.loads(line) for line in lines]
        self.headers += rows[::2]
        self.searches += rows[1::2]
        return {"took": 3, "responses": [self.items.pop(0) if self.items else self.search(row) for row in rows[1::2]]}

    def search(self, body: dict[str, Any]) -> dict[str, Any]:
        """One search."""
        ((kind, query),) = body["query"].items()
        if kind == "multi_match":
            found = self.bm25.search([query["query"]], min(body["size"], len(self.bm25)))[0]
            ranked = [(p.id, p.score) for p in found]
        else:
            assert query["random_score"]["field"] == "_seq_no"
            assert query["boost_mode"] == "replace"
            seed = query["random_score"]["seed"]
            digests = {id: hashlib.sha256(f"{seed} {n}".encode()).digest() for n, id in enumerate(self.documents)}
            scores = {id: int.from_bytes(digest[:3]) / 2**24 for id, digest in digests.items()}
            ranked = sorted(scores.items(), key=lambda item: -item[1])[: body["size"]]
        hits = [
            {
                "_index": "wiki",
                "_id": id,
                "_score": score,
                "_source": {name: self.documents[id][name] for name in body["_source"] if name in self.documents[id]},
            }
            for id, score in ranked
        ]
        best = ranked[0][1] if ranked else None
        answer = {"took": 1, "timed_out": False, "_shards": SHARDS, "hits": {"max_score": best, "hits": hits}}
        return {**answer, "status": 200}
