"""Small models with random weights behind the bundled tokenizer: the code of any size, in milliseconds."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from algorithms.common.policy import Policy
from igsearch_env.world.bundled import POLICY_FOLDER

ARCHITECTURES = ("qwen2", "llama", "gpt_neox")


@lru_cache(maxsize=1)
def tokenizer() -> Any:
    """The bundled policy's."""
    return AutoTokenizer.from_pretrained(POLICY_FOLDER)


def tiny_policy(architecture: str = "qwen2", *, seed: int = 0, context_length: int = 1024) -> Policy:
    """A policy with two layers and random weights; large ones, so that its choices are not all alike."""
    torch.manual_seed(seed)
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer()),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": context_length,
        "initializer_range": 0.3,
        "bos_token_id": None,
        "eos_token_id": tokenizer().eos_token_id,
        "pad_token_id": tokenizer().pad_token_id,
    }
    model: Any
    if architecture == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**shape, num_key_value_heads=2))
    elif architecture == "llama":
        model = LlamaForCausalLM(LlamaConfig(**shape, num_key_value_heads=4))
    else:
        model = GPTNeoXForCausalLM(GPTNeoXConfig(**shape))
    model.eval()
    return Policy(model, tokenizer())


def save_tiny_policy(folder: Path, **options: Any) -> Path:
    """A tiny policy on disk."""
    tiny_policy(**options).save(folder)
    return folder
