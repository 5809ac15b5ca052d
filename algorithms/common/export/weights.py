"""The weights of an export: loaded, merged, cast and validated before anything is written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from algorithms.common.model.pretrained import DTYPES, load_model
from algorithms.common.model.source import ADAPTER_FILE
from algorithms.common.model.tokenizer import PolicyTokenizer
from algorithms.common.model.untrusted import SAFE, check_model_folder
from igsearch_env.errors import ConfigurationError, IGSearchError
from retrievers.reading import one_line

ADAPTER_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Weights:
    """Weights in memory."""

    dtype: str
    size: int
    """Size in bytes."""
    save: Callable[[Path], None]
    """Writes the weights to a folder, with the configuration and the tokenizer."""


def whole_model(folder: Path, dtype: str, *, merge: bool, chat: bool) -> Weights:
    """Load the model in `folder`; `merge`: merge its adapter into the base model; `chat`: trained with a chat template.

    Raises `ConfigurationError` if weights are missing, or are not finite in `dtype`.
    """
    from transformers import AutoTokenizer, GenerationConfig

    try:
        # An adapter is merged in float32, and then rounded once.
        model = load_model(str(folder), dtype=torch.float32 if merge else DTYPES[dtype]).to(DTYPES[dtype])
        tokenizer = AutoTokenizer.from_pretrained(folder, **SAFE)
    except IGSearchError:
        raise
    except Exception as error:  # safetensors, peft and transformers raise different errors
        raise ConfigurationError(
            f"{folder}: can't be loaded ({type(error).__name__}: {one_line(error)}); export another checkpoint"
        ) from error
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise ConfigurationError(
                f"{folder}: {name} is not finite in {DTYPES[dtype]}; export another dtype, or another checkpoint"
            )
    own = getattr(model.generation_config, "eos_token_id", None)
    tokens = PolicyTokenizer(tokenizer, chat=chat, eos_ids=own if isinstance(own, list) else [own])
    ends = sorted(tokens.eos_ids)
    model.generation_config = GenerationConfig(
        eos_token_id=ends[0] if len(ends) == 1 else ends or None,
        pad_token_id=tokens.pad_id,
        bos_token_id=tokenizer.bos_token_id,
    )

    def save(target: Path) -> None:
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)

    return Weights(dtype, sum(weight.nbytes for weight in model.parameters()), save)


def adapter_alone(folder: Path, dtype: str | None) -> Weights:
    """Load the adapter in `folder`; `dtype` None keeps its precision.

    Raises `ConfigurationError` if it can't be loaded.
    """
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer

    check_model_folder(folder)
    try:
        weights = load_file(folder / ADAPTER_WEIGHTS)
        tokenizer = AutoTokenizer.from_pretrained(folder, **SAFE)
    except Exception as error:  # safetensors, tokenizers and transformers raise different errors
        raise ConfigurationError(f"{folder}: can't be loaded ({one_line(error)}); export another checkpoint") from error
    if dtype is not None:
        weights = {name: weight.to(DTYPES[dtype]) for name, weight in weights.items()}

    def save(target: Path) -> None:
        save_file(weights, target / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        shutil.copyfile(folder / ADAPTER_FILE, target / ADAPTER_FILE)
        tokenizer.save_pretrained(target)

    held = "+".join(sorted({str(weight.dtype).removeprefix("torch.") for weight in weights.values()}))
    return Weights(held, sum(weight.nbytes for weight in weights.values()), save)
