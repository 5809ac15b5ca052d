"""The section `env` of a configuration, and the rules, retriever and questions that it selects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

from algorithms.common.model.tokenizer import PolicyTokenizer
from algorithms.common.rollout.truncation import ObservationCut
from igsearch_env.errors import ConfigurationError, QuestionError, check_choice, check_literals, check_range
from igsearch_env.opening import check_bundled
from igsearch_env.protocols import PROTOCOLS, ToolCalls, make_protocol
from igsearch_env.question_sources import LocalSource
from igsearch_env.questions import Question, load_questions
from igsearch_env.rewards import OutcomeReward
from igsearch_env.rules import EpisodeRules, check_limits
from igsearch_env.world.bundled import check_same_world, is_world, named_retriever, named_world, world_of
from igsearch_env.world.options import BUNDLED
from retrievers import Retriever, RetrieverError
from retrievers.credentials import MaskedRepr, split
from retrievers.engines.source import is_engine
from retrievers.open import check_source, open_retriever
from retrievers.service.wire import is_address


@dataclass(frozen=True)
class EpisodeConfig(MaskedRepr):
    """The rules of an episode, in both training and evaluation."""

    SECTION: ClassVar[str] = ""
    """Section of the configuration, for messages."""

    top_k: int = 3
    """Passages per search."""
    max_searches: int = 4
    """Maximum number of actions before the agent must answer."""
    attempts: int = 1
    """Attempts at each question, with a reflection prompt between them (MR-Search); the last one counts."""
    protocol: str = "search_r1"
    """Format of actions and observations: search_r1, autorefine, or tool_calls (of the chat template)."""
    prompt: str = "bare"
    """Prompt: a name (search_r1, autorefine, tool_calls, bare), a template with {question}, or @FILE with one in it."""
    system_prompt: str = ""
    """System part of the prompt, or @FILE with it: in the system role of the chat template with policy.chat, else
    before the prompt."""
    max_observation_tokens: int | None = None
    """Truncate the passages of a search to this many tokens; tags stay closed (Search-R1: 500). None: no limit."""

    def __post_init__(self) -> None:
        prefix = f"{self.SECTION}." if self.SECTION else ""
        check_choice(f"{prefix}protocol", self.protocol, PROTOCOLS)
        check_limits(self.top_k, self.max_searches, self.attempts, self.SECTION)
        if self.max_observation_tokens is not None:
            check_range(f"{prefix}max_observation_tokens", self.max_observation_tokens, 1)


@dataclass(frozen=True)
class EnvConfig(EpisodeConfig):
    """The environment: questions, search engine, protocol."""

    SECTION: ClassVar[str] = "env"

    RESUMABLE: ClassVar[frozenset[str]] = frozenset({"max_failure_rate"})

    questions: tuple[str, ...] = (BUNDLED,)
    """Training questions: `bundled`, a generated world (`world:hard`, `world:depth=4,noise=0.1`), or question files."""
    eval_questions: tuple[str, ...] = (BUNDLED,)
    """Questions to evaluate on before and after training: `bundled` (of the world of `questions`: its test split), or
    files."""
    dev_questions: tuple[str, ...] = ()
    """Questions to evaluate on during training, like eval_questions. Empty: eval_questions (a world: its dev split)."""
    corpus: str = BUNDLED
    """Corpus to search: `bundled` (the world of `questions`), a corpus file, an index folder, or the address of a
    retrieval service."""
    retriever: str = "auto"
    """Search backend: `auto` (BM25 for a file), `bm25`, an index folder or an address; several joined by + are combined
    by rank fusion."""
    rerank: str = ""
    """Cross-encoder that reranks the passages, by name or folder. Empty: none."""
    outcome_reward: OutcomeReward = "em"
    """Reward of an answer: exact match, F1, or F1 with AutoRefine's 0.1 for a golden answer in a refine block."""
    max_failure_rate: float = 0.2
    """The run stops if retrieval fails in more than this fraction of a step's episodes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("questions", "eval_questions"):
            if not getattr(self, name):
                raise ConfigurationError(f"env.{name} is empty: name `bundled` or at least one question file")
        world = world_of(self.questions)
        if world is not None:
            for name, own in (("corpus", world), ("eval_questions", (world,))):
                if getattr(self, name) in (BUNDLED, (BUNDLED,)):
                    object.__setattr__(self, name, own)
        for name in ("questions", "eval_questions", "dev_questions"):
            check_same_world(getattr(self, name), self.corpus, "env.", name)
        check_literals(self, "env")
        check_range("env.max_failure_rate", self.max_failure_rate, 0, 1)


def make_rules(
    config: EpisodeConfig, tokenizer: PolicyTokenizer | None = None, outcome_reward: str = "em"
) -> EpisodeRules:
    """The rules of a configuration. `tokenizer`: that of the policy; None for scripted policies.

    Raises `ConfigurationError` if the tokenizer can't represent the protocol's tags or tool calls, or its chat template
    takes no system part.
    """
    cut = None
    if tokenizer is not None and config.max_observation_tokens is not None:
        cut = ObservationCut(tokenizer, config.max_observation_tokens)
    protocol = make_protocol(config.protocol, config.prompt, cut, config.system_prompt)
    if tokenizer is not None:
        if protocol.system:
            tokenizer.encode_prompt("?", protocol.system)  # raises if the chat template takes no system part
        tokenizer.check_markers(protocol.markers)
        if isinstance(protocol, ToolCalls):
            protocol = replace(protocol, format=tokenizer.use_tools(protocol.tools))
    return EpisodeRules(config.top_k, config.max_searches, config.attempts, protocol, outcome_reward)


def make_retriever(corpus: str, retriever: str = "auto", rerank: str = "") -> Retriever:
    """The search engine of a configuration: BM25 over a generated world, or what `open_retriever` opens."""
    if not is_world(corpus):
        return open_retriever(corpus, retriever, rerank)
    if retriever not in ("auto", "bm25") or rerank:
        raise ConfigurationError(
            f"retriever={retriever!r}, rerank={rerank!r}: the {corpus} corpus supports only BM25; "
            "give a corpus file or an index folder, or neither option"
        )
    return named_retriever(corpus)


def check_world(questions: Sequence[Question] | None, corpus: str | None, prefix: str = "--") -> None:
    """Raise `ConfigurationError` if the questions would be asked about passages that do not answer them.

    Args:
        questions: those that a command names; None: those of the bundled world, by default.
        corpus: the corpus that it names, which may be `bundled`; None: that of the bundled world, by default.
        prefix: of the two options, in messages.
    """
    if questions is None and corpus not in (None, "bundled"):
        raise ConfigurationError(
            f"{prefix}corpus {corpus} is given but no questions, and those of the bundled world are not about it: "
            f"give {prefix}questions, too"
        )
    if questions is not None and corpus is None:
        check_bundled(questions, f"give {prefix}corpus, ")


def check_named_world(config: EnvConfig, words: Sequence[str]) -> None:
    """`check_world` for the section `env` of the command line `words`, those of a configuration file included."""
    named = {word.partition("=")[0].replace("_", "-") for word in words}
    corpus = config.corpus if "--env.corpus" in named or config.corpus != BUNDLED else None
    questions: Sequence[Question] | None = None
    if "--env.questions" in named:
        questions = make_questions(config.questions, "train", "env.questions") if corpus is None else ()
    check_world(questions, corpus, "--env.")


def make_questions(sources: Sequence[str], split: str, option: str = "") -> list[Question]:
    """The questions of a configuration; `split` applies to generated worlds only. `option`: named in errors."""
    questions: list[Question] = []
    for source in sources:
        try:
            questions += named_world(source).questions[split] if is_world(source) else _loaded(source, _state(source))
        except QuestionError as error:
            if not option:
                raise
            raise QuestionError(f"{option}: {error}{_MAKE if 'no such file' in str(error) else ''}") from error
    return questions


@lru_cache(maxsize=16)
def _loaded(source: str, state: object) -> list[Question]:
    """The questions of a source, read once: a command checks them before anything that is slow, and uses them later."""
    return load_questions(source)


def _state(source: str) -> object:
    """What changes when the file of a source does; of a folder or the Hub something new, so that it is read again."""
    path = Path(source) if source.startswith("hf:") else LocalSource.read(source).path
    if not path.is_file():
        return object()
    found = path.stat()
    return str(path.resolve()), found.st_size, found.st_mtime_ns


def check_questions(sources: Sequence[str], split: str, option: str) -> list[Question]:
    """Raise as `make_questions` would, for files; folders and the Hub, which may take long, are only looked for.

    Returns the questions of the files.
    """
    read: list[Question] = []
    for source in sources:
        try:
            path = None if is_world(source) or source.startswith("hf:") else LocalSource.read(source).path
        except QuestionError as error:
            raise QuestionError(f"{option}: {error}") from error
        if path is not None and not path.is_dir():
            read += make_questions([source], split, option)
    return read


def check_corpus(corpus: str, retriever: str, prefix: str = "") -> None:
    """Raise `ConfigurationError` if a corpus or an index is not there, or of no known format; none is read whole.

    Args:
        corpus: value of `env.corpus`.
        retriever: value of `env.retriever`.
        prefix: of both names, for messages: `env.`.
    """
    for option, source in (("corpus", corpus), *(("retriever", part) for part in split(retriever, "+"))):
        if is_world(source) or source in ("auto", "bm25") or is_address(source) or is_engine(source):
            continue
        try:
            check_source(source)
        except RetrieverError as error:
            raise ConfigurationError(f"{prefix}{option}: {error}") from error


_MAKE = (
    "; name question files that exist. `python -m retrievers.build_corpus` makes them with their corpus, and `make "
    "train-real` (in the repository) does so before it trains"
)
