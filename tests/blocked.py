"""Programs in a process in which some packages can't be imported, as if they were not installed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection, Sequence

from launching import ENVIRONMENT
from paths import ROOT

from benchmarks.mistakes import MISSING

TRAIN = ("torch", "transformers", "accelerate", "peft", "safetensors", "tokenizers", "matplotlib", "scipy", "pydantic")
DENSE = ("sentence_transformers", "faiss", "hnswlib")
SERVER = ("fastapi", "starlette", "uvicorn", "prometheus_client")
EVERY = (*TRAIN, *DENSE, *SERVER, "tensorboard", "huggingface_hub", "datasets", "pyarrow", "Stemmer", "gguf")


def run_without(blocked: Collection[str], program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -c program`, with these arguments, where `blocked` packages are missing."""
    words: Sequence[str] = (sys.executable, "-c", MISSING.format(without=set(blocked)) + program, *arguments)
    return subprocess.run(
        words,
        cwd=ROOT,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
