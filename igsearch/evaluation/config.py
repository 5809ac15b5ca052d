"""The configuration of `igsearch evaluate`, and which of them exclude each other."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from algorithms.common.base.option_words import option_types
from algorithms.common.base.output_path import check_output_file
from algorithms.common.base.resumable_lines import partial_path
from algorithms.common.evaluation.fingerprint import Fingerprint, questions_of
from algorithms.common.evaluation.results import check_replaced
from algorithms.common.model.available import check_policy, is_first_here
from algorithms.common.model.chat_template import DATE
from algorithms.common.model.config import Dtype, PolicyConfig
from algorithms.common.rollout.config import BUILTIN, RolloutConfig, check_engine
from algorithms.common.rollout.environment import EpisodeConfig, check_corpus
from igsearch_env.errors import ConfigurationError, check_range
from igsearch_env.protocols import make_protocol
from igsearch_env.question_sets import PUBLISHED
from igsearch_env.questions import Question
from igsearch_env.scripted import SCRIPTED, check_policy_name
from igsearch_env.world.bundled import world_of
from igsearch_env.world.options import BUNDLED
from retrievers.credentials import MaskedRepr

SERVER = "vllm_server"
# What recorded answers need. Everything else is about playing.
SCORING = frozenset({"answers", "questions", "output", "split", "limit", "where"})
# Options of a model that a scripted policy does not have.
OF_A_MODEL = frozenset(
    {"prompt", "system_prompt", "chat", "chat_template_arguments", "chat_template_date", "max_new_tokens"}
    | {"max_observation_tokens", "context_length", "dtype", "kv_cache_tokens"}
)


@dataclass(frozen=True)
class EngineConfig(MaskedRepr):
    """What generates: the options of training's section `rollout` that an evaluation has, too."""

    engine: str = BUILTIN
    """Generation backend: builtin, transformers (its continuous batching), vllm (in every process) or vllm_server."""
    server_url: str = ""
    """Address of the vLLM server, http://HOST:PORT, which serves the policy; several are separated by commas."""
    gpu_memory_utilization: float = 0.4
    """Fraction of the GPU's memory that vllm in this process uses."""
    asynchronous: bool | None = None
    """Each episode searches and continues on its own. None: True for engines that serve requests one by one (vllm,
    vllm_server), False for builtin and transformers."""

    def __post_init__(self) -> None:
        RolloutConfig(
            engine=self.engine,
            server_url=self.server_url,
            gpu_memory_utilization=self.gpu_memory_utilization,
            asynchronous=self.asynchronous,
        )
        if self.engine != "vllm" and self.gpu_memory_utilization != type(self).gpu_memory_utilization:
            raise ConfigurationError(
                f"rollout.gpu_memory_utilization={self.gpu_memory_utilization} with rollout.engine={self.engine!r}: "
                "only vllm in this process takes a fraction of the GPU's memory; leave it out, or set rollout.engine "
                "to vllm"
            )


