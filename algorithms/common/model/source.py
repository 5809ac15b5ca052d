"""Where a model comes from: a folder, a name on the Hugging Face hub, or a GGUF file in either."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from algorithms.common.model.untrusted import SAFE, check_model_folder
from igsearch_env.errors import ConfigurationError
from retrievers.extras import is_installed

HUB = "hf:"
ADAPTER_FILE = "adapter_config.json"  # marks a folder that holds an adapter rather than a model
MAGIC = b"GGUF"  # first bytes of such a file


@dataclass(frozen=True)
class ModelSource:
    """The folder or repository of a model, and the GGUF file in it that holds weights, configuration and tokenizer."""

    place: str
    gguf: str | None = None

    @classmethod
    def parse(cls, path: str) -> ModelSource:
        """Of `policy.path`: a folder, a name on the hub, a .gguf file, or hf:OWNER/REPOSITORY/FILE.gguf.

        Raises `ConfigurationError` for a GGUF file that is not there, is none, or can't be read without a package.
        """
        if not path.endswith(".gguf"):
            return cls(path)
        if not is_installed("gguf"):
            raise ConfigurationError(
                f"policy.path={path!r}: GGUF files are read by the package gguf: pip install 'igsearch[gguf]'"
            )
        if path.startswith(HUB):
            parts = path.removeprefix(HUB).split("/")
            if len(parts) < 3 or not all(parts):
                raise ConfigurationError(f"policy.path={path!r}: give hf:OWNER/REPOSITORY/FILE.gguf")
            return cls("/".join(parts[:2]), "/".join(parts[2:]))
        file = Path(path)
        if not file.is_file():
            raise ConfigurationError(
                f"policy.path={path!r}: there is no such file; one on the hub is hf:OWNER/REPOSITORY/FILE.gguf"
            )
        with file.open("rb") as opened:
            if opened.read(len(MAGIC)) != MAGIC:
                raise ConfigurationError(f"policy.path={path!r}: not a GGUF file (it does not begin with {MAGIC!r})")
        return cls(str(file.parent), file.name)

    def check(self) -> None:
        """Raise `ConfigurationError` for settings beside the weights that are damaged, or would load other code."""
        if self.gguf is None:
            check_model_folder(self.place)

    @property
    def options(self) -> dict[str, Any]:
        """Options of every `from_pretrained(place, ...)`."""
        return SAFE if self.gguf is None else {**SAFE, "gguf_file": self.gguf}
