"""What the settings of `env` name: protocol, search engine, questions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from algorithms.common.config import EnvConfig
from algorithms.common.tokens import Tokens
from algorithms.common.truncation import observation_cut
from igsearch_env.errors import ConfigurationError
from igsearch_env.protocol import Protocol
from igsearch_env.questions import Question, load_questions
from igsearch_env.world.bundled import bundled_retriever, bundled_world
from retrievers import Retriever
from retrievers.open import open_retriever


def make_protocol(config: EnvConfig, tokens: Tokens | None = None) -> Protocol:
    """The protocol of a configuration; `tokens` counts what a search may show."""
    if config.prompt.startswith("@"):
        protocol = Protocol.from_file(config.protocol, config.prompt[1:])
    else:
        protocol = Protocol(config.protocol, config.prompt)
    if config.max_observation_tokens is None or tokens is None:
        return protocol
    return dataclasses.replace(protocol, cut=observation_cut(tokens, config.max_observation_tokens))


def make_retriever(corpus: str, retriever: str = "auto", rerank: str = "") -> Retriever:
    """The search engine of a configuration: BM25 over the bundled world, or what `open_retriever` opens."""
    if corpus != "bundled":
        return open_retriever(corpus, retriever, rerank)
    if retriever not in ("auto", "bm25") or rerank:
        raise ConfigurationError(
            f"retriever={retriever!r}, rerank={rerank!r}: the bundled corpus is searched by BM25 alone; "
            "give a corpus file or an index folder, or neither option"
        )
    return bundled_retriever()


def make_questions(sources: Sequence[str], split: str) -> list[Question]:
    """The questions of a configuration; `split` is of the bundled world alone."""
    questions: list[Question] = []
    for source in sources:
        questions += bundled_world().questions[split] if source == "bundled" else load_questions(source)
    return questions
