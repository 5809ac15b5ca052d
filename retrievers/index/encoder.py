"""Text encoders: queries and passages as unit vectors, with the prefixes that a family of models was trained with."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from retrievers.base import IndexMismatchError, Passage, RetrieverError
from retrievers.index import modules
from retrievers.index.prefixes import PROMPTS, choose_prefixes, prefixes_of
from retrievers.reading import FileError, import_optional, one_line, read_json, read_json_object

__all__ = ["Encoder", "EncoderError", "SentenceEncoder", "check_encoder", "check_modules", "prefixes_of"]

Vectors = NDArray[np.float32]

DTYPES = ("auto", "float32", "bfloat16", "float16")

logger = logging.getLogger(__name__)


class EncoderError(RetrieverError, ValueError):
    """An encoder that can't be loaded or used, or a passage without a vector."""


class Encoder(Protocol):
    """Interface of a dense retriever's model: unit vectors [texts, dimension], float32.

    Whoever calls an encoder checks its vectors (`checked.py`). If it has a `name`, an index records it.
    """

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


def unit_length(vectors: NDArray[Any]) -> tuple[Vectors, NDArray[np.bool_]]:
    """Vectors [texts, dimension] of length one, and which ones are: those that were zero or not finite stay as is."""
    vectors = np.asarray(vectors, np.float32)
    # Lengths in float64: squares of large numbers overflow float32, of small ones vanish.
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    usable = np.isfinite(lengths) & (lengths > 0)
    return (vectors / np.where(usable, lengths, 1.0)).astype(np.float32), usable[:, 0]


def check_modules(name: str) -> None:
    """Raise `EncoderError` if a model folder names modules of another library, which importing would run."""
    folder = Path(name)
    try:
        for path in (folder / "modules.json", *sorted(folder.rglob("router_config.json"))):
            if path.is_file():
                for module in _named_modules(read_json(path)):
                    _check_module(path, module.get("type") if isinstance(module, dict) else module)
        for path in sorted(folder.rglob("wordembedding_config.json")):
            _check_module(path, read_json_object(path).get("tokenizer_class"))
    except FileError as error:
        raise EncoderError(f"{error}; restore the file") from error


def _named_modules(content: Any) -> list[Any]:
    """The modules that a file names: a list of them, or under `types` an object with one for each route."""
    found = content.get("types", content) if isinstance(content, dict) else content
    if isinstance(found, dict):
        return list(found.values())
    return found if isinstance(found, list) else [found]


def _check_module(path: Path, kind: object) -> None:
    if not isinstance(kind, str) or not kind.startswith("sentence_transformers."):
        raise EncoderError(
            f"{path}: module type {str(kind)[:80]!r}; only modules of sentence_transformers are loaded, since the "
            "import of any other would run its code"
        )


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error)}"


