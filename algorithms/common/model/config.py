"""The section `policy` of a configuration: which model to train. No torch, so --help is fast."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from algorithms.common.model.chat_template import DATE, ChatTemplate
from igsearch_env.errors import ConfigurationError, check_literals, check_range

Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (arXiv 2106.09685) with peft: the model's own weights are frozen."""

    rank: int = 0
    """Rank of the adapters; 0 trains all weights."""
    alpha: float = 32.0
    """The adapters' product is scaled by alpha / rank."""
    target_modules: tuple[str, ...] = ("all-linear",)
    """Layers with an adapter, by the end of their names; all-linear: every linear layer but the output layer."""

    def __post_init__(self) -> None:
        check_range("policy.lora.rank", self.rank, 0)
        check_range("policy.lora.alpha", self.alpha, 1e-9)
        if not self.target_modules:
            raise ConfigurationError("policy.lora.target_modules is empty: name at least one layer, or all-linear")


@dataclass(frozen=True)
class PolicyConfig:
    """Which model to train."""

    RESUMABLE: ClassVar[frozenset[str]] = frozenset({"device", "attn_implementation", "gradient_checkpointing"})

    path: str = "bundled"
    """`bundled`, a folder (of a model or an adapter), a model name on the Hugging Face hub, a .gguf file, or
    hf:OWNER/REPOSITORY/FILE.gguf."""
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
