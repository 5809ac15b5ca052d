"""What an index folder says of itself (`manifest.json`), and how one comes to be: whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from retrievers.base import IndexMismatchError

FORMAT = 2  # of index folders
KINDS = ("bm25", "dense")


def write_manifest(folder: Path, kind: str, content: dict[str, Any]) -> None:
    """Write `manifest.json`: the last file of a folder that is being made."""
    manifest = {"format": FORMAT, "kind": kind, **content}
    write_json(folder / "manifest.json", manifest)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file under a temporary name, then rename it."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    os.replace(partial, path)


def read_manifest(folder: str | Path, kind: str | None = None) -> dict[str, Any]:
    """The manifest of an index folder. Raises `IndexMismatchError` for what is none, or of another version or kind."""
    path = Path(folder) / "manifest.json"
    if not path.is_file():
        raise IndexMismatchError(f"{folder}: no manifest.json in it; it is not an index that build_index finished")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version, found = manifest["format"], manifest.get("kind")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IndexMismatchError(f"{path}: not a manifest ({error!r}); build the index again") from error
    if version != FORMAT:
        raise IndexMismatchError(f"{folder}: format {version!r}, this version reads {FORMAT}; build the index again")
    if found not in ((kind,) if kind else KINDS):
        raise IndexMismatchError(
            f"{path}: kind={found!r}, expected {kind or ' or '.join(KINDS)}; give another folder or build it again"
        )
    return dict(manifest)
