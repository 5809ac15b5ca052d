"""Vectors of a corpus on disk, in shards: encoded once, resumable, read through memory maps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrievers.base import IndexMismatchError
from retrievers.corpus import DiskCorpus
from retrievers.files import atomic_write
from retrievers.index.checked import passage_vectors
from retrievers.index.encoder import Encoder, check_encoder
from retrievers.index.manifest import check_index, checked_manifest, write_json
from retrievers.reading import FileError, one_line, read_json_object

SETTINGS = "settings.json"
ENCODE_AT_ONCE = 1_024  # passages between two progress reports


def encode_shards(
    corpus: DiskCorpus, encoder: Encoder, folder: Path, settings: dict[str, Any], progress: Callable[[int], None]
) -> None:
    """Write the vectors of a corpus to `folder`, float16, `settings["shard_size"]` passages per file.

    Existing shards with the same settings are kept; `progress` gets the number of passages that have vectors. Raises
    `EncoderError` for a passage whose vector is zero or not finite.
    """
    check_settings(folder, settings)
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("*.partial"):  # left by a killed build
        left.unlink()
    write_json(folder / SETTINGS, settings)
    size = settings["shard_size"]
    for start in range(0, len(corpus), size):
        path = shard_path(folder, start // size)
        stop = min(start + size, len(corpus))
        if not path.is_file():
            vectors = np.empty((stop - start, encoder.dimension), np.float16)
            for at in range(start, stop, ENCODE_AT_ONCE):
                passages = corpus[at : min(at + ENCODE_AT_ONCE, stop)]
                vectors[at - start : at - start + len(passages)] = passage_vectors(encoder, passages)
                progress(at + len(passages))
            with atomic_write(path) as partial, open(partial, "wb") as file:
                np.save(file, vectors)
        progress(stop)


def check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Raise `IndexMismatchError` if `folder` contains vectors made with other settings."""
    if not (folder / SETTINGS).is_file():
        return
    try:
        before = read_json_object(folder / SETTINGS)
    except FileError as error:
        raise IndexMismatchError(f"{error}; remove {folder.parent} to start a new build") from error
    for key, value in settings.items():
        if before.get(key) != value:
            raise IndexMismatchError(
                f"{folder} contains vectors made with {key}={before.get(key)!r}, this command has {value!r}; "
                f"use the same options to resume, or remove {folder.parent} to start a new build"
            )


def encoded(folder: Path, settings: dict[str, Any], passages: int) -> int:
    """Number of passages that already have vectors in `folder`."""
    size = settings["shard_size"]
    starts = range(0, passages, size)
    return sum(min(size, passages - start) for start in starts if shard_path(folder, start // size).is_file())


def open_shards(folder: Path, passages: int) -> list[NDArray[np.float16]]:
    """All shards in order, memory-mapped. Raises `IndexMismatchError` unless there is one vector per passage."""
    shards = [_open_shard(path) for path in sorted(folder.glob("shard-*.npy"))]
    if len({shard.shape[1] for shard in shards}) > 1 or sum(map(len, shards)) != passages:
        raise IndexMismatchError(
            f"{folder}: {sum(map(len, shards))} vectors for {passages} passages; remove it and build the index again"
        )
    return shards


def _open_shard(path: Path) -> NDArray[np.float16]:
    try:
        shard: NDArray[np.float16] = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # the parser of its header raises whatever Python's own does
        raise IndexMismatchError(f"{path}: damaged ({one_line(error)}); remove it and build the index again") from error
    if shard.ndim != 2 or shard.dtype != np.float16:
        raise IndexMismatchError(
            f"{path}: {shard.dtype} of shape {shard.shape}, not vectors; remove it and build again"
        )
    return shard


def kept_vectors(index: Path, corpus_hash: str, encoder: Encoder) -> Path:
    """The folder with the vectors kept by an index folder.

    Raises `IndexMismatchError` unless they are of this corpus and this encoder.
    """
    manifest = checked_manifest(index)
    if manifest["corpus"]["hash"] != corpus_hash:
        raise IndexMismatchError(f"{index}: its vectors are of another corpus; pass another folder, or encode again")
    check_encoder(encoder.fingerprint(), manifest["encoder"]["fingerprint"], str(index))
    if not (index / "vectors").is_dir():
        raise IndexMismatchError(f"{index}: built without keeping its vectors; encode again")
    check_index(index, manifest, "vectors", whole=True)
    return index / "vectors"


def shard_path(folder: Path, number: int) -> Path:
    """File of a shard."""
    return folder / f"shard-{number:06d}.npy"
