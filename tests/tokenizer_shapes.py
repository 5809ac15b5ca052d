"""Tokenizers of the shape of published families, trained in a second on a page of text.

Their special tokens, normalisers, pre-tokenizers, decoders, post-processors and chat templates are those of Qwen2.5,
Llama 3, Gemma and Llama 2; the vocabularies are small. The templates are our own, in the published format.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from models import tokenizer as bundled_tokenizer
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from igsearch_env.protocols import PROMPTS, Invalid, make_protocol
from retrievers import Passage

FAMILIES = ("qwen2.5", "llama3", "gemma", "llama2")  # Llama 2's kind adds and strips a space at the start of a text
BYTE_LEVEL = ("qwen2.5", "llama3", "bundled")
MERGES = 1200

PROSE = """Ada Lovelace was born in London in 1815. The river Thames flows through London into the North Sea.
Who wrote The Silent River? The novel was written by Alan Brin, who was born in Tolona, a city in Veria.
La rivière traverse la ville. Der Fluss fließt nach Norden. El río cruza la ciudad. São Paulo, Zürich, Kraków.
東京は日本の首都です。北京是中国的首都。 Москва стоит на реке. القاهرة مدينة كبيرة. תל אביב היא עיר.
It was 1990, 12345 people lived there; 3.14159 and 1,000,000 are numbers. He said: "no", and she said 'yes'.
def f(x): return x > 0 and x < 10\n\tif x:\n\t\treturn {"a": [1, 2]}\n\n\nnaïve café, coöperate, Ångström.
"""
TURNS = """<think> I need the birthplace. </think> <search> Ada Lovelace birthplace </search>
<think>The river?</think>\n<search>river of London</search>
<refine> London lies on the Thames. </refine>\n<answer> London </answer>
<answer>London</answer></search>Hello</search>\n\n<search>x</search><answer>y</answer>
"""


def corpus() -> list[str]:
    """Texts to learn merges from: prose, what the protocol says, tags in several surroundings."""
    protocol = make_protocol()
    passages = [Passage(f"p{i}", "Ada Lovelace", line) for i, line in enumerate(PROSE.splitlines())]
    said = [protocol.observation(passages), protocol.last_call(), protocol.correction(Invalid("Write one of the two."))]
    return [*PROMPTS.values(), *said, PROSE, *[TURNS] * 4]


# ---------------------------------------------------------------- byte-level BPE


DIGITS = {"qwen2.5": r"\p{N}", "llama3": r"\p{N}{1,3}"}
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(family: str, special: list[str]) -> Tokenizer:
    """Byte-level BPE with the family's pre-tokenizer; the special tokens come after the vocabulary."""
    own = Tokenizer(BPE(ignore_merges=family == "llama3"))
    if family == "qwen2.5":
        own.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(WORDS.replace("DIGITS", DIGITS[family])), "isolated")
    own.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    own.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    own.train_from_iterator(
        corpus(),
        trainers.BpeTrainer(vocab_size=256 + MERGES, initial_alphabet=alphabet, show_progress=False),
    )
    own.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return own


def qwen() -> Any:
    """Qwen2.5: no BOS; a base model ends with <|endoftext|>, which pads too; turns end with <|im_end|>."""
    own = byte_level("qwen2.5", ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    own.post_processor = processors.ByteLevel(trim_offsets=False)
    template = (
        "{% if messages[0].role != 'system' %}<|im_start|>system\n"
        "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n{% endif %}"
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=own, eos_token="<|endoftext|>", pad_token="<|endoftext|>", chat_template=template
    )


def llama3() -> Any:
    """Llama 3: BOS by the post-processor and by the template, turns end with <|eot_id|>, no padding token."""
    headers = ["<|start_header_id|>", "<|end_header_id|>"]
    own = byte_level("llama3", ["<|begin_of_text|>", "<|end_of_text|>", *headers, "<|eom_id|>", "<|eot_id|>"])
    bos = "<|begin_of_text|>"
    own.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{bos} $A", pair=f"{bos} $A {bos} $B:1", special_tokens=[(bos, own.token_to_id(bos))]
            ),
        ]
    )
    template = (
        "{% set date = date_string if date_string is defined else strftime_now('%d %b %Y') %}"
        "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
        "Today Date: {{ date }}\n\n<|eot_id|>"
        "{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n"
        "{{ message.content | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=own, bos_token=bos, eos_token="<|end_of_text|>", chat_template=template
    )


