"""Data of a file as values of a type, checked where it is read: any type by pydantic, flat records without it."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

from retrievers.reading import FileError, import_optional

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")


def as_type(kind: type[T], value: Any, where: str) -> T:
    """`value`, plain data, as a `kind`: a dataclass, a builtin type or a container of them, e.g. `list[Score]`.

    Raises `FileError` that begins with `where` and names the first field that does not fit.
    """
    error_class = import_optional("pydantic", "train", f"{where}: checking it").ValidationError
    try:
        checked: T = _adapter(kind).validate_python(value)  # type: ignore[arg-type] # every type is hashable
    except error_class as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        given = "" if first["type"] == "missing" else f", not {str(first['input'])[:60]!r}"
        raise FileError(where, f"{f'{field}: ' if field else ''}{first['msg']}{given}") from error
    return checked


@lru_cache(maxsize=64)
def _adapter(kind: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def as_record(kind: type[T], value: Any, where: str) -> T:
    """`value`, plain data, as a dataclass with fields of strings, numbers, booleans, None, lists and tuples of them.

    It needs no pydantic, which the installation without extras lacks. Keys that are no field are ignored. Raises
    `FileError` that begins with `where` and names the first field that does not fit.
    """
    if not isinstance(value, dict):
        raise FileError(where, f"a {type(value).__name__}; it must be an object")
    fields = {}
    for name, hint, required in _record_fields(kind):  # type: ignore[arg-type] # every type is hashable
        if name in value:
            try:
                fields[name] = _plain(hint, value[name])
            except TypeError as error:
                raise FileError(where, f"{name}: must be {error}, not {str(value[name])[:60]!r}") from error
        elif required:
            raise FileError(where, f"{name}: field required")
    return kind(**fields)


@lru_cache(maxsize=64)
def _record_fields(kind: Any) -> list[tuple[str, Any, bool]]:
    hints, missing = get_type_hints(kind), dataclasses.MISSING
    return [
        (field.name, hints[field.name], field.default is missing and field.default_factory is missing)
        for field in dataclasses.fields(kind)
    ]


def _plain(hint: Any, value: Any) -> Any:
    """The value if it is of this type, a number as a float where that is wanted. Raises `TypeError` with the type."""
    wanted = (str(hint) if get_origin(hint) else hint.__name__).replace("NoneType", "None")
    if hint in (str, int, bool, NoneType):
        if type(value) is hint:
            return value
    elif hint is float:
        if type(value) in (int, float):
            return float(value)
    elif isinstance(hint, UnionType):
        for one in get_args(hint):
            try:
                return _plain(one, value)
            except TypeError:
                continue
    elif isinstance(value, (list, tuple)):
        inner = get_args(hint)
        if get_origin(hint) is list:
            return [_plain(inner[0], item) for item in value]
        if len(value) == len(inner):
            return tuple(_plain(one, item) for one, item in zip(inner, value, strict=True))
    raise TypeError(wanted)
