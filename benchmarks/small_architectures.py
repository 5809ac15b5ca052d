"""Small models of random weights of every causal architecture of transformers, for `benchmarks.architectures`.

A configuration's sizes are replaced by small ones by name, in nested configurations too. Windows, chunks and original
context lengths become shorter than the texts that are read, so that their effect shows.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch

from retrievers.random_streams import stream_seed

WINDOW = 8  # tokens: windows and chunks
ORIGINAL = 24  # tokens: original context lengths of scaled rotary embeddings
CONTEXT = 64  # tokens: context lengths

# Sizes by the name of the option.
_SIZES = {
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "emb_dim", "embedding_size", "attention_hidden_size", "lru_width"), 32
    ),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "num_blocks"), 4),
    **dict.fromkeys(("encoder_layers", "num_encoder_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "attention_heads", "swa_num_attention_heads"), 4),
    **dict.fromkeys(("num_encoder_attention_heads", "num_decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads", "num_query_groups"), 2),
    **dict.fromkeys(("head_dim", "kv_channels", "attention_head_dim", "swa_head_dim", "attention_head_size"), 8),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "global_head_dim", "d_head"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "index_head_dim", "o_lora_rank"), 16),
    "qk_head_dim": 16,
    **dict.fromkeys(("intermediate_size", "ffn_dim", "ffn_hidden_size", "dff", "d_inner"), 64),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim", "feed_forward_size", "dense_intermediate_size"), 64),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 16),
    **dict.fromkeys(("shared_intermediate_size", "intermediate_size_mlp", "moe_shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_groups", "mamba_n_groups"), 1),
    **dict.fromkeys(("sliding_window", "sliding_window_size", "attention_window_size", "window_size"), WINDOW),
    **dict.fromkeys(
        ("attention_chunk_size", "local_attention", "attention_chunk", "local_attention_window_len"), WINDOW
    ),
    **dict.fromkeys(("index_topk",), WINDOW),
    **dict.fromkeys(("original_max_position_embeddings", "floor_scale", "log_scaling_n_floor"), ORIGINAL),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "model_max_length"), CONTEXT),
    **dict.fromkeys(("context_length", "max_target_positions", "max_source_positions"), CONTEXT),
    **dict.fromkeys(("mamba_n_heads", "linear_num_key_heads", "linear_num_value_heads", "linear_num_heads"), 4),
    **dict.fromkeys(("mamba_d_head", "linear_key_head_dim", "linear_value_head_dim", "mamba_headdim"), 16),
    **dict.fromkeys(("mamba_d_state", "state_size", "linear_head_dim", "ssm_state_size", "time_step_rank"), 16),
    **dict.fromkeys(("mamba_chunk_size", "chunk_size", "mamba_dt_rank"), 16),
    "index_n_heads": 2,
    "rotary_dim": 4,
    "query_pre_attn_scalar": 8,
    "num_nextn_predict_layers": 0,
    "hidden_size_per_layer_input": 8,
    "word_embed_proj_dim": 32,
    "sliding_window_pattern": 2,
    "_sliding_window_pattern": 2,
    "global_attn_every_n_layers": 2,
    "image_size": 16,
    "patch_size": 8,
    "initializer_range": 0.3,
    "init_std": 0.3,
    "first_k_dense_replace": 1,
    "moe_layer_start_index": 1,
}
# Sizes that are set although the default is None.
_FILLED = ("sliding_window", "head_dim", "num_key_value_heads")
# What a name alone does not decide: architecture -> options.
_SPECIAL: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"num_group": 1, "topk_group": 1, "num_expert_group": 1},
    "deepseek_v2": {"num_experts_per_tok": 2, "n_routed_experts": 4},
    "dots1": {
        "n_shared_experts": 1,
        "moe_intermediate_size": 16,
        "num_experts_per_tok": 2,
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
    },
    "gemma3n_text": {"num_kv_shared_layers": 0, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "xmod": {"default_language": "en_XX"},
    "qwen4_exp_text": {"token_budget": 16, "compress_ratio": 4},
    "dots3_note_text": {"num_key_value_heads": 4},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16},
    "gpt_neo": {"num_layers": 4, "attention_types": [[["global", "local"], 2]], "intermediate_size": 64},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "mamba2": {"num_heads": 4, "head_dim": 16},
    "nemotron": {"num_key_value_heads": 2},
    "reformer": {"is_decoder": True, "axial_pos_shape": [8, 8], "axial_pos_embds_dim": [16, 16]},
    "zamba2": {"layer_types": ["mamba", "hybrid", "mamba", "hybrid"], "mamba_headdim": 16, "n_mamba_heads": 4},
    "zaya": {"num_experts_per_tok": 1},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8, "moe_topk": 2},
}


def small_config(kind: type[Any], vocabulary: int, *, rope: dict[str, Any] | None = None, **special: Any) -> Any:
    """A small configuration of the class `kind`; `rope`: scaling of its rotary embeddings."""
    default = kind()
    changed: dict[str, Any] = {}
    for name, value in default.to_dict().items():
        sub = getattr(kind, "sub_configs", {}).get(name)
        if sub is not None and isinstance(value, dict):
            inner = type(getattr(default, name))
            changed[name] = small_config(inner, vocabulary, rope=rope).to_dict()
        elif name in ("vocab_size", "vocab_size_per_layer_input"):
            changed[name] = vocabulary
        elif name.endswith("token_id") and name not in ("eos_token_id", "pad_token_id", "bos_token_id"):
            changed[name] = 7
        elif name in _SIZES and (value is not None or name in _FILLED):
            changed[name] = _SIZES[name]
    changed |= {"bos_token_id": 1, "eos_token_id": 0, "pad_token_id": 0}
    if "kv_lora_rank" in changed:  # multi-head latent attention expands to all heads
        changed["num_key_value_heads"] = changed["num_attention_heads"]
    if "use_sliding_window" in default.to_dict():
        changed |= {"use_sliding_window": True, "max_window_layers": 2}
    if rope is not None and getattr(default, "rope_parameters", None):
        changed["rope_parameters"] = rope
    changed |= special
    return kind(**changed)


def small_model(kind: str, vocabulary: int, *, rope: dict[str, Any] | None = None, **special: Any) -> Any:
    """A small model of the architecture `kind` (`model_type` of its configuration), with random weights."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = small_config(CONFIG_MAPPING[kind], vocabulary, rope=rope, **_SPECIAL.get(kind, {}), **special)
        torch.manual_seed(stream_seed("weights of small architectures", 0))
        model = AutoModelForCausalLM.from_config(config).eval()
    return model
