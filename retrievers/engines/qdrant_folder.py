"""Folders of Qdrant's local mode: checked before qdrant_client opens them.

qdrant_client stores each point as a pickle, which may run any code when it is loaded. Here every pickle is read with
nothing allowed but the classes of a point.
"""

from __future__ import annotations

import io
import pickle
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from retrievers.base import CorpusError
from retrievers.reading import one_line

MODULE = "qdrant_client.http.models.models"
CLASSES = ("PointStruct", "SparseVector")


class _PointReader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == MODULE and name in CLASSES:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is no part of a point")


def check_folder(folder: Path, collection: str) -> None:
    """Raise `CorpusError` unless a folder holds a collection, and nothing but points in it."""
    storage = folder / "collection" / collection / "storage.sqlite"
    if not (folder / "meta.json").is_file() or not storage.is_file():
        raise CorpusError(
            f"{folder}: no collection {collection!r} of Qdrant's local mode; name one by qdrant:FOLDER/COLLECTION, "
            "with the folder that QdrantClient(path=FOLDER) wrote, or use a server: qdrant:http://HOST:6333/COLLECTION"
        )
    try:
        with closing(sqlite3.connect(f"{storage.resolve().as_uri()}?mode=ro", uri=True)) as database:
            for (value,) in database.execute("SELECT point FROM points"):
                _PointReader(io.BytesIO(value)).load()
    except Exception as error:  # a damaged pickle raises anything
        raise CorpusError(
            f"{storage}: not a file of points ({one_line(error)}); it is not opened. Build the collection again"
        ) from error
