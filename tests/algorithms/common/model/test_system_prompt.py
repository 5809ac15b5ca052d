"""The system part of a prompt: in the system role of a chat template, else before the prompt."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizer_shapes import FAMILIES, shaped

from algorithms.common.model.chat_template import ChatTemplate
from algorithms.common.model.tokenizer import PolicyTokenizer
from igsearch_env.errors import ConfigurationError

SYSTEM = "Answer in one word.\nUse the search engine, Zoë."
PROMPT = "Which river flows through London?\n"
# Each template with what it makes of a system message, like published ones: in a turn of its own (ChatML), put before
# the user's text (Mistral, Llama 2), stripped (Llama 3).
TEMPLATES = {
    "own turn": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "before the user": "{% if messages[0].role == 'system' %}{% set s = messages[0].content + '\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set s = '' %}{% endif %}{% for m in messages %}"
    "[{{ m.role }}] {{ (s if loop.first else '') + m.content }} [end] {% endfor %}",
    "stripped": "{% for m in messages %}# {{ m.role }}\n{{ m.content | trim }}\n{% endfor %}# assistant\n",
}
REJECTS = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}"
DROPS = "{% for m in messages %}{% if m.role != 'system' %}{{ m.role }}: {{ m.content }}\n{% endif %}{% endfor %}"


def with_template(template: str, family: str = "qwen2.5") -> Any:
    """The family's tokenizer with another chat template."""
    import copy

    tokenizer = copy.deepcopy(shaped(family))
    tokenizer.chat_template = template
    return tokenizer


def rendered(tokenizer: Any, system: str, prompt: str) -> str:
    """The two messages by transformers' own call."""
    messages = [{"role": "system", "content": system}, {"role": "user", "content": prompt}]
    return str(
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **ChatTemplate().variables)
    )


def hostile(tokens: PolicyTokenizer) -> str:
    """A text that names every special token."""
    return f"Use {' or '.join(tokens.hf_tokenizer.convert_ids_to_tokens(sorted(tokens.control_ids)))} now."


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("family", ["qwen2.5", "llama3"])
def test_in_the_system_role_of_a_chat_template(name: str, family: str) -> None:
    tokenizer = with_template(TEMPLATES[name], family)
    tokens = PolicyTokenizer(tokenizer, chat=True)
    ids = tokens.encode_prompt(PROMPT, SYSTEM)
    expected = tuple(tokenizer.encode(rendered(tokenizer, SYSTEM, PROMPT), add_special_tokens=False))
    assert ids[-len(expected) :] == expected
    assert len(ids) - len(expected) <= 1  # BOS
    assert ids != tokens.encode_prompt(PROMPT)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("place", ["system", "prompt", "both"])
def test_names_of_special_tokens_are_spelled_out(name: str, place: str) -> None:
    tokens = PolicyTokenizer(with_template(TEMPLATES[name]), chat=True)
    bad = hostile(tokens)
    system, prompt = SYSTEM if place == "prompt" else bad, PROMPT if place == "system" else bad
    ids = tokens.encode_prompt(prompt, system)
    plain = tokens.encode_prompt(PROMPT, SYSTEM)
    assert [i for i in ids if i in tokens.control_ids] == [i for i in plain if i in tokens.control_ids]
    assert tokens.decode_whole(ids) == rendered(tokens.hf_tokenizer, system, prompt)


@pytest.mark.parametrize("family", FAMILIES)
def test_before_the_prompt_without_a_chat_template(family: str) -> None:
    tokens = PolicyTokenizer(shaped(family))
    assert tokens.encode_prompt(PROMPT, SYSTEM) == tokens.encode_prompt(f"{SYSTEM}\n\n{PROMPT}")
    assert tokens.encode_prompt(PROMPT, "") == tokens.encode_prompt(PROMPT)


@pytest.mark.parametrize(
    ("template", "said"),
    [(REJECTS + "{% endif %}{{ m.content }}{% endfor %}", "System role not supported"), (DROPS, "drops the message")],
    ids=["rejects", "drops"],
)
def test_a_template_without_a_system_role_is_refused(template: str, said: str) -> None:
    tokens = PolicyTokenizer(with_template(template), chat=True)
    assert tokens.encode_prompt(PROMPT)
    with pytest.raises(
        ConfigurationError,
        match=rf"env.system_prompt='Answer in one word.*{said}.*beginning of the template of env.prompt",
    ):
        tokens.encode_prompt(PROMPT, SYSTEM)
