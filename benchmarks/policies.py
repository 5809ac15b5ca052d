"""Policies with random weights in the shapes of real models, with the bundled tokenizer."""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from algorithms.common.model.policy import Policy
from igsearch_env.world.bundled import POLICY_FOLDER
from retrievers.random_streams import stream_seed

# From the config.json of each model; "small" is ours.
SHAPES: dict[str, dict[str, int]] = {
    "small": {"hidden_size": 256, "intermediate_size": 768, "num_attention_heads": 4, "num_key_value_heads": 2},
    "qwen2.5-0.5b": {
        "hidden_size": 896,
        "intermediate_size": 4_864,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
    },
    "qwen2.5-1.5b": {
        "hidden_size": 1_536,
        "intermediate_size": 8_960,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
    },
    "qwen2.5-3b": {
        "hidden_size": 2_048,
        "intermediate_size": 11_008,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
    },
}
LAYERS = {"small": 4, "qwen2.5-0.5b": 24, "qwen2.5-1.5b": 28, "qwen2.5-3b": 36}


def random_policy(
    shape: str | dict[str, int],
    layers: int,
    *,
    vocabulary: int | None = None,
    context_length: int = 8_192,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    tied: bool = True,
) -> Policy:
    """A Qwen2 model of a shape with `layers` layers; `vocabulary` defaults to that of the bundled tokenizer."""
    tokenizer: Any = AutoTokenizer.from_pretrained(POLICY_FOLDER)
    torch.manual_seed(stream_seed("weights of benchmark policies", 0))
    config = Qwen2Config(
        **(SHAPES[shape] if isinstance(shape, str) else shape),
        vocab_size=vocabulary or len(tokenizer),
        num_hidden_layers=layers,
        max_position_embeddings=context_length,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.device(device):
        model: Any = Qwen2ForCausalLM(config)
    model.to(dtype).eval()
    return Policy(model, tokenizer)


def layer_parameters(policy: Policy) -> int:
    """Number of weights without the embeddings, with which every token is multiplied."""
    embeddings = {
        id(p) for p in (policy.model.get_input_embeddings().weight, policy.model.get_output_embeddings().weight)
    }
    return sum(p.numel() for p in policy.model.parameters() if id(p) not in embeddings)


def matrix_rate(device: str = "cpu", dtype: torch.dtype = torch.float32, size: int = 2_048) -> float:
    """Floating-point operations per second of a square matrix product: the peak rate of this machine."""
    a = torch.randn(size, size, device=device, dtype=dtype)
    best = 0.0
    for _ in range(8):
        start = time.perf_counter()
        for _ in range(4):
            a @ a
        if device != "cpu":
            torch.cuda.synchronize()
        best = max(best, 4 * 2 * size**3 / (time.perf_counter() - start))
    return best
