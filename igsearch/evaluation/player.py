"""`Player`: plays questions with the policy of an evaluation, as a stream of episodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.rollout.environment import make_rules
from igsearch.evaluation.config import SERVER, Args
from igsearch_env.errors import ConfigurationError
from igsearch_env.questions import Question
from igsearch_env.rules import EpisodeRules
from igsearch_env.scripted import make_scripted_policy, play_scripted
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.trajectory import Trajectory
from retrievers import Retriever

if TYPE_CHECKING:
    from algorithms.common.distributed.processes import Processes
    from algorithms.common.rollout.sampler import Sampler

LOADS = "vllm"  # the engine that loads a model by its name or folder


@dataclass(frozen=True)
class Player:
    """A policy with the rules of its episodes."""

    rules: EpisodeRules
    play: Callable[[Iterable[Question], int], Iterator[Trajectory]]
    """Plays questions, as many at once as the second argument says, and yields episodes as they end. A question is
    taken when there is room for it."""
    dtype: str
    """Precision of the weights; "" of a scripted policy."""


@contextmanager
def opened_player(
    args: Args, questions: Sequence[Question], retriever: Retriever, processes: Processes | None
) -> Iterator[Player]:
    """The player of an evaluation; its engine is closed afterwards. Information gain is not measured.

    `processes`: None for one process.
    """
    if args.scripted:
        yield _scripted(args, questions, retriever)
        return
    from algorithms.common.distributed.processes import Processes  # slow: torch
    from algorithms.common.rollout.collect import play_each

    sampler, rules = _sampler(args, processes or Processes())
    stepper = EpisodeStepper(questions, retriever, None, rules)

    def play(asked: Iterable[Question], slots: int) -> Iterator[Trajectory]:
        decoder = sampler.decoder(slots, temperature=0.0)
        return (trajectory for _, trajectory in play_each(decoder, stepper, asked, seed=(0,)))

    try:
        yield Player(rules, play, args.model.dtype if sampler.engine is None else sampler.engine.dtype)
    finally:
        sampler.close()


def _scripted(args: Args, questions: Sequence[Question], retriever: Retriever) -> Player:
    policy, rules = make_scripted_policy(args.policy), make_rules(args)
    stepper = EpisodeStepper(questions, retriever, None, rules)

    def play(asked: Iterable[Question], slots: int) -> Iterator[Trajectory]:
        waiting = iter(asked)
        while batch := list(islice(waiting, slots)):
            yield from play_scripted(policy, stepper, batch)

    return Player(rules, play, "")


def _sampler(args: Args, processes: Processes) -> tuple[Sampler, EpisodeRules]:
    """The sampler with its engine, and the rules. Weights are loaded into this process only if it needs them."""
    from algorithms.common.model.policy import Policy
    from algorithms.common.model.without_weights import is_adapter, policy_without_weights
    from algorithms.common.rollout.sampler import Sampler

    engine = args.rollout.engine
    if engine == SERVER and is_adapter(args.model):
        raise ConfigurationError(
            f"policy={args.policy!r} is an adapter, and a server serves whole models here: merge it into its model "
            "(igsearch export), serve that folder and name it as the policy"
        )
    # The weights of an adapter are merged here, and sent to the engine.
    elsewhere = engine == SERVER or (engine == LOADS and not is_adapter(args.model))
    policy = policy_without_weights(args.model) if elsewhere else Policy.load(args.model, processes)
    rules = make_rules(args, policy.tokenizer)
    config = RolloutConfig(
        engine=engine,
        server_url=args.rollout.server_url,
        gpu_memory_utilization=args.rollout.gpu_memory_utilization,
        asynchronous=args.rollout.asynchronous,
        max_new_tokens=args.max_new_tokens,
        kv_cache_tokens=args.kv_cache_tokens,
    )
    sampler = Sampler(policy, config, rules.protocol.stop_strings, processes)
    try:
        sampler.start(transfer=not elsewhere)
        if engine == SERVER:
            _check_served(args, sampler)
    except BaseException:
        sampler.close()
        raise
    return sampler, rules


def _check_served(args: Args, sampler: Sampler) -> None:
    """Raise `ConfigurationError` if a server has another model than the policy, or runs it in another precision."""
    from algorithms.common.rollout.engines.vllm_server import VllmServerEngine

    engine = sampler.engine
    assert isinstance(engine, VllmServerEngine)
    path = str(sampler.policy.model.config.name_or_path)
    for server in engine.servers:
        if server.model != args.policy and not same_model(server.model, path):
            raise ConfigurationError(
                f"rollout.server_url={server.address!r} serves {server.model!r}, but the policy is {args.policy!r}: "
                "name the served model with --policy, or start the server with that model (if its path differs there, "
                f"with --served-model-name {args.policy})"
            )
        if args.dtype is not None and server.dtype not in (args.dtype, "unknown"):
            raise ConfigurationError(
                f"dtype={args.dtype!r}: rollout.server_url={server.address!r} runs in {server.dtype}; leave the option "
                f"out, or start the server with --dtype {args.dtype}"
            )


def same_model(served: str, path: str) -> bool:
    """Whether the name of a served model is that of a policy: equal, or the same folder."""
    return served == path or (Path(path).exists() and Path(served).resolve() == Path(path).resolve())
