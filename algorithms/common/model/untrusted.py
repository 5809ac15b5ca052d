"""Model folders of anyone: what is checked before transformers or peft reads them.

transformers itself asks at the terminal whether code of a model may run; here it never may (`SAFE`). Weights are
safetensors, or tensors of pytorch_model.bin, which torch reads without unpickling objects.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from igsearch_env.errors import ConfigurationError
from retrievers.reading import FileError, one_line, read_json_object

# Options of every `from_pretrained`.
SAFE: dict[str, Any] = {"trust_remote_code": False}
# Settings, at any depth, whose value may be the name of a repository of kernels: code from the hub.
_KERNELS = re.compile(r"_?(attn|experts)_implementation(_internal)?")


def check_model_folder(folder: str | Path) -> None:
    """Raise `ConfigurationError` if a file of settings in a folder is damaged, or names code to run.

    Does nothing for the name of a model on the hub.
    """
    path = Path(folder)
    if not path.is_dir():
        return
    for file in sorted(path.glob("*.json")):
        if file.name in ("tokenizer.json", "vocab.json"):  # large; read by a library of their own
            continue
        try:
            content = read_json_object(file)
        except FileError as error:
            raise ConfigurationError(f"{error}; restore the file, or give another folder") from error
        for key, value in _foreign_code(content):
            raise ConfigurationError(
                f"{file}: {key}={str(value)[:80]!r} would load code that is not part of transformers or peft; remove "
                "it, or give another folder"
            )


def _foreign_code(settings: Any) -> Iterator[tuple[str, Any]]:
    """Settings that make transformers or peft import other code than their own."""
    for key, value in settings.items() if isinstance(settings, dict) else ():
        if (_KERNELS.fullmatch(key) and "/" in str(value)) or (key == "megatron_config" and value):
            yield key, value
        yield from _foreign_code(value)


def unreadable(what: str, error: BaseException) -> ConfigurationError:
    """The error to raise for any error of transformers, peft, safetensors or tokenizers while a folder is read."""
    return ConfigurationError(
        f"{what} can't be loaded ({type(error).__name__}: {one_line(error)}); give a folder of save_pretrained, with "
        "its tokenizer, or a model name on the hub"
    )
