"""Prefixes of queries and passages: which ones an encoder uses, and where they are from.

The first of these sources that says something decides, for queries and for passages separately:

    1. what the user gave, an empty string included
    2. the model's own prompts, in `config_sentence_transformers.json`
    3. `FAMILIES`, by the exact name of the model
    4. none

A folder has the name of its last part; a folder of the Hugging Face cache has the name of its repository. A model that
was fine-tuned from a known one under another name gets no prefix of its base, since many are trained without; the
description of its prefixes names the base, so that its user can decide.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrievers.reading import FileError, read_json_object, read_text

PROMPTS = "config_sentence_transformers.json"

# Names of prompts, most specific to retrieval last; compared in lower case with "_" for ".", "-" and " ".
QUERY_KEYS = ("query", "retrieval_query", "search_query", "s2p_query", "web_search_query", "queries")
PASSAGE_KEYS = (
    *("document", "passage", "corpus", "retrieval_document", "retrieval_passage", "search_document", "search_passage"),
    *("s2p_document", "s2p_passage", "documents", "passages"),
)

_SEARCH = "Represent this sentence for searching relevant passages: "
_WEB = "Instruct: Given a web search query, retrieve relevant passages that answer the query"
_GEMMA = "<instruct>Given a web search query, retrieve relevant passages that answer the query.\n<query>"

# Owner, pattern of the whole name, query prefix, passage prefix. From the model cards.
FAMILIES = (
    ("intfloat", r"e5-(small|base|large)(-v2|-unsupervised)?", "query: ", "passage: "),
    ("intfloat", r"multilingual-e5-(small|base|large)", "query: ", "passage: "),
    ("intfloat", r"multilingual-e5-large-instruct|e5-mistral-7b-instruct", f"{_WEB}\nQuery: ", ""),
    ("baai", r"bge-(small|base|large)-en(-v1\.5)?", _SEARCH, ""),
    ("baai", r"bge-(small|base|large)-zh(-v1\.5)?", "为这个句子生成表示以用于检索相关文章：", ""),
    ("baai", r"bge-m3(-unsupervised|-retromae)?|bge-large-zh-noinstruct", "", ""),
    ("baai", r"bge-multilingual-gemma2|bge-en-icl", _GEMMA, ""),
    ("nomic-ai", r"nomic-embed-text-v1(\.5|-unsupervised|-ablated)?", "search_query: ", "search_document: "),
    ("nomic-ai", r"nomic-embed-text-v2-moe(-unsupervised)?", "search_query: ", "search_document: "),
    ("nomic-ai", r"modernbert-embed-base(-unsupervised)?", "search_query: ", "search_document: "),
    ("lightonai", r"modernbert-embed-large(-unsupervised)?", "search_query: ", "search_document: "),
    ("thenlper", r"gte-(small|base|large)(-zh)?", "", ""),
    ("alibaba-nlp", r"gte-(base|large)-en-v1\.5|gte-multilingual-base|gte-modernbert-base", "", ""),
    ("alibaba-nlp", r"gte-qwen2-(1\.5b|7b)-instruct|gte-qwen1\.5-7b-instruct", f"{_WEB}\nQuery: ", ""),
    ("snowflake", r"snowflake-arctic-embed-(xs|s|m|m-long|l|m-v1\.5)", _SEARCH, ""),
    ("snowflake", r"snowflake-arctic-embed-(m|l)-v2\.0", "query: ", ""),
    ("mixedbread-ai", r"mxbai-embed-(large|2d-large)-v1", _SEARCH, ""),
    ("mixedbread-ai", r"deepset-mxbai-embed-de-large-v1", "query: ", "passage: "),
    ("whereisai", r"uae-large-v1", _SEARCH, ""),
    (
        "google",
        r"embeddinggemma-300m(-qat-q[48]_0-unquantized)?",
        "task: search result | query: ",
        "title: none | text: ",
    ),
    ("qwen", r"qwen3-embedding-(0\.6b|4b|8b)", f"{_WEB}\nQuery:", ""),
    ("novasearch|dunzhang", r"stella_en_(400m|1\.5b)_v5", f"{_WEB}.\nQuery: ", ""),
    ("sentence-transformers", r"all-(minilm-l(6|12)|mpnet-base|distilroberta|roberta-large)-v[12]", "", ""),
    ("sentence-transformers", r"(multi-qa|msmarco|paraphrase|gtr-t5|sentence-t5|static)-.+", "", ""),
    ("minishlab", r"potion-.+", "", ""),
    ("facebook", r"contriever(-msmarco)?", "", ""),
    ("ibm-granite", r"granite-embedding-.+", "", ""),
)
PASSAGE_PREFIXES = ("", *dict.fromkeys(passage for *_, passage in FAMILIES if passage))


@dataclass(frozen=True)
class Prefix:
    """A prefix and the source that it is from."""

    text: str
    source: str

    def __str__(self) -> str:
        return f"{self.text!r} ({self.source})" if self.text else f"none ({self.source})"


@dataclass(frozen=True)
class Prefixes:
    """The prefixes of an encoder. `hint`: what its user may have to decide; "" for nothing."""

    query: Prefix
    passage: Prefix
    hint: str = ""

    def __str__(self) -> str:
        return f"prefix of queries: {self.query}; of passages: {self.passage}" + (f"; {self.hint}" if self.hint else "")


def prefixes_of(name: str) -> tuple[str, str]:
    """Query and passage prefix of a known model, by its name or folder; empty ones for an unknown one."""
    return _known(full_name(name)) or ("", "")


def choose_prefixes(name: str, query: str | None, passage: str | None, config: dict[str, Any]) -> Prefixes:
    """The prefixes of a sentence-transformers model.

    Args:
        name: model name or folder.
        query, passage: what the user gave; None for nothing.
        config: content of its `config_sentence_transformers.json`; {} if it has none.
    """
    model, prompts = full_name(name), own_prompts(config)
    known = _known(model)
    chosen = []
    for side, (given, keys) in enumerate(((query, QUERY_KEYS), (passage, PASSAGE_KEYS))):
        key = next((key for wanted in keys for key in prompts if re.sub(r"[-. ]", "_", key.lower()) == wanted), None)
        if given is not None:
            chosen.append(Prefix(given, "given"))
        elif key is not None:
            chosen.append(Prefix(prompts[key], f"the model's prompt {key!r}"))
        elif known is not None:
            chosen.append(Prefix(known[side], f"the model card of {model}"))
        else:
            chosen.append(Prefix("", "the model has no such prompt, and its name is not a known one"))
    undecided = known is None and not any(given is not None for given in (query, passage)) and not any(prompts.values())
    return Prefixes(chosen[0], chosen[1], _hint(Path(name)) if undecided else "")


def own_prompts(config: dict[str, Any]) -> dict[str, str]:
    """The prompts that the author of a model chose.

    sentence-transformers writes empty prompts `query` and `document` to every model that it saves since version 5;
    these two together are no choice. An empty prompt beside another one of these two is, and so is any that was
    written by hand or by an earlier version.
    """
    prompts = config.get("prompts")
    found = {k: v for k, v in prompts.items() if isinstance(v, str)} if isinstance(prompts, dict) else {}
    versions = config.get("__version__")
    version = versions.get("sentence_transformers") if isinstance(versions, dict) else None
    writes_both = isinstance(version, str) and re.match(r"4\.2|[5-9]|\d\d", version) is not None
    if writes_both and found.get("query") == found.get("document") == "":
        return {key: text for key, text in found.items() if key not in ("query", "document")}
    return found


def full_name(name: str) -> str:
    """`owner/name` of a model of the Hugging Face Hub or its cache, in lower case; of another folder its last part."""
    path = Path(name).expanduser()
    is_path = path.is_dir() or name.count("/") > 1 or name.startswith(("/", ".", "~"))
    if not is_path:
        return name.lower()
    resolved = path.resolve()
    for part in (*reversed(path.parts), *reversed(resolved.parts)):
        if cached := re.fullmatch(r"models--([^/]+?)--(.+)", part):
            return f"{cached[1]}/{cached[2]}".lower()
    # ModelScope writes "___" for a dot. A link has the name of the link, unless that of its target alone is known.
    names = [part.replace("___", ".").lower() for part in (path.name, resolved.name) if part]
    return next((part for part in names if _known(part) is not None), names[0] if names else "")


def _known(model: str) -> tuple[str, str] | None:
    owner, _, name = model.rpartition("/")
    for owners, pattern, query, passage in FAMILIES:
        if re.fullmatch(pattern, name) and (not owner or re.fullmatch(owners, owner)):
            return query, passage
    return None


def _hint(folder: Path) -> str:
    """The prefixes of the known model that a folder's files say it was trained from; "" if there is none."""
    for base in _bases(folder):
        known = _known(full_name(base))
        if known is not None and any(known):
            return (
                f"it was made from {base}, which uses {known[0]!r} and {known[1]!r}: if it was trained with these, "
                "pass them as query and passage prefix"
            )
    return ""


def _bases(folder: Path) -> Iterable[str]:
    try:
        front = read_text(folder / "README.md").split("\n---", 1)[0]
        yield from re.findall(r"^base_model:\s*(?:\n?\s*-\s*)?([\w./-]+)", front, re.MULTILINE)
    except FileError:
        pass
    for file, key in (("adapter_config.json", "base_model_name_or_path"), ("config.json", "_name_or_path")):
        try:
            base = read_json_object(folder / file).get(key)
        except FileError:
            continue
        if isinstance(base, str) and base:
            yield base
