"""Values as plain data: what `json.dumps` accepts and another program reads back as the same values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Set
from pathlib import PurePath
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """A value made of dictionaries with string keys, lists, strings, numbers, booleans and None.

    A dataclass (such as `Passage`) becomes a dictionary of its fields, a tuple, array or set a list (a set in order),
    a number of numpy that of Python. NaN and infinities, which JSON does not have, become None. Anything else, such as
    a date or a path, becomes its string.
    """
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, Set):
        return sorted((plain(inner) for inner in value), key=str)
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return value.as_posix() if isinstance(value, PurePath) else str(value)
