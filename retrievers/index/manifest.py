"""The description of an index folder (`manifest.json`), written atomically."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from retrievers.base import IndexMismatchError
from retrievers.files import atomic_write
from retrievers.reading import FileError, read_json_object

FORMAT = 2  # of index folders


def write_manifest(folder: Path, kind: str, content: dict[str, Any]) -> None:
    """Write `manifest.json`: the last file written to a new folder."""
    manifest = {"format": FORMAT, "kind": kind, **content}
    write_json(folder / "manifest.json", manifest)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def index_kind(source: str) -> str | None:
    """The kind of index in a folder; None if there is no such folder. Raises as `read_manifest` does."""
    return str(read_manifest(source)["kind"]) if Path(source).is_dir() else None


def read_manifest(folder: str | Path, kind: str | None = None) -> dict[str, Any]:
    """The manifest of an index folder, of any kind if `kind` is None.

    Raises `IndexMismatchError` for a folder without a manifest, or one of another version or kind.
    """
    path = Path(folder) / "manifest.json"
    if not path.is_file():
        raise IndexMismatchError(f"{folder}: no manifest.json; it is not an index completed by build_index")
    try:
        manifest = read_json_object(path)
    except FileError as error:
        raise IndexMismatchError(f"{path}: not a manifest ({error.inside(path)}); build the index again") from error
    version, found = manifest.get("format"), manifest.get("kind")
    if version != FORMAT:
        raise IndexMismatchError(f"{folder}: format {version!r}, this version reads {FORMAT}; build the index again")
    if kind is not None and found != kind:
        raise IndexMismatchError(f"{path}: kind={found!r}, expected {kind}; pass another folder or build it again")
    return dict(manifest)
