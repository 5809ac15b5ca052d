"""What the settings of `env` name: protocol, search engine, questions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from algorithms.common.model.tokenizer import Tokens
from algorithms.common.rollout.truncation import observation_cut
from igsearch_env.errors import ConfigurationError, check_choice, check_literals, check_range
from igsearch_env.protocols.protocol import FAMILIES, Protocol
from igsearch_env.questions import Question, load_questions
from igsearch_env.rewards import OutcomeReward
from igsearch_env.world.bundled import bundled_retriever, bundled_world
from retrievers import Retriever
from retrievers.open import open_retriever


@dataclass(frozen=True)
class EnvConfig:
    """The environment: questions, search engine, protocol."""

    RESUMABLE: ClassVar[frozenset[str]] = frozenset({"max_failure_rate"})

    questions: tuple[str, ...] = ("bundled",)
    """Training questions: `bundled`, or question files."""
    eval_questions: tuple[str, ...] = ("bundled",)
    """Questions to evaluate on: `bundled` (its dev split during training, its test split at the end), or files."""
    corpus: str = "bundled"
    """What to search: `bundled`, a corpus file, an index folder, or the address of a retrieval service."""
    retriever: str = "auto"
    """How: `auto` (a file by BM25), `bm25`, an index folder, an address; several joined by + are fused by rank."""
    rerank: str = ""
    """A cross-encoder that orders what was found anew, by name or folder; none by default."""
    top_k: int = 3
    """Passages a search."""
    max_searches: int = 4
    """Actions before the agent must answer."""
    attempts: int = 1
    """Attempts at each question, with a reflection prompt between them (MR-Search); the last one counts."""
    protocol: str = "search_r1"
    """Tag family: search_r1 or autorefine."""
    prompt: str = "bare"
    """Prompt: a name (search_r1, autorefine, bare), a template with {question}, or @FILE with a template in it."""
    outcome_reward: OutcomeReward = "em"
    """What an answer earns: exact match, F1, or F1 with AutoRefine's 0.1 for a golden answer in a refine block."""
    max_observation_tokens: int | None = None
    """Passages of one search are cut to this many tokens, their tags stay closed (Search-R1: 500). None: never."""
    max_failure_rate: float = 0.2
    """The run stops when more than this share of a step's episodes end by a retrieval failure."""

    def __post_init__(self) -> None:
        for name in ("questions", "eval_questions"):
            if not getattr(self, name):
                raise ConfigurationError(f"env.{name} is empty: name `bundled` or at least one question file")
        check_choice("env.protocol", self.protocol, FAMILIES)
        check_literals(self, "env")
        check_range("env.top_k", self.top_k, 1)
        check_range("env.max_searches", self.max_searches, 1, 100)
        check_range("env.attempts", self.attempts, 1, 100)
        check_range("env.max_failure_rate", self.max_failure_rate, 0, 1)
        if self.max_observation_tokens is not None:
            check_range("env.max_observation_tokens", self.max_observation_tokens, 1)


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
