"""Qdrant's server as its clients see it, for tests: HTTP in front of qdrant_client's own engine in memory."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse


class QdrantServer:
    """The collections of a local client over HTTP; `faults` are given before good responses."""

    def __init__(self, client: Any, key: str = "") -> None:
        self.client = client
        self.key = key
        self.faults: list[JSONResponse] = []
        self.app = FastAPI()
        route = "/collections/{collection}{path:path}"
        self.app.add_api_route(route, self.answer, methods=["GET", "POST"], response_model=None)

    async def answer(self, collection: str, path: str, request: Request) -> JSONResponse:
        """The answer to any request."""
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return JSONResponse({"status": {"error": "Must provide an API key"}, "time": 0.0}, 401)
        if self.faults:
            return self.faults.pop(0)
        if not self.client.collection_exists(collection):
            error = f"Not found: Collection `{collection}` doesn't exist!"
            return JSONResponse({"status": {"error": error}, "time": 0.0}, 404)
        body = await request.json() if request.method == "POST" else {}
        return JSONResponse({"result": self.result(collection, path, body), "status": "ok", "time": 0.001})

    def result(self, collection: str, path: str, body: dict[str, Any]) -> Any:
        """What stands under `result`."""
        from qdrant_client import models

        if path == "":
            return self.client.get_collection(collection).model_dump(mode="json")
        if path == "/points/count":
            return {"count": self.client.count(collection, exact=True).count}
        payload, vectors = body.get("with_payload", True), body.get("with_vector", False)
        if path == "/points/scroll":
            offset, limit = body.get("offset"), body["limit"]
            points, after = self.client.scroll(
                collection, limit=limit, offset=offset, with_payload=payload, with_vectors=vectors
            )
            return {"points": dumped(points), "next_page_offset": after}
        if path == "/points":
            return dumped(self.client.retrieve(collection, body["ids"], with_payload=payload, with_vectors=vectors))
        assert path == "/points/query/batch"
        requests = [models.QueryRequest.model_validate(search) for search in body["searches"]]
        return [{"points": dumped(r.points)} for r in self.client.query_batch_points(collection, requests)]


def dumped(points: Any) -> list[Any]:
    """Points as JSON values."""
    return [point.model_dump(mode="json") for point in points]