# ---------------------------------------------------------------- pieces with byte fallback


def pieces(special: list[str], texts: list[str]) -> BPE:
    """BPE over text whose spaces are U+2581: special tokens, then all bytes, then what was learnt."""
    learner = Tokenizer(BPE())
    learner.normalizer = normalizers.Replace(" ", "▁")
    learner.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    # Rare characters have no piece of their own: their bytes stand for them.
    counts = Counter("".join(texts))
    frequent = ["".join(c for c in text if counts[c] > 3) for text in texts]
    learner.train_from_iterator(frequent, trainers.BpeTrainer(vocab_size=MERGES, show_progress=False))
    learnt = json.loads(learner.to_str())["model"]
    names = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *learnt["vocab"]]
    merges = [tuple(merge) for merge in learnt["merges"]]
    return BPE(
        {name: i for i, name in enumerate(dict.fromkeys(names))},
        merges,
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )


def gemma() -> Any:
    """Gemma: BOS by the tokenizer and by the template, which has no system role; turns end with <end_of_turn>."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]
    own = Tokenizer(pieces(special, corpus()))
    own.normalizer = normalizers.Replace(" ", "▁")
    own.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    own.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    own.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    own.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos>:1 $B:1", special_tokens=[("<bos>", own.token_to_id("<bos>"))]
    )
    template = (
        "{{ bos_token }}{% for message in messages %}"
        "{% if message.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}"
        "{% endif %}<start_of_turn>{{ 'model' if message.role == 'assistant' else message.role }}\n"
        "{{ message.content | trim }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=own,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        chat_template=template,
    )


def llama2() -> Any:
    """Llama 2 and Mistral: a space is put before every text encoded and taken from every text decoded."""
    special = ["<unk>", "<s>", "</s>"]
    own = Tokenizer(pieces(special, [text.replace("\n", " ") for text in corpus()]))  # a line break is a byte
    own.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    own.decoder = decoders.Sequence(steps)
    own.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    own.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", own.token_to_id("<s>"))]
    )
    template = (
        "{% for message in messages %}{% if message.role == 'user' %}"
        "{{ bos_token }}[INST] {{ message.content | trim }} [/INST]"
        "{% else %} {{ message.content | trim }} {{ eos_token }}{% endif %}{% endfor %}"
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=own, bos_token="<s>", eos_token="</s>", unk_token="<unk>", chat_template=template
    )


# ---------------------------------------------------------------- what a test asks of them


@dataclass(frozen=True)
class Marks:
    """The special tokens of a family, and what its generation_config.json says ends a text."""

    bos: str | None
    turn_end: str
    configured: tuple[str, ...]


MARKS = {
    "qwen2.5": Marks(None, "<|im_end|>", ("<|endoftext|>",)),
    "llama3": Marks("<|begin_of_text|>", "<|eot_id|>", ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")),
    "gemma": Marks("<bos>", "<end_of_turn>", ("<eos>", "<end_of_turn>")),
    "llama2": Marks("<s>", "</s>", ("</s>",)),
}
BUILDERS: dict[str, Callable[[], Any]] = {
    "qwen2.5": qwen,
    "llama3": llama3,
    "gemma": gemma,
    "llama2": llama2,
    "bundled": bundled_tokenizer,
}


@cache
def shaped(family: str) -> Any:
    """The tokenizer of a family, made once; copy it before changing it."""
    return BUILDERS[family]()


@cache
def bytes_of(family: str) -> dict[int, bytes]:
    """What each token but the special ones stands for, by the published meaning of pieces."""
    tokenizer = shaped(family)
    added = {i: token.content for i, token in tokenizer.added_tokens_decoder.items()}
    special = set(tokenizer.all_special_ids) | {
        i for i, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    # GPT-2's alphabet: printable bytes of Latin-1 are themselves, the others follow from U+0100 on.
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}
    meaning: dict[int, bytes] = {}
    for piece, i in tokenizer.get_vocab().items():
        if i in special:
            continue
        if i in added:
            meaning[i] = added[i].encode()
        elif family in BYTE_LEVEL:
            meaning[i] = bytes(letters[letter] for letter in piece)
        elif len(piece) == 6 and piece.startswith("<0x"):
            meaning[i] = bytes([int(piece[3:5], 16)])
        else:
            meaning[i] = piece.replace("▁", " ").encode()
    return meaning
