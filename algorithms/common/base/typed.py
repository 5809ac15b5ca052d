"""Data of a file as values of a type: checked by pydantic, so that a wrong value is found where it is read."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from retrievers.reading import FileError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")


def as_type(kind: type[T], value: Any, where: str) -> T:
    """`value`, plain data, as a `kind`: a dataclass, a builtin type or a container of them, e.g. `list[Score]`.

    Raises `FileError` that begins with `where` and names the first field that does not fit.
    """
    from pydantic import ValidationError

    try:
        checked: T = _adapter(kind).validate_python(value)  # type: ignore[arg-type] # every type is hashable
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        given = "" if first["type"] == "missing" else f", not {str(first['input'])[:60]!r}"
        raise FileError(where, f"{f'{field}: ' if field else ''}{first['msg']}{given}") from error
    return checked


@lru_cache(maxsize=64)
def _adapter(kind: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
