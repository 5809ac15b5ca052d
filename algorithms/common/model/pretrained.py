"""Which model to train (`PolicyConfig`), and loading it from a folder or by name."""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from algorithms.common.model.chat_template import DATE, ChatTemplate
from algorithms.common.model.lora import ADAPTER_FILE, LoraConfig, add_adapter, load_merged
from igsearch_env.errors import ConfigurationError, check_literals
from igsearch_env.world.bundled import POLICY_FOLDER

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

Dtype = Literal["float32", "bfloat16", "float16"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class PolicyConfig:
    """Which model to train."""

    RESUMABLE: ClassVar[frozenset[str]] = frozenset({"device", "attn_implementation", "gradient_checkpointing"})

    path: str = "bundled"
    """`bundled`, a folder (of a model or an adapter), or a model name on the Hugging Face hub."""
    dtype: Dtype = "float32"
    """Precision of the weights."""
    compute_dtype: Dtype | None = None
    """Precision of matrix products under autocast, for float32 weights. None: that of the weights."""
    device: str = "auto"
    """auto (cuda if available), or a torch device."""
    chat: bool = False
    """Wrap the prompt in the tokenizer's chat template (instruction-tuned models)."""
    chat_template_arguments: str = ""
    """Arguments of the chat template, as a JSON object: '{"enable_thinking": false}'; in a YAML file also as keys."""
    chat_template_date: str = DATE
    """The date that a chat template reads, whatever day it is, so that prompts don't change."""
    context_length: int | None = None
    """Maximum sequence length, tokens. None: that of the model."""
    attn_implementation: Literal["auto", "sdpa", "eager", "flash_attention_2", "flash_attention_3"] = "auto"
    """Attention implementation of padded passes; auto: the choice of transformers, which also replaces one that is not
    installed, with a notice."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass instead of storing them: a third more time, far less memory."""
    lora: LoraConfig = field(default_factory=LoraConfig)

    def __post_init__(self) -> None:
        check_literals(self, "policy")
        if self.chat_template.arguments and not self.chat:
            raise ConfigurationError(
                f"policy.chat_template_arguments={self.chat_template_arguments!r} without policy.chat: prompts are not "
                "put into the chat template; set policy.chat, or leave the arguments out"
            )
        object.__setattr__(self, "chat_template_arguments", self.chat_template.canonical)

    @property
    def chat_template(self) -> ChatTemplate:
        """Date and arguments for the chat template."""
        return ChatTemplate.parse(self.chat_template_date, self.chat_template_arguments)


def load_pretrained(config: PolicyConfig) -> tuple[Any, Any, Any]:
    """Load model, tokenizer, and the peft model around the model (None without adapters), with transformers."""
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # one bar per file would hide the run's own
    path = str(POLICY_FOLDER) if config.path == "bundled" else config.path
    looks_local = config.path == "bundled" or Path(path).is_absolute() or path.startswith(".")
    if looks_local and not any((Path(path) / name).is_file() for name in ("config.json", ADAPTER_FILE)):
        raise ConfigurationError(
            f"policy.path={config.path!r}: no config.json in {path}; give a folder written by save_pretrained, "
            "a model name, or 'bundled'"
        )
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model = load_model(path, dtype=DTYPES[config.dtype], attn_implementation=config.attn_implementation).to(device)
        tokenizer = AutoTokenizer.from_pretrained(path)
    except OSError as error:
        raise ConfigurationError(
            f"policy.path={config.path!r} can't be loaded ({str(error).splitlines()[0]}); give a folder written by "
            "save_pretrained, with its tokenizer, or a model name on the hub"
        ) from error
    except ValueError as error:
        if config.attn_implementation == "auto":
            raise
        raise ConfigurationError(
            f"policy.attn_implementation={config.attn_implementation!r}: "
            f"{str(error).splitlines()[0]}; auto uses what the model supports"
        ) from error
    adapter = None
    if config.lora.rank:
        if (Path(path) / ADAPTER_FILE).is_file():
            raise ConfigurationError(
                f"policy.path={config.path!r} is already an adapter, and one on top of another can't be saved "
                "separately: merge it first (examples/export.py), or set policy.lora.rank to 0"
            )
        adapter = add_adapter(model, config.lora)
        model = adapter.get_base_model()
    return model, tokenizer, adapter


def load_model(path: str, *, dtype: torch.dtype, attn_implementation: str = "auto") -> Any:
    """A causal model of transformers from a folder or by name; an adapter's folder gives the merged model."""
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {"dtype": dtype}
    chosen = available_attention(attn_implementation)
    if chosen != "auto":
        options["attn_implementation"] = chosen
    if (Path(path) / ADAPTER_FILE).is_file():
        return load_merged(path, **options)
    return AutoModelForCausalLM.from_pretrained(path, **options)


def available_attention(name: str) -> str:
    """`name` if its library is installed and there is a GPU for it, else auto with a notice."""
    library = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}.get(name)
    if library is None or (importlib.util.find_spec(library) is not None and torch.cuda.is_available()):
        return name
    reason = f"needs a GPU and the package that provides {library}"
    print(f"policy.attn_implementation={name!r} {reason}: using auto instead", file=sys.stderr)
    return "auto"
