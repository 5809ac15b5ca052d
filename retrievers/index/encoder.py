"""Text encoders: queries and passages as unit vectors, with the prefixes that a family of models was trained with."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil
from numpy.typing import NDArray

from retrievers.base import IndexMismatchError, Passage, RetrieverError
from retrievers.reading import FileError, one_line, read_json

Vectors = NDArray[np.float32]

DTYPES = ("auto", "float32", "bfloat16", "float16")

# (query prefix, passage prefix) by a part of the model's name; the first match applies. From the model cards.
PREFIXES = (
    ("e5-mistral", ("Instruct: Given a question, retrieve passages that answer it\nQuery: ", "")),
    ("e5-large-instruct", ("Instruct: Given a question, retrieve passages that answer it\nQuery: ", "")),
    ("e5", ("query: ", "passage: ")),  # intfloat/e5-*, multilingual-e5-*
    ("bge-m3", ("", "")),
    ("bge", ("Represent this sentence for searching relevant passages: ", "")),  # BAAI/bge-*-en(-v1.5)
    ("nomic-embed", ("search_query: ", "search_document: ")),
    ("gte", ("", "")),  # thenlper/gte-*, Alibaba-NLP/gte-*-v1.5
)


class EncoderError(RetrieverError, ValueError):
    """An encoder that can't be loaded or used."""


class Encoder(Protocol):
    """Interface of a dense retriever's model: unit vectors [texts, dimension], float32."""

    dimension: int

    def encode_queries(self, queries: Sequence[str]) -> Vectors:
        """Vectors of queries."""
        ...

    def encode_passages(self, passages: Sequence[Passage]) -> Vectors:
        """Vectors of passages."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """The settings that determine the vectors, as JSON values: an index requires the same encoder."""
        ...


def check_encoder(encoder: dict[str, Any], built: dict[str, Any], where: str) -> None:
    """Raise `IndexMismatchError` unless two encoder fingerprints produce the same vectors (the name may differ)."""
    for key, value in built.items():
        if key != "model" and encoder.get(key) != value:
            raise IndexMismatchError(
                f"{where}: its vectors were made with {key}={value!r}, the encoder has {encoder.get(key)!r}; "
                "use the encoder that it was built with, or build it again"
            )


def prefixes_of(name: str) -> tuple[str, str]:
    """Query and passage prefix for a model name or folder; empty ones for a plain model (all-MiniLM, mpnet)."""
    name = Path(name).name.lower()
    return next((prefixes for part, prefixes in PREFIXES if part in name), ("", ""))


def check_modules(name: str) -> None:
    """Raise `EncoderError` if a model folder names modules of another library, which importing would run."""
    path = Path(name) / "modules.json"
    if not path.is_file():
        return
    try:
        modules = read_json(path)
    except FileError as error:
        raise EncoderError(f"{error}; restore the file") from error
    for module in modules if isinstance(modules, list) else [modules]:
        kind = module.get("type") if isinstance(module, dict) else module
        if not isinstance(kind, str) or not kind.startswith("sentence_transformers."):
            raise EncoderError(
                f"{path}: module type {str(kind)[:80]!r}; only modules of sentence_transformers are loaded, since the "
                "import of any other would run its code"
            )


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error)}"


class SentenceEncoder:
    """A sentence-transformers model.

    Args:
        name: model name or folder.
        query_prefix, passage_prefix: prepended to every text; None: the model's own prompts, else the convention
            of its family (`PREFIXES`).
        max_length: maximum tokens per text; None: the model's own limit.
        dtype: of the weights. `auto`: float16 on a GPU, float32 elsewhere. bfloat16 is about three times as fast on
            CPUs with AVX512-BF16.
        device: `cuda`, `cpu`, ...; None: a GPU if there is one.
        batch_size: texts per batch; None: chosen by free memory.
    """

    def __init__(
        self,
        name: str,
        *,
        query_prefix: str | None = None,
        passage_prefix: str | None = None,
        max_length: int | None = None,
        dtype: str = "auto",
        device: str | None = None,
        batch_size: int | None = None,
    ) -> None:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.util import get_device_name

        if dtype not in DTYPES:
            raise EncoderError(f"dtype={dtype!r}: must be one of {', '.join(DTYPES)}")
        self.device = device or get_device_name()
        self.dtype = dtype if dtype != "auto" else ("float16" if self.device.startswith("cuda") else "float32")
        check_modules(name)
        try:
            self.model = SentenceTransformer(
                name, device=self.device, model_kwargs={"dtype": self.dtype}, trust_remote_code=False
            )
        except Exception as error:  # a damaged folder gives errors of torch, transformers, safetensors and tokenizers
            raise EncoderError(
                f"{name}: can't be loaded as a sentence-transformers model ({_reason(error)})"
            ) from error
        limit = self.model.get_max_seq_length() or 512
        if max_length is not None and not 1 <= max_length <= limit:
            raise EncoderError(f"max_length={max_length}: must be from 1 to the {limit} tokens that {name} supports")
        self.name = name
        self.max_length = self.model.max_seq_length = max_length or limit
        self.dimension = int(self.model.get_embedding_dimension() or 0)
        prompts, conventional = self.model.prompts, prefixes_of(name)
        own = (prompts.get("query"), prompts.get("document") or prompts.get("passage"))
        given = (query_prefix, passage_prefix)
        self.query_prefix, self.passage_prefix = (
            g if g is not None else (o or c) for g, o, c in zip(given, own, conventional, strict=True)
        )
        self.batch_size = batch_size or self._fitting_batch()

    def _fitting_batch(self) -> int:
        """Batch size whose activations take at most a quarter of the free memory; more than 1,024 is no faster."""
        config = self.model[0].auto_model.config
        # Per token, roughly: the widest layer (4 x hidden) and a few of the hidden size, in at most 4 bytes.
        per_text = self.max_length * int(config.hidden_size) * 12 * 4
        if not self.device.startswith("cuda"):
            return int(np.clip(psutil.virtual_memory().available // 4 // per_text, 1, 64))  # fits into CPU caches
        import torch

        return int(np.clip(torch.cuda.mem_get_info()[0] // 4 // per_text, 1, 1024))

    def encode_queries(self, queries: Sequence[str]) -> Vectors:
        return self._encode([self.query_prefix + query for query in queries])

    def encode_passages(self, passages: Sequence[Passage]) -> Vectors:
        return self._encode([f"{self.passage_prefix}{p.title}\n{p.text}" for p in passages])

    def _encode(self, texts: list[str]) -> Vectors:
        if not texts:
            return np.zeros((0, self.dimension), np.float32)
        # An empty prompt, since the prefixes are already added.
        vectors = self.model.encode(
            texts, prompt="", batch_size=self.batch_size, normalize_embeddings=True, show_progress_bar=False
        )
        return np.asarray(vectors, np.float32)

    def fingerprint(self) -> dict[str, Any]:
        return {
            "model": Path(self.name).name,
            "weights": self._weights_hash(),
            "query_prefix": self.query_prefix,
            "passage_prefix": self.passage_prefix,
            "max_length": self.max_length,
            "dimension": self.dimension,
        }

    def _weights_hash(self) -> str:
        """Hash of the first 4,096 numbers of every tensor, in bfloat16 so that all dtypes agree; 16 hex digits."""
        import torch

        digest = hashlib.sha256()
        for name, tensor in self.model.state_dict().items():
            digest.update(name.encode())
            if tensor.is_floating_point():
                flat = tensor.detach().flatten()[:4096].to("cpu", torch.bfloat16)
                digest.update(flat.view(torch.int16).numpy().tobytes())
        return digest.hexdigest()[:16]
