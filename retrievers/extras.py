"""Which extra of this project installs a package that the environment itself does not need."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import TracebackType

from retrievers.reading import MissingPackageError, install

EXTRAS = {
    **dict.fromkeys(
        ("accelerate", "huggingface_hub", "matplotlib", "peft", "pydantic", "safetensors", "scipy"), "train"
    ),
    **dict.fromkeys(("tensorboard", "tokenizers", "torch", "transformers"), "train"),
    **dict.fromkeys(("faiss", "hnswlib", "sentence_transformers"), "dense"),
    **dict.fromkeys(("fastapi", "h11", "prometheus_client", "starlette", "uvicorn"), "server"),
}
"""Extra by the name of the module that is imported."""


def missing_package(error: ImportError, needed_by: str) -> MissingPackageError | None:
    """The error of a failed import, with the extra that installs the package; None for a package of no extra.

    `needed_by`: what requires it, as the beginning of the message.
    """
    module = (error.name or "").partition(".")[0]
    return _missing(module, needed_by, f"can't be imported ({error})") if module in EXTRAS else None


def require(module: str, needed_by: str) -> None:
    """Raise `MissingPackageError` unless a package is installed. It is not imported: torch takes seconds."""
    if not is_installed(module):
        raise _missing(module, needed_by, "is not installed")


def is_installed(module: str) -> bool:
    """Whether a package is installed. It is not imported."""
    if module in sys.modules:
        return sys.modules[module] is not None  # None: it must not be imported
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # refused by a finder; a module without a spec
        return False


def require_for_program(module: str, needed_by: str) -> None:
    """As `require`, at the beginning of a file that may be run: without a handler the error is one line."""
    try:
        require(module, needed_by)
    except MissingPackageError:
        sys.excepthook = _in_one_line
        raise


def _in_one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, MissingPackageError):
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(MissingPackageError.exit_status)
    else:
        sys.__excepthook__(kind, error, trace)


def _missing(module: str, needed_by: str, reason: str) -> MissingPackageError:
    return MissingPackageError(f"{needed_by} requires {module}, which {reason}; {install(EXTRAS[module])}")
