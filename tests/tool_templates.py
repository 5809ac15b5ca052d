"""Chat templates that describe tools, in the formats of published families, with a tokenizer that has their tokens.

The templates are our own: short, but what surrounds calls, results, reasoning and replies is as the families write it.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

CHATML_TOOLS = (
    "{% if tools %}<|im_start|>system\nTools: {% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n"
    "{% endif %}"
)
HERMES_CALLS = (
    "{% for call in m.tool_calls or [] %}{% if m.content or not loop.first %}\n{% endif %}"
    '<tool_call>\n{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}\n'
    "</tool_call>{% endfor %}"
)
HERMES_RESULT = (
    "{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ m.content }}\n</tool_response><|im_end|>\n"
)
XML_CALLS = (
    "{% for call in m.tool_calls or [] %}<tool_call>\n<function={{ call.function.name }}>\n"
    "{% for key, value in call.function.arguments.items() %}<parameter={{ key }}>\n{{ value }}\n</parameter>\n"
    "{% endfor %}</function>\n</tool_call>{% endfor %}"
)
# Qwen 3: reasoning of the last turns alone; an empty block where the last message has none.
THINKING = "<think>\n{{ (m.reasoning_content or '').strip() }}\n</think>\n\n"
QWEN3_THINKING = f"{{% if loop.last or m.reasoning_content %}}{THINKING}{{% endif %}}"


def chatml(calls: str, *, thinking: str = "", reply: str = "") -> str:
    """A template of the ChatML kind."""
    return (
        f"{CHATML_TOOLS}{{% for m in messages %}}{HERMES_RESULT}{{% elif m.role == 'assistant' %}}"
        f"<|im_start|>assistant\n{thinking}{{{{ m.content }}}}{calls}<|im_end|>\n"
        "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
        f"{{% if add_generation_prompt %}}<|im_start|>assistant\n{reply}{{% endif %}}"
    )


LLAMA3 = (
    "<|begin_of_text|>{% for m in messages %}{% if m.role == 'tool' %}<|start_header_id|>ipython<|end_header_id|>\n\n"
    "{{ m.content }}<|eot_id|>{% elif m.tool_calls is defined %}<|start_header_id|>assistant<|end_header_id|>\n\n"
    "{% if m.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}"
    '{"name": "{{ m.tool_calls[0].function.name }}", "parameters": {{ m.tool_calls[0].function.arguments | tojson }}}'
    "<|eot_id|>{% else %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{% if loop.first and tools %}Functions: {{ tools | tojson }}\n\n{% endif %}{{ m.content | trim }}<|eot_id|>"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
# Gemma 4: a result stands in the model's own turn, whose generation ends with <|tool_response>.
GEMMA4 = (
    "<bos>{% if tools %}<|turn>system\n{% for tool in tools %}<|tool>{{ tool | tojson }}<tool|>{% endfor %}<turn|>\n"
    "{% endif %}{% for m in messages %}{% set before = messages[loop.index0 - 1].role if not loop.first else '' %}"
    "{% if m.role == 'tool' %}response:search{value:<|\"|>{{ m.content }}<|\"|>}<tool_response|>"
    "{% elif m.role == 'assistant' %}{% if before != 'tool' %}<|turn>model\n{% endif %}"
    "{% if m.reasoning_content %}<|channel>thought\n{{ m.reasoning_content }}\n<channel|>{% endif %}{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<|tool_call>call:{{ call.function.name }}{{ '{' }}"
    '{% for key, value in call.function.arguments | dictsort %}{{ key }}:<|"|>{{ value }}<|"|>{% endfor %}}'
    "<tool_call|>{% endfor %}{% if m.tool_calls %}<|tool_response>{% else %}<turn|>\n{% endif %}"
    "{% else %}<|turn>{{ m.role }}\n{{ m.content }}<turn|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt and messages[-1].role != 'tool' %}<|turn>model\n"
    "{% elif add_generation_prompt and enable_thinking %}<|channel>thought\n{% endif %}"
)
# gpt-oss: channels; the last message ends with <|return|>, those before it with <|end|>.
HARMONY = (
    "<|start|>system<|message|>{% if tools %}{{ tools | tojson }}{% endif %}<|end|>{% for m in messages %}"
    "{% if m.role == 'tool' %}<|start|>functions.search to=assistant<|channel|>commentary<|message|>"
    "{{ m.content | tojson }}<|end|>{% elif m.role == 'assistant' %}"
    "{% if m.thinking %}<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{% endif %}"
    "{% if m.tool_calls is defined %}<|start|>assistant to=functions.{{ m.tool_calls[0].function.name }}"
    "<|channel|>commentary json<|message|>{{ m.tool_calls[0].function.arguments | tojson }}<|call|>"
    "{% else %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}"
    "{% if loop.last and not add_generation_prompt %}<|return|>{% else %}<|end|>{% endif %}{% endif %}"
    "{% else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
LFM = (
    "{% if tools %}<|im_start|>system\nList of tools: {{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% if m.tool_calls is defined %}<|tool_call_start|>[{% for call in m.tool_calls %}"
    "{% for key, value in call.function.arguments.items() %}"
    "{{ call.function.name }}({{ key }}='{{ VALUE }}'){% endfor %}{% endfor %}]<|tool_call_end|>{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

TEMPLATES = {
    "qwen2.5": chatml(HERMES_CALLS),
    "qwen3": chatml(HERMES_CALLS, thinking=QWEN3_THINKING),
    "qwen3.5": chatml(XML_CALLS, thinking=THINKING, reply="<think>\n"),
    "llama3": LLAMA3,
    "gemma4": GEMMA4,
    "gpt-oss": HARMONY,
    "lfm2": LFM.replace("{{ VALUE }}", "{{ value }}"),
    "lfm2.5": LFM.replace("VALUE", "value | replace('\\\\', '\\\\\\\\') | replace(\"'\", \"\\\\'\")"),
    # Without tools: SmolLM2, Gemma 3.
    "smollm2": (
        "{% for m in messages %}{% if loop.first and m.role != 'system' %}"
        "<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
        "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "gemma3": (
        "<bos>{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}"
        "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
        "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
}
# Those whose rendering of a whole conversation begins with that of its beginning.
STABLE = ("qwen2.5", "qwen3.5", "llama3", "gemma4", "gpt-oss", "lfm2", "lfm2.5", "smollm2", "gemma3")
FORMATS = {
    **{"qwen2.5": "json", "qwen3": "json", "qwen3.5": "xml", "llama3": "bare_json", "gemma4": "gemma"},
    **{"gpt-oss": "harmony", "lfm2": "python", "lfm2.5": "python", "smollm2": "json", "gemma3": "json"},
}
_SPECIAL = re.compile(r"<\|\w+\|?>|<\w+\|>|<(?:start|end)_of_turn>|<bos>")


def tool_tokenizer(family: str) -> Any:
    """A byte-level tokenizer of transformers with the template of a family and its special tokens."""
    return template_tokenizer(TEMPLATES[family])


@cache
def template_tokenizer(template: str) -> Any:
    """A byte-level tokenizer of transformers with a template and its special tokens."""
    own = Tokenizer(BPE())
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    texts = ["search the query in the passages", "the answer is in the document", template]
    own.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False))
    special = dict.fromkeys([*_SPECIAL.findall(template), "<|endoftext|>"])
    own.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    return PreTrainedTokenizerFast(tokenizer_object=own, eos_token="<|endoftext|>", chat_template=template)
