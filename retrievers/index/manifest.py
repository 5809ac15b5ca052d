"""The description of an index folder (`manifest.json`), written atomically, with size and hash of its files.

The files are checked before a library opens them: faiss and hnswlib may crash on a damaged file, or search it as if it
were good. Tables of line offsets are left out, since they are written again when a corpus file has moved.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from retrievers.base import IndexMismatchError
from retrievers.digests import check_files, folder_digest
from retrievers.files import atomic_write
from retrievers.reading import FileError, read_json_object

FORMAT = 2  # of index folders
MANIFEST = "manifest.json"


def write_manifest(folder: Path, kind: str, content: dict[str, Any]) -> None:
    """Write `manifest.json`: the last file written to a new folder."""
    files = folder_digest(folder, _files(folder))
    write_json(folder / MANIFEST, {"format": FORMAT, "kind": kind, **content, "files": files})


def record_files(folder: Path) -> None:
    """Record size and hash of the files as they are now: for an index of a version that did not record them."""
    write_json(folder / MANIFEST, {**read_manifest(folder), "files": folder_digest(folder, _files(folder))})


def _files(folder: Path) -> list[Path]:
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and path.name != MANIFEST and not path.name.endswith(("offsets.npy", ".partial"))
    ]


def check_index(folder: Path, manifest: dict[str, Any], *parts: str, whole: bool = False) -> None:
    """Raise `IndexMismatchError` unless the files of an index are those that were built.

    Args:
        parts: names of the files and folders to check; none: all of them.
        whole: read every byte. By default, only sampled blocks of files above 64 MiB are read.
    """
    recorded = manifest.get("files")
    if not isinstance(recorded, dict):
        raise IndexMismatchError(
            f"{folder}: its manifest records no hashes of its files, so it is of an earlier version; if you trust "
            f"these files, record them with `python -m retrievers.check_index {folder} --record`, or build it again"
        )
    files = {path.relative_to(folder).as_posix() for path in _files(folder)}
    for part in parts or ("",):
        problem = check_files(folder, {name: recorded[name] for name in recorded if _in(name, part)}, whole=whole)
        added = min((name for name in files - recorded.keys() if _in(name, part)), default="")
        if problem or added:
            raise IndexMismatchError(
                f"{folder}: {problem or f'{added} is not a file of the index that was built'}; restore it from a copy, "
                "or build the index again"
            )


def _in(name: str, part: str) -> bool:
    return not part or name == part or name.startswith(f"{part}/")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def checked_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a dense index. Raises `IndexMismatchError` unless it has the fields that opening one needs."""
    manifest = read_manifest(folder, "dense")
    needed: dict[str, dict[str, type]] = {
        "corpus": {"path": str, "passages": int, "hash": str, "bytes": int, "modified_ns": int},
        "encoder": {"name": str, "fingerprint": dict},
        "index": {"spec": str, "parameters": str, "dimension": int},
    }
    for section, fields in needed.items():
        content = manifest.get(section)
        for field, kind in fields.items():
            if not isinstance(content, dict) or not isinstance(content.get(field), kind):
                raise IndexMismatchError(
                    f"{folder}: its manifest has no {section}.{field} of type {kind.__name__}; build the index again"
                )
    return manifest


def index_kind(source: str) -> str | None:
    """The kind of index in a folder; None if there is no such folder. Raises as `read_manifest` does."""
    return str(read_manifest(source)["kind"]) if Path(source).is_dir() else None


def read_manifest(folder: str | Path, kind: str | None = None) -> dict[str, Any]:
    """The manifest of an index folder, of any kind if `kind` is None.

    Raises `IndexMismatchError` for a folder without a manifest, or one of another version or kind.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise IndexMismatchError(f"{folder}: no manifest.json; it is not an index completed by build_index")
    try:
        manifest = read_json_object(path)
    except FileError as error:
        raise IndexMismatchError(f"{path}: not a manifest ({error.inside(path)}); build the index again") from error
    version, found = manifest.get("format"), manifest.get("kind")
    if version != FORMAT:
        raise IndexMismatchError(f"{folder}: format {version!r}, this version reads {FORMAT}; build the index again")
    if not isinstance(found, str):
        raise IndexMismatchError(f"{path}: kind={found!r}, not the name of a kind of index; build the index again")
    if kind is not None and found != kind:
        raise IndexMismatchError(f"{path}: kind={found!r}, expected {kind}; pass another folder or build it again")
    return manifest