@dataclass(frozen=True)
class Args(EpisodeConfig):
    """Options of the command."""

    questions: tuple[str, ...] = ()
    """`bundled`, a generated world (`world:hard`), or files and folders in any published form, or hf:REPO/CONFIG:SPLIT.
    Default: bundled; with answers, the questions and golden answers in their file."""
    corpus: str | None = None
    """`bundled` or another generated world (default: that of the questions), a corpus file, an index folder, or the
    address of a retrieval service."""
    policy: str = "bundled"
    """`bundled`, search-question, oracle-titles, a folder, or a model name."""
    rollout: EngineConfig = field(default_factory=EngineConfig)
    answers: Path | None = None
    """File of recorded predictions or transcripts to score, instead of playing a policy."""
    output: Path | None = None
    """JSON file to write the results to, with one row per question."""
    split: str = PUBLISHED
    """Split of the seven benchmarks: the one that papers report (published), all rows (all), or a split by name."""
    retriever: str = "auto"
    """Search backend over the corpus: auto, bm25, an index folder or an address; several joined by + are fused."""
    rerank: str = ""
    """Cross-encoder that reranks the retrieved passages; empty: no reranking."""
    chat: bool = False
    """Apply the tokenizer's chat template to the prompt."""
    chat_template_arguments: str = ""
    """Arguments of the chat template, as a JSON object: '{"enable_thinking": false}'."""
    chat_template_date: str = DATE
    """The date that a chat template reads, whatever day it is."""
    max_new_tokens: int = 32
    """Maximum tokens per turn."""
    context_length: int | None = None
    """Maximum tokens per episode; None: the context length of the model."""
    dtype: Dtype | None = None
    """Precision of the weights; None: float32, and that of the server with vllm_server."""
    kv_cache_tokens: int = 262_144
    """Size of the KV cache in tokens, of builtin and transformers; with a long context it limits the number of
    concurrent episodes."""
    limit: int = 0
    """Maximum number of questions per data set, in file order; 0: all."""
    where: str | None = None
    """Only questions with this metadata, as KEY=VALUE (e.g. random500=true)."""
    batch_size: int = 64
    """Maximum number of concurrent episodes of each process."""
    max_failure_rate: float = 0.2
    """Stop if retrieval fails for more than this share of the questions that ended last: 4 x batch_size x processes,
    or all questions if these are fewer."""

    @property
    def model(self) -> PolicyConfig:
        """The policy, if it is not a scripted one."""
        return PolicyConfig(
            path=self.policy,
            chat=self.chat,
            chat_template_arguments=self.chat_template_arguments,
            chat_template_date=self.chat_template_date,
            dtype=self.dtype or "float32",
            context_length=self.context_length,
        )

    @property
    def corpus_or_world(self) -> str | None:
        """The corpus that is named, or the generated world that the questions are of."""
        return self.corpus or world_of(self.questions)

    @property
    def scripted(self) -> bool:
        """Whether the policy is one without a model."""
        return self.policy in SCRIPTED

    @property
    def partial(self) -> Path | None:
        """File of the rows until the output is complete."""
        return None if self.output is None else partial_path(self.output)

    @property
    def resume(self) -> str:
        """What to do once an evaluation that had begun to ask has stopped, for messages."""
        if self.partial is None:
            return "answers are not kept without --output"
        return f"the same command resumes from {self.partial}"


def check(args: Args, named: Collection[str] | None = None) -> None:
    """Raise `ConfigurationError` for values that are out of range, and for options that have no effect.

    `named`: the options that the command line names; None: those that differ from their defaults.
    """
    check_range("limit", args.limit, 0)
    check_range("batch_size", args.batch_size, 1)
    check_range("max_new_tokens", args.max_new_tokens, 1)
    check_range("kv_cache_tokens", args.kv_cache_tokens, 1)
    check_range("max_failure_rate", args.max_failure_rate, 0, 1)
    check_output_file(args.output)
    given = changed(args) if named is None else [name for name in option_types(Args) if name in named]
    if args.answers is not None:
        _refuse(
            [name for name in given if name not in SCORING],
            f"answers={str(args.answers)!r}",
            "recorded answers need neither a policy nor a corpus; omit one or the other",
        )
    elif args.scripted:
        ignored = [name for name in given if name in OF_A_MODEL or name.startswith("rollout.")]
        _refuse(
            ignored, f"policy={args.policy!r}", "a scripted policy has no model, and only a model uses them; omit them"
        )
    elif "kv_cache_tokens" in given and args.rollout.engine.startswith("vllm"):
        _refuse(
            ["kv_cache_tokens"], f"rollout.engine={args.rollout.engine!r}", "vLLM sizes its KV cache itself; omit it"
        )


def check_available(args: Args) -> None:
    """Raise an error if the policy, the engine's package or the corpus is not there; nothing is loaded for that."""
    check_policy_name(args.policy)
    make_protocol(args.protocol, args.prompt, None, args.system_prompt)
    check_corpus(args.corpus_or_world or BUNDLED, args.retriever)
    check_replaced(args.output, {}, partial=True)
    if not args.scripted and is_first_here():
        check_engine(args.rollout.engine)
        check_policy(args.model.path, option="policy", weights=args.rollout.engine != SERVER)


def known_fingerprint(args: Args, questions: Sequence[Question]) -> Fingerprint:
    """The part of the fingerprint that is known before the corpus and the policy are loaded."""
    known = {"top_k": args.top_k, "max_searches": args.max_searches, "protocol": args.protocol}
    return {**known, "attempts": args.attempts, "questions": questions_of(questions)}


def changed(args: Args) -> list[str]:
    """The dotted names of the options that differ from their defaults."""
    return [name for name in option_types(Args) if _value(args, name) != _value(Args(), name)]


def _value(args: Args, name: str) -> Any:
    found: Any = args
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _refuse(names: Sequence[str], with_what: str, rule: str) -> None:
    if names:
        raise ConfigurationError(f"{with_what} with {' and '.join(names)}: {rule}")
