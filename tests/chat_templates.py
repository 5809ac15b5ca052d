"""Tiny policies with a chat template."""

from __future__ import annotations

import copy

from models import tiny_model, tokenizer

from algorithms.common.model.policy import Policy

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


LLAMA = (
    "<|begin|>{% for message in messages %}[{{ message.role }}]{{ message.content | trim }}"
    "{% if message.role == 'assistant' %}<|im_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def chat_policy(template: str) -> Policy:
    """A tiny policy whose tokenizer has a chat template, ended by tokens of its own."""
    own = copy.deepcopy(tokenizer())
    own.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    own.eos_token = "<|im_end|>"
    own.chat_template = template
    model = tiny_model()
    model.resize_token_embeddings(len(own), mean_resizing=False)
    return Policy(model, own, chat=True)