class SentenceEncoder:
    """A sentence-transformers model: any that turns text into one vector, also with other weights for queries.

    Args:
        name: model name or folder.
        query_prefix: prepended to every query; None: the model's own prompt, else that of its model card if its name is
            known, else none (`prefixes.py`). `prefixes` says which, and where it is from.
        passage_prefix: the same for passages.
        max_length: maximum tokens per text; None: the model's own limit.
        dtype: of the weights of transformers. `auto`: float16 on a GPU, float32 elsewhere. bfloat16 is about three
            times as fast on CPUs with AVX512-BF16.
        device: `cuda`, `cpu`, ...; None: a GPU if there is one.
        batch_size: texts per batch; None: chosen by free memory.

    `max_length` is None for a model that reads texts of any length (static embeddings, bags of words).
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
        library = import_optional("sentence_transformers", "dense", f"encoder={name!r}")

        if not name:
            raise EncoderError("the name of the encoder is empty: pass a model name or a folder")
        if dtype not in DTYPES:
            raise EncoderError(f"dtype={dtype!r}: must be one of {', '.join(DTYPES)}")
        self.device = device or library.util.get_device_name()
        self.dtype = dtype if dtype != "auto" else ("float16" if self.device.startswith("cuda") else "float32")
        check_modules(name)
        try:
            self.model = library.SentenceTransformer(
                name, device=self.device, model_kwargs={"dtype": self.dtype}, trust_remote_code=False
            )
        except Exception as error:  # a damaged folder gives errors of torch, transformers, safetensors and tokenizers
            raise EncoderError(
                f"{name}: can't be loaded as a sentence-transformers model ({_reason(error)})"
            ) from error
        limit = modules.length_limit(self.model)
        if max_length is not None and not 1 <= max_length <= (limit or 0):
            rule = f"from 1 to the {limit} tokens that {name} supports" if limit else f"left out: {name} has no limit"
            raise EncoderError(f"max_length={max_length}: must be {rule}")
        self.name = name
        self.max_length = max_length or limit
        if self.max_length is not None:
            modules.limit_length(self.model, self.max_length)
        self.prefixes = choose_prefixes(name, query_prefix, passage_prefix, _config(name, self.model.prompts))
        self.query_prefix, self.passage_prefix = self.prefixes.query.text, self.prefixes.passage.text
        logger.info("%s: %s", name, self.prefixes)
        self.tasks = modules.tasks(self.model)
        self.batch_size = batch_size or 1
        self.dimension = self._measured_dimension()
        self.batch_size = batch_size or modules.fitting_batch(
            self.model, self.max_length, self.dimension, cuda=self.device.startswith("cuda")
        )

    def encode_queries(self, queries: Sequence[str]) -> Vectors:
        """Vectors of queries, normalised to length 1, in float32."""
        return self._encode(queries, self.tasks[0], self.query_prefix)

    def encode_passages(self, passages: Sequence[Passage]) -> Vectors:
        """Vectors of passages (title, line break, text), normalised to length 1, in float32."""
        return self._encode([f"{p.title}\n{p.text}" for p in passages], self.tasks[1], self.passage_prefix)

    def _encode(self, texts: Sequence[str], task: str, prefix: str) -> Vectors:
        if not texts:
            return np.zeros((0, self.dimension), np.float32)
        # The prefix is a prompt, not a part of the text, since some models leave it out of their pooling. An empty one
        # keeps the library from choosing another.
        vectors = self.model.encode(
            list(texts), task=task, prompt=prefix, batch_size=self.batch_size, show_progress_bar=False
        )
        # The length is taken in float32: the sum of squares overflows float16 where the vector itself does not.
        return unit_length(np.asarray(vectors))[0]

    def _measured_dimension(self) -> int:
        """The dimension of a query's and a passage's vector, which a model may compute with other modules each."""
        sizes = []
        for task, prefix in zip(self.tasks, (self.query_prefix, self.passage_prefix), strict=True):
            try:
                sizes.append(int(self._encode(["a text"], task, prefix).shape[1]))
            except Exception as error:  # a model of images or sound, a route that does not exist, a damaged module
                raise EncoderError(
                    f"{self.name}: can't encode a {task} ({_reason(error)}); use a model that turns text into a vector"
                ) from error
        if sizes[0] != sizes[1]:
            raise EncoderError(
                f"{self.name}: its queries have {sizes[0]} dimensions, its passages {sizes[1]}; use a model whose "
                "routes have the same dimension"
            )
        return sizes[0]

    def fingerprint(self) -> dict[str, Any]:
        """The settings that determine the vectors, as JSON values: an index requires the same encoder."""
        return {
            "model": Path(self.name).name,
            "weights": self._weights_hash(),
            "modules": modules.description(self.model),
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
        digest.update(modules.vocabulary(self.model))
        return digest.hexdigest()[:16]


def _config(name: str, prompts: dict[str, str]) -> dict[str, Any]:
    """The content of a model folder's `config_sentence_transformers.json`; {} if it has none.

    Of a model of the Hub, the `prompts` that were loaded from it, without the empty ones, which may be the library's.
    """
    if not Path(name).is_dir():
        return {"prompts": {key: text for key, text in prompts.items() if text}}
    path = Path(name) / PROMPTS
    if not path.is_file():
        return {}
    try:
        return read_json_object(path)
    except FileError as error:
        raise EncoderError(f"{error}; restore the file") from error
