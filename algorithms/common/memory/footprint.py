"""`Footprint`: sizes of a policy's model from its configuration alone, before any weight is loaded.

The model is built on the meta device, and one pass is made with fake tensors, which have shapes but no memory, while
autograd reports what it saves. So every architecture, adapters and autocast are measured by the code that will run.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from algorithms.common.model.config import PolicyConfig
from algorithms.common.model.context import longest_context
from algorithms.common.model.lora import adapter_base, add_adapter
from algorithms.common.model.packing import install_packed_attention
from algorithms.common.model.pretrained import DTYPES
from algorithms.common.model.source import ADAPTER_FILE, ModelSource
from igsearch_env.errors import ConfigurationError
from igsearch_env.world.bundled import POLICY_FOLDER

# Numbers saved for the backward pass per token and layer, over the hidden size: Llama's, if tracing fails.
KEPT_OF_LLAMA = 21


class Footprint:
    """Sizes of a model. Trained weights are those with gradients: all, or only the adapters.

    `cuda`: whether it is trained on a GPU, where another attention computes short rows.
    """

    def __init__(self, policy: PolicyConfig, cuda: bool = False) -> None:
        from transformers import AutoModelForCausalLM

        config = _configuration(policy)
        # Flash attention does not run on fake tensors; it saves what sdpa saves, the default where it is available.
        attention = "eager" if policy.attn_implementation == "eager" else None
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(
                config, dtype=DTYPES[policy.dtype], attn_implementation=attention
            )
            if not cuda:  # fake tensors are on a CPU
                install_packed_attention(model)
            if policy.lora.rank:
                model = add_adapter(model, policy.lora).get_base_model()
        text = config.get_text_config()
        parameters = list(model.parameters())
        embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        decoder = model.get_decoder()

        self.count = sum(p.numel() for p in parameters)
        self.weights = sum(p.nbytes for p in parameters)  # bytes
        self.trained = sum(p.nbytes for p in parameters if p.requires_grad)  # bytes
        self.element = DTYPES[policy.dtype].itemsize
        self.compute = DTYPES[policy.compute_dtype or policy.dtype].itemsize
        self.head = head.numel() if head.requires_grad else 0
        self.tied = embedding is head
        self.vocabulary, self.hidden = int(text.vocab_size), int(text.hidden_size)
        self.intermediate = int(getattr(text, "intermediate_size", None) or 4 * self.hidden)
        self.layers, heads = int(text.num_hidden_layers), int(text.num_attention_heads)
        width = int(getattr(text, "head_dim", None) or self.hidden // heads)
        self.queries = heads * width
        self.keys = int(getattr(text, "num_key_value_heads", None) or heads) * width
        longest = longest_context(config)
        self.context = min(policy.context_length or longest, longest)
        # Autocast makes a copy of every matrix for each pass, except of the embedding, which is only looked up.
        matrices = sum(p.numel() for p in decoder.parameters() if p.ndim > 1) - embedding.numel()
        self.casts = matrices * self.compute if self.compute != self.element else 0

        self._autocast = policy.compute_dtype is not None
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        with self._fake:
            self._decoder = decoder.eval().to_empty(device="cpu")

    def kept(self, rows: int, length: int) -> int:
        """Bytes that autograd saves in a forward pass [rows, length], including `casts`, without the weights."""
        own = {p.untyped_storage()._cdata for p in self._decoder.parameters()}
        kept: dict[int, torch.UntypedStorage] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                kept[storage._cdata] = storage
            return tensor

        logger = logging.getLogger("torch._subclasses.fake_tensor")
        level = logger.level
        logger.setLevel(logging.CRITICAL)
        try:
            with (
                self._fake,
                torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
                torch.autocast("cpu", torch.bfloat16, enabled=self._autocast),  # float16 is as wide
            ):
                self._decoder(input_ids=torch.zeros(rows, length, dtype=torch.long), use_cache=False)
        except (RuntimeError, ValueError, TypeError, NotImplementedError):  # control flow depends on values (experts)
            return KEPT_OF_LLAMA * rows * length * self.layers * self.hidden * self.compute + self.casts
        finally:
            logger.setLevel(level)
        return sum(storage.nbytes() for storage in kept.values())

    def kept_of_layers(self, kept: int, tokens: int) -> int:
        """`kept` with gradient checkpointing: the input of every layer, and the activations of one layer."""
        return self.casts + (self.layers + 1) * tokens * self.hidden * self.element + (kept - self.casts) // self.layers

    def temporaries(self, tokens: int, element: int) -> int:
        """Bytes of the temporaries of a pass: in the MLP, and states in float32 around norms."""
        return tokens * (3 * self.intermediate * element + 4 * self.hidden * 4)


def _configuration(policy: PolicyConfig) -> Any:
    """The transformers configuration of a policy's model: of the base model, if its folder holds an adapter."""
    from transformers import AutoConfig

    path = str(POLICY_FOLDER) if policy.path == "bundled" else policy.path
    if (Path(path) / ADAPTER_FILE).is_file():
        path = adapter_base(path)
    source = ModelSource.parse(path)
    source.check()
    try:
        return AutoConfig.from_pretrained(source.place, **source.options)
    except Exception as error:  # a configuration may hold any value of any type
        raise ConfigurationError(
            f"policy.path={policy.path!r}: no model found ({str(error).splitlines()[0]}); give a folder written by "
            "save_pretrained, a model name, or 'bundled'"
        ) from error


@lru_cache(maxsize=4)
def footprint(policy: PolicyConfig, cuda: bool = False) -> Footprint:
    """The footprint of a policy's model."""
    return Footprint(policy, cuda)


@lru_cache(maxsize=32)
def kept(policy: PolicyConfig, cuda: bool, rows: int, length: int) -> int:
    """`Footprint.kept` of a policy's model."""
    return footprint(policy, cuda).kept(rows, length)
