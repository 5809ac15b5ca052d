"""Small models with random weights behind the bundled tokenizer: the code of any size, in milliseconds."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from algorithms.common.distributed.config import DistributedConfig
from algorithms.common.distributed.processes import Processes
from algorithms.common.model.config import PolicyConfig
from algorithms.common.model.policy import Policy, PolicyModule
from algorithms.common.model.turn_end import TurnEnd
from algorithms.common.training.config import OptimizerConfig
from algorithms.common.training.learner import Learner
from igsearch_env.protocols import make_protocol
from igsearch_env.world.bundled import POLICY_FOLDER

ARCHITECTURES = ("qwen2", "llama", "gpt_neox")
# Sliding windows in every other layer, so short that they matter; Gemma 2 also bends scores and logits (softcapping).
WINDOWED = ("gemma2", "gemma3")
WINDOW = 8


@lru_cache(maxsize=1)
def tokenizer() -> Any:
    """The bundled policy's."""
    return AutoTokenizer.from_pretrained(POLICY_FOLDER)


def tiny_model(architecture: str = "qwen2", *, seed: int = 0, context_length: int = 1024) -> Any:
    """Two layers of random weights; large ones, so that its choices are not all alike."""
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
    windowed: dict[str, Any] = {
        "num_key_value_heads": 2,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "sliding_window": WINDOW,
        "layer_types": ["sliding_attention", "full_attention"],
    }
    model: Any
    match architecture:
        case "qwen2":
            model = Qwen2ForCausalLM(Qwen2Config(**shape, num_key_value_heads=2))
        case "llama":
            model = LlamaForCausalLM(LlamaConfig(**shape, num_key_value_heads=4))
        case "gpt_neox":
            model = GPTNeoXForCausalLM(GPTNeoXConfig(**shape))
        case "gemma2":
            caps = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0}
            model = Gemma2ForCausalLM(Gemma2Config(**shape, **windowed, **caps))
        case _:
            model = Gemma3ForCausalLM(Gemma3TextConfig(**shape, **windowed))
    model.eval()
    return model


def tiny_policy(architecture: str = "qwen2", **options: Any) -> Policy:
    """A policy of a tiny model."""
    return Policy(tiny_model(architecture, **options), tokenizer())


def bundled_policy(*, context_length: int | None = None) -> Policy:
    """The bundled policy: it searches, which random weights hardly ever do."""
    return Policy.load(PolicyConfig(device="cpu", context_length=context_length))


def save_tiny_policy(folder: Path, **options: Any) -> Path:
    """A tiny policy on disk."""
    tiny_policy(**options).save(folder)
    return folder


def turn_end(policy: Policy, protocol: str = "search_r1") -> TurnEnd:
    """When a turn of a policy is over in a protocol."""
    return TurnEnd(policy.tokenizer, make_protocol(protocol).stop_strings)


def learner_of(policy: Policy, **options: Any) -> Learner:
    """What trains a policy in one process; `options` of the optimizer."""
    return Learner(
        PolicyModule(policy),
        OptimizerConfig(**options),
        Processes(),
        DistributedConfig(),
        lr=1e-2,
        weight_decay=0.0,
        pad_id=policy.tokenizer.pad_id,
        device=policy.device,
    )
