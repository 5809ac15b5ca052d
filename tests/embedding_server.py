"""Embedding servers for tests, with a real encoder: text-embeddings-inference's form and OpenAI's, over HTTP."""

from __future__ import annotations

from typing import Any

from encoders import WordEncoder
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse


class EmbeddingServer:
    """An application of both forms; attributes may be changed while it serves.

    `faults`: responses that are given before good ones. `scale`: of the vectors, which a server need not normalise.
    """

    def __init__(self, encoder: WordEncoder, model: str = "intfloat/e5-base-v2") -> None:
        self.encoder = encoder
        self.model = model
        self.scale = 3.0
        self.max_texts = 32
        self.token = ""
        self.faults: list[JSONResponse] = []
        self.bodies: list[dict[str, Any]] = []
        self.listed: list[dict[str, Any]] = [{"id": model, "object": "model", "owned_by": "vllm", "max_model_len": 512}]
        self.app = FastAPI()
        self.app.add_api_route("/info", self.info, response_model=None)
        self.app.add_api_route("/embed", self.embed, methods=["POST"], response_model=None)
        self.app.add_api_route("/v1/models", self.models, response_model=None)
        self.app.add_api_route("/v1/embeddings", self.embeddings, methods=["POST"], response_model=None)

    async def info(self, request: Request) -> JSONResponse:
        """GET /info, as version 1.7 answers."""
        return self.refusal(request) or JSONResponse(
            {
                "model_id": self.model,
                "model_sha": None,
                "model_dtype": "float16",
                "model_type": {"embedding": {"pooling": "mean"}},
                "max_concurrent_requests": 512,
                "max_input_length": 512,
                "max_batch_tokens": 16384,
                "max_client_batch_size": self.max_texts,
                "auto_truncate": False,
                "version": "1.7.1",
            }
        )

    async def embed(self, request: Request) -> JSONResponse:
        """POST /embed."""
        body = await request.json()
        self.bodies.append(body)
        if refusal := self.refusal(request):
            return refusal
        texts = body["inputs"]
        if len(texts) > self.max_texts:
            error = f"batch size {len(texts)} > maximum allowed batch size {self.max_texts}"
            return JSONResponse({"error": error, "error_type": "Validation"}, 413)
        return JSONResponse(self.vectors(texts))

    async def models(self, request: Request) -> JSONResponse:
        """GET /v1/models."""
        return self.refusal(request) or JSONResponse({"object": "list", "data": self.listed})

    async def embeddings(self, request: Request) -> JSONResponse:
        """POST /v1/embeddings; the last text first."""
        body = await request.json()
        self.bodies.append(body)
        if refusal := self.refusal(request):
            return refusal
        if body["model"] != self.model:
            error = {"message": f"The model `{body['model']}` does not exist.", "type": "NotFoundError", "code": 404}
            return JSONResponse({"error": error}, 404)
        data = [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(self.vectors(body["input"]))]
        usage = {"prompt_tokens": 8, "total_tokens": 8}
        return JSONResponse({"object": "list", "model": self.model, "data": data[::-1], "usage": usage})

    def refusal(self, request: Request) -> JSONResponse | None:
        """A fault, or the refusal of a client without the token."""
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            return JSONResponse({"error": "Unauthorized"}, 401)
        return self.faults.pop(0) if self.faults else None

    def vectors(self, texts: list[str]) -> list[list[float]]:
        """Of texts."""
        found: list[list[float]] = (self.encoder.encode_queries(texts) * self.scale).tolist()
        return found
