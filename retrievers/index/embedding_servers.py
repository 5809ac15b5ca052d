"""The forms of requests and responses of embedding servers, for `RemoteEncoder`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from retrievers.index.encoder import EncoderError, Vectors
from retrievers.service.request import Request


@dataclass(frozen=True)
class Served:
    """What a server says about its model."""

    model: str
    max_length: int | None  # tokens; None if it does not say
    max_texts: int | None  # per request


class Form(Protocol):
    """A form of requests and responses."""

    health: str

    def served(self, ask: Callable[[Request[Any]], Any], model: str) -> Served:
        """What the server serves. `model`: the name in the address, or ""."""
        ...

    def embed(self, texts: Sequence[str], model: str) -> Request[list[Any]]:
        """A request for the vectors of texts, as JSON values in their order."""
        ...


class TextEmbeddingsInference:
    """Of Hugging Face's server (docs/openapi.json of huggingface/text-embeddings-inference)."""

    health = "/health"

    def served(self, ask: Callable[[Request[Any]], Any], model: str) -> Served:
        info = ask(Request("GET", "/info", None, partial(_object, field="model_id", kind=str)))
        kinds = info.get("model_type")
        if isinstance(kinds, dict) and not {"embedding", "Embedding"} & kinds.keys():
            raise EncoderError(
                f"the model {info['model_id']} is of the type {sorted(kinds)}; serve one of the type embedding"
            )
        if model and model != info["model_id"]:
            raise EncoderError(
                f"the server serves {info['model_id']!r}, the address names {model!r}; correct one of them"
            )
        return Served(info["model_id"], _count(info, "max_input_length"), _count(info, "max_client_batch_size"))

    def embed(self, texts: Sequence[str], model: str) -> Request[list[Any]]:
        return Request("POST", "/embed", {"inputs": list(texts), "normalize": True, "truncate": True}, _list)


class OpenAIForm:
    """Of OpenAI's API reference, `embeddings` and `models`; paths are relative to an address that ends in /v1."""

    health = "/models"

    def __init__(self) -> None:
        self._truncates: dict[str, int] = {}

    def served(self, ask: Callable[[Request[Any]], Any], model: str) -> Served:
        models = ask(Request("GET", "/models", None, partial(_object, field="data", kind=list)))["data"]
        listed = {m["id"]: m for m in models if isinstance(m, dict) and isinstance(m.get("id"), str)}
        if (not model and len(listed) != 1) or (model and listed and model not in listed):
            asked = f"no model {model!r}" if model else f"{len(listed)} models"
            raise EncoderError(f"the server has {asked}: name one of {sorted(listed)} as http://HOST:PORT/v1#MODEL")
        name = model or next(iter(listed))
        described = listed.get(name, {})
        if described.get("owned_by") == "vllm":  # which refuses longer texts unless it is asked to shorten them
            self._truncates = {"truncate_prompt_tokens": -1}
        return Served(name, _count(described, "max_model_len"), None)

    def embed(self, texts: Sequence[str], model: str) -> Request[list[Any]]:
        body = {"model": model, "input": list(texts), "encoding_format": "float", **self._truncates}
        return Request("POST", "/embeddings", body, _by_index)


def _object(content: bytes, field: str, kind: type) -> dict[str, Any]:
    value = json.loads(content)
    if not isinstance(value, dict) or not isinstance(value.get(field), kind):
        raise ValueError(f"no object with a {kind.__name__} {field!r}")
    return value


def _count(value: dict[str, Any], field: str) -> int | None:
    number = value.get(field)
    return number if type(number) is int and number > 0 else None


def _list(content: bytes) -> list[Any]:
    value = json.loads(content)
    if not isinstance(value, list):
        raise ValueError("not a list of vectors")
    return value


def _by_index(content: bytes) -> list[Any]:
    """The vectors of a response of OpenAI's form, whose items may be in any order."""
    items = _object(content, "data", list)["data"]
    vectors: dict[int, Any] = {}
    for item in items:
        if not isinstance(item, dict) or type(item.get("index")) is not int or "embedding" not in item:
            raise ValueError("an item of `data` has no index or no embedding")
        vectors[item["index"]] = item["embedding"]
    if sorted(vectors) != list(range(len(items))):
        raise ValueError(f"the indexes of `data` are {sorted(vectors)[:10]}, not 0 to {len(items) - 1}, each once")
    return [vectors[i] for i in range(len(items))]


def unit_vectors(rows: list[Any], texts: int, dimension: int) -> Vectors:
    """Vectors [texts, dimension] from JSON values, normalised. Raises `ValueError`; dimension 0: any."""
    if len(rows) != texts:
        raise ValueError(f"{len(rows)} vectors for {texts} texts")
    try:
        values = np.array(rows)
    except ValueError as error:
        raise ValueError("vectors of different lengths") from error
    if values.dtype.kind not in "fi" or values.ndim != 2:
        raise ValueError("the vectors are not lists of numbers")
    if not values.shape[1] or values.shape[1] != (dimension or values.shape[1]):
        raise ValueError(f"vectors of {values.shape[1]} dimensions, not {dimension}")
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.linalg.norm(values.astype(np.float64), axis=1, keepdims=True)
    if not np.isfinite(norms).all() or not norms.all():
        raise ValueError("a vector has a number that is not finite, or is zero")
    return np.asarray(values / norms, np.float32)
