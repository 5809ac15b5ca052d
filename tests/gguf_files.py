"""Small GGUF files, written by the package gguf from a model of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

TOKENS = 400  # of the vocabulary


def tiny_llama() -> Any:
    """A Llama model of random weights with a vocabulary of `TOKENS`."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        **shape, vocab_size=TOKENS, num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.3
    )
    return LlamaForCausalLM(config).eval()


def write_gguf(path: Path, model: Any, *, architecture: str = "llama", packed: bool = False) -> Path:
    """Write a Llama model, with a byte-level tokenizer and a chat template.

    `packed`: matrices in blocks of 8 bits (Q8_0) instead of float32; `model` gets the rounded weights.
    """
    gguf = pytest.importorskip("gguf", reason="GGUF files are written by the package gguf: pip install gguf")
    config = model.config
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(config.vocab_size)
    characters = [*range(33, 127), *range(161, 173), *range(174, 256)]
    bytes_ = [chr(c) for c in characters] + [chr(256 + n) for n in range(256 - len(characters))]
    words = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *bytes_, "th"]
    words += [f"<unused{n}>" for n in range(config.vocab_size - len(words))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(words)
    writer.add_token_types([3] * 3 + [1] * (len(words) - 3))
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_chat_template("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}")
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        layer = f"blk.{name.split('.')[2]}." if ".layers." in name else ""
        part = name.removesuffix(".weight")
        short = names[part if not layer else part.split(".", 3)[3]]
        values = tensor.float().numpy()
        if short in heads:  # llama.cpp pairs the halves of a head
            halves = values.reshape(heads[short], 2, -1, values.shape[1]).swapaxes(1, 2)
            values = halves.reshape(values.shape)
        values = np.ascontiguousarray(values)
        if not packed or values.ndim == 1:
            writer.add_tensor(f"{layer}{short}.weight", values)
            continue
        kind = gguf.GGMLQuantizationType.Q8_0
        blocks = gguf.quants.quantize(values, kind)
        writer.add_tensor(f"{layer}{short}.weight", blocks, raw_dtype=kind)
        rounded = gguf.quants.dequantize(blocks, kind)
        if short in heads:
            rounded = rounded.reshape(heads[short], -1, 2, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        tensor.copy_(torch.from_numpy(np.ascontiguousarray(rounded)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
