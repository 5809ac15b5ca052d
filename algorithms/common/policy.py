"""`Policy`: a causal language model of transformers with its tokenizer, and the few things training asks of it.

Token ids are never decoded and encoded again: text is made of ids for the environment to read, ids only of text
that the policy did not write.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from igsearch_env.errors import ConfigurationError, check_choice
from igsearch_env.protocol import STOP_TAGS
from igsearch_env.world.bundled import POLICY_FOLDER

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TAIL_TOKENS = 24  # enough to hold any stop tag, however it is split


@dataclass(frozen=True)
class PolicyConfig:
    """Which model to train."""

    path: str = "bundled"
    """`bundled`, a folder, or a model name that transformers knows."""
    dtype: str = "float32"
    """float32, bfloat16 or float16."""
    device: str = "auto"
    """auto (cuda where there is one), or a torch device."""
    chat: bool = False
    """Wrap the prompt in the tokenizer's chat template (instruction-tuned models)."""
    context_length: int | None = None
    """Longest sequence, tokens. None: the model's own."""

    def __post_init__(self) -> None:
        check_choice("policy.dtype", self.dtype, DTYPES)


class Policy:
    """A model and its tokenizer. Shapes: B rows, T tokens, V vocabulary."""

    def __init__(self, model: Any, tokenizer: Any, *, chat: bool = False, context_length: int | None = None) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.chat = chat
        own = getattr(model.config, "max_position_embeddings", None) or 1_000_000
        self.context_length = min(context_length or own, own)
        if chat and not getattr(tokenizer, "chat_template", None):
            raise ConfigurationError("policy.chat=True: this tokenizer has no chat template; set policy.chat to false")

    @classmethod
    def load(cls, config: PolicyConfig) -> Policy:
        """Load model and tokenizer by the Auto classes of transformers."""
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()  # one bar a file would bury the run's own
        path = str(POLICY_FOLDER) if config.path == "bundled" else config.path
        looks_local = config.path == "bundled" or Path(path).is_absolute() or path.startswith(".")
        if looks_local and not (Path(path) / "config.json").is_file():
            raise ConfigurationError(
                f"policy.path={config.path!r}: no config.json in {path}; give a folder written by save_pretrained, "
                "a model name, or 'bundled'"
            )
        device = config.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        model = AutoModelForCausalLM.from_pretrained(path, dtype=DTYPES[config.dtype]).to(device)
        tokenizer = AutoTokenizer.from_pretrained(path)
        model.eval()  # dropout off: the sampler and the trainer must be the same distribution
        return cls(model, tokenizer, chat=config.chat, context_length=config.context_length)

    def save(self, folder: str | Path) -> None:
        """Write model and tokenizer in the transformers format."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    @property
    def device(self) -> torch.device:
        """Where the model's inputs go."""
        device: torch.device = self.model.device
        return device

    @cached_property
    def pad_id(self) -> int:
        """Id to fill gaps with; never attended, never in the loss."""
        pad = self.tokenizer.pad_token_id
        return int(pad if pad is not None else self.tokenizer.eos_token_id or 0)

    @cached_property
    def eos_ids(self) -> frozenset[int]:
        """Ids that end a turn whatever was written."""
        ids = {self.tokenizer.eos_token_id}
        configured = getattr(self.model.generation_config, "eos_token_id", None)
        ids.update(configured if isinstance(configured, list) else [configured])
        return frozenset(int(i) for i in ids if i is not None)

    @cached_property
    def closing_ids(self) -> frozenset[int]:
        """Ids whose text holds a `>`: only after these can a stop tag be complete."""
        pieces = self.tokenizer.convert_ids_to_tokens(list(range(len(self.tokenizer))))
        return frozenset(i for i, piece in enumerate(pieces) if piece is not None and ">" in str(piece))

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of text that some other party wrote."""
        # Lengths are checked against the context elsewhere: the tokenizer need not warn of them.
        return tuple(self.tokenizer.encode(text, add_special_tokens=False, verbose=False))

    def encode_prompt(self, prompt: str) -> tuple[int, ...]:
        """Ids of the first observation: in the chat template if `chat`, else with the tokenizer's own BOS, if any."""
        if self.chat:
            messages = [{"role": "user", "content": prompt}]
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            return self.encode(text)
        return tuple(self.tokenizer.encode(prompt, add_special_tokens=True))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of a completion, without a final end-of-sequence token."""
        ids = list(ids)
        if ids and ids[-1] in self.eos_ids:
            ids.pop()
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def ends_turn(self, ids: Sequence[int]) -> bool:
        """Whether a completion is finished by its last token: end of sequence, or the end of an action tag."""
        last = ids[-1]
        if last in self.eos_ids:
            return True
        if last not in self.closing_ids:
            return False
        tail = self.decode(ids[-TAIL_TOKENS:])
        return any(tag in tail for tag in STOP_TAGS)

    def token_span(self, ids: Sequence[int], start: int, end: int) -> tuple[int, int]:
        """Tokens that hold characters [start, end) of `decode(ids)`, as [first, last).

        By bisection over the lengths of decoded prefixes, which works for any tokenizer.
        """
        if end <= start:
            return 0, 0

        def tokens_until(characters: int) -> int:
            """Fewest tokens whose text has at least `characters` complete characters."""
            low, high = 0, len(ids)
            while low < high:
                middle = (low + high) // 2
                if len(self.decode(ids[:middle]).rstrip("\ufffd")) >= characters:
                    high = middle
                else:
                    low = middle + 1
            return low

        # The first bytes of a character belong to it, and so does a token that glues a tag to it.
        return min(tokens_until(start), tokens_until(start + 1) - 1), tokens_until(end)

    def hidden_states(self, ids_BT: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Last hidden states [B, T, width]; `kwargs` go to the transformer (masks, positions, cache)."""
        states: torch.Tensor = self.model.base_model(input_ids=ids_BT, **kwargs).last_hidden_state
        return states

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [..., V] in float32 of hidden states [..., width]."""
        logits: torch.Tensor = self.model.get_output_embeddings()(hidden).float()
        cap = getattr(self.model.config, "final_logit_softcapping", None)
        return torch.tanh(logits / cap) * cap if cap else logits

    def token_logprobs(
        self, ids_BT: torch.Tensor, mask_BT: torch.Tensor, temperature: float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-prob and entropy of each masked token given all before it; both [n], n masked tokens in row order.

        Rows are padded on the right, which causal attention never looks at. Only masked positions reach the
        vocabulary. The first token of a row has nothing before it and can't be masked.
        """
        return self.logprobs_of(self.hidden_states(ids_BT), ids_BT, mask_BT, temperature)

    def logprobs_of(
        self, hidden_BT: torch.Tensor, ids_BT: torch.Tensor, mask_BT: torch.Tensor, temperature: float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`token_logprobs` of hidden states [B, T, width] that were computed before."""
        logps = torch.log_softmax(self.logits(hidden_BT[:, :-1][mask_BT[:, 1:]]) / temperature, dim=-1)
        chosen = logps.gather(-1, ids_BT[:, 1:][mask_BT[:, 1:]].unsqueeze(-1)).squeeze(-1)
        return chosen, -(logps.exp() * logps).sum(-1)

    def attention_mask(self, visible: torch.Tensor) -> torch.Tensor:
        """A boolean mask [B, 1, queries, keys], True where a query may look, as this model's attention takes it."""
        if getattr(self.model.config, "_attn_implementation", "") != "eager":
            return visible
        floor = torch.finfo(self.model.dtype).min
        return torch.where(visible, 0.0, floor).to(self.model.dtype)
