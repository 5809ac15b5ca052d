"""Asynchronous rollouts against lockstep ones and against a loop over `model.generate`, with a search 50 ms away.

    python -m benchmarks.async_rollouts                                              the bundled policy
    python -m benchmarks.async_rollouts --model smollm2-135m --episodes 32 --slots 8
    python -m benchmarks.async_rollouts --model FOLDER --server-url http://127.0.0.1:8001 --output table.md

The server is a vLLM with the same model and the same context, started as `VllmServerEngine` says; it is left as it is.

The bundled policy writes what it has learnt. Another model hardly ever searches before it is trained, so its turns are
scripted (unless `--natural`): each is a search, and ends at any of the tokens whose id is a multiple of `--mean-turn`,
so that turns differ in length as those of a real policy do. The model, its draws and the tokens that are decoded and
read are real.

Searches take 50 ms a call, as those of a service do (four calls at a time), or 50 ms a query, as those of a slow engine
in this process (one call at a time).

Built-in decoder: both ways must write the same tokens. Others draw otherwise, so that their token counts must only be
alike (`--tolerance`). Ratios are of episodes per second, rounds interleaved.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.console import Console

from algorithms.common.base.command_line import parse_options
from algorithms.common.model.config import PolicyConfig
from algorithms.common.model.fetch import MODELS, fetch
from algorithms.common.model.policy import Policy
from algorithms.common.model.turn_end import TurnEnd
from algorithms.common.rollout.collect import play
from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.rollout.decoder import Decoder
from algorithms.common.rollout.engine_decoder import EngineDecoder
from algorithms.common.rollout.engines.base import Engine
from algorithms.common.rollout.sampler import make_engine
from algorithms.common.rollout.turn_decoder import TurnDecoder
from benchmarks.measure import Line, interleaved, print_section, ratio
from benchmarks.rollout import AlwaysSearches, LongPassages, plain_loop
from igsearch_env.errors import IGSearchError
from igsearch_env.protocols import make_protocol
from igsearch_env.questions import Question
from igsearch_env.rules import EpisodeRules
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.trajectory import Trajectory
from igsearch_env.world.bundled import bundled_retriever, bundled_world
from retrievers import Passage, Retriever
from retrievers.base import WrappingRetriever
from retrievers.program import ends_in_one_line
from retrievers.random_streams import stream_seed

LATENCY = 0.05  # seconds
SERVICE_CALLS = 4  # at a time, as `RemoteRetriever` allows for one replica
TARGET = 1.5  # of asynchronous over lockstep episodes per second
PROTOCOL = make_protocol("search_r1", "bare")
LOCKSTEP, ASYNCHRONOUS, PLAIN = "built-in, lockstep", "built-in, asynchronous", "generate loop"
Per = Literal["call", "query"]


@dataclass(frozen=True)
class Args:
    """Options of this script."""

    model: str = "bundled"
    """`bundled`, `smollm2-135m` (fetched once), or the folder of a model."""
    server_url: str = ""
    """Address of a vLLM server with the same model. Empty: the built-in decoder only."""
    natural: bool = False
    """Turns are what the model writes, also for other models than the bundled one: give one that was trained."""
    episodes: int = 64
    """Episodes of a rollout."""
    slots: int = 16
    """Episodes at once."""
    max_searches: int = 4
    """Searches of an episode, at most; scripted episodes use all of them."""
    max_new_tokens: int = 96
    """Tokens of a turn, at most."""
    mean_turn: int = 32
    """Scripted turns end at one of this many token ids."""
    observation: int = 100
    """Tokens of the passages of a search in scripted episodes."""
    context_length: int = 1_024
    """Tokens of an episode, at most."""
    latency: tuple[Per, ...] = ("call", "query")
    """What takes 50 ms: each call of the search engine, or each query."""
    generate: bool = True
    """Measure the loop over `model.generate` too."""
    repeats: int = 3
    """Rounds after one to warm up; medians are reported. With 1, there is none to warm up."""
    tolerance: float = 0.25
    """By how much the generated tokens of different engines may differ."""
    output: Path | None = None
    """Markdown file for the table."""


class ScriptedTurnEnd(TurnEnd):
    """Ends a turn at every token whose id is a multiple of `period`."""

    period = 32

    @property
    def eos_ids(self) -> frozenset[int]:
        """The multiples of `period`, and the model's own."""
        return self.tokenizer.eos_ids | frozenset(range(self.period, len(self.tokenizer.hf_tokenizer), self.period))


class Delayed(WrappingRetriever):
    """Another retriever, `LATENCY` later: each call or each query."""

    def __init__(self, retriever: Retriever, per: Per) -> None:
        self.retriever, self.per = retriever, per

    @property
    def concurrency(self) -> int:
        """See `Retriever`."""
        return SERVICE_CALLS if self.per == "call" else 1

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """The passages of each query, after a pause."""
        time.sleep(LATENCY * (1 if self.per == "call" else len(queries)))
        return self.retriever.search(queries, k)


class Setting:
    """A policy, when its turns end, and the questions that all ways of collecting play."""

    def __init__(self, args: Args) -> None:
        self.args = args
        path = str(fetch(args.model)) if args.model in MODELS else args.model
        self.policy = Policy.load(PolicyConfig(path=path, device="cpu", context_length=args.context_length))
        pool = bundled_world().questions["train"]
        self.questions = [pool[number % len(pool)] for number in range(args.episodes)]
        self.retriever: Retriever = bundled_retriever()
        self.turn_end = TurnEnd(self.policy.tokenizer, PROTOCOL.stop_strings)
        if args.model != "bundled" and not args.natural:
            self.retriever = LongPassages(self.policy, args.observation)
            self.policy.tokenizer = AlwaysSearches(self.policy.tokenizer.hf_tokenizer)
            self.turn_end = ScriptedTurnEnd(self.policy.tokenizer, ())
            self.turn_end.period = args.mean_turn

    def stepper(self, per: Per) -> EpisodeStepper:
        """The environment, with a search engine that takes its time."""
        rules = EpisodeRules(max_searches=self.args.max_searches, protocol=PROTOCOL)
        return EpisodeStepper(self.questions, Delayed(self.retriever, per), None, rules)

    def built_in(self, per: Per, asynchronous: bool) -> list[Trajectory]:
        """A rollout with the built-in decoder."""
        return self._played(Decoder, per, asynchronous)

    def served(self, engine: Engine, per: Per, asynchronous: bool) -> list[Trajectory]:
        """A rollout with an engine."""
        return self._played(partial(EngineDecoder, engine), per, asynchronous)

    def _played(self, make: Callable[..., TurnDecoder], per: Per, asynchronous: bool) -> list[Trajectory]:
        decoder = make(
            self.policy,
            self.turn_end,
            slots=self.args.slots,
            max_new_tokens=self.args.max_new_tokens,
            temperature=1.0,
            asynchronous=asynchronous,
        )
        return play(decoder, self.stepper(per), self.questions, seed=(0,))

    def plain(self, per: Per) -> list[Trajectory]:
        """The loop over `model.generate`, for as many episodes at a time as the others have slots."""
        torch.manual_seed(stream_seed("draws of the loop over generate", 0))
        stepper, slots = self.stepper(per), self.args.slots
        parts: list[Sequence[Question]] = [self.questions[n : n + slots] for n in range(0, len(self.questions), slots)]
        play_part = partial(plain_loop, self.policy, self.turn_end, stepper, sample=True)
        return [t for part in parts for t in play_part(part, max_new_tokens=self.args.max_new_tokens)]


def lines(repeats: int, args: Args | None = None) -> list[Line]:
    """Episodes per second of every way of collecting, and its ratio to lockstep. Raises `ValueError` if they differ."""
    args = args or Args()
    setting = Setting(args)
    result: list[Line] = []
    with ExitStack() as stack:
        engine: Engine | None = None
        if args.server_url:
            config = RolloutConfig(engine="vllm_server", server_url=args.server_url)
            engine = make_engine(config, setting.policy, setting.turn_end)
            assert engine is not None
            stack.callback(engine.close)
        for per in args.latency:
            ways: dict[str, Callable[[], list[Trajectory]]] = {
                LOCKSTEP: partial(setting.built_in, per, False),
                ASYNCHRONOUS: partial(setting.built_in, per, True),
            }
            if engine is not None:
                ways["vLLM, lockstep"] = partial(setting.served, engine, per, False)
                ways["vLLM, asynchronous"] = partial(setting.served, engine, per, True)
            if args.generate:
                ways[PLAIN] = partial(setting.plain, per)
            result += _measured(per, ways, repeats, args)
    return result


def _measured(per: Per, ways: dict[str, Callable[[], list[Trajectory]]], repeats: int, args: Args) -> list[Line]:
    played: dict[str, list[Trajectory]] = {}

    def run(name: str) -> None:
        played[name] = ways[name]()

    times = interleaved({name: partial(run, name) for name in ways}, repeats, warm_up=int(repeats > 1))
    _check(played, args)
    result = []
    for name in ways:
        trajectories, seconds = played[name], float(np.median(times[name]))
        tokens, searches = _tokens(trajectories), sum(t.searches for t in trajectories)
        base = name.replace("asynchronous", "lockstep") if "asynchronous" in name else LOCKSTEP
        result.append(
            Line(
                f"{name}, {LATENCY * 1_000:.0f} ms a {per}",
                ratio(times[base], times[name]),
                unit=f"x {base}",
                target=TARGET if "asynchronous" in name and args.model != "bundled" else None,
                detail=f"{len(trajectories) / seconds:.2f} episodes/s, {tokens:,} tokens written, "
                f"{tokens / seconds:,.0f}/s, {searches} searches",
            )
        )
    return result


def _tokens(trajectories: Sequence[Trajectory]) -> int:
    return sum(len(turn.completion_ids) for t in trajectories for turn in t.turns)


def _written(trajectories: Sequence[Trajectory]) -> list[list[tuple[int, ...]]]:
    return [[turn.completion_ids for turn in t.turns] for t in trajectories]


def _check(played: dict[str, list[Trajectory]], args: Args) -> None:
    """Raise `ValueError` unless all ways played the same questions to their end, with comparable numbers of tokens."""
    first = played[LOCKSTEP]
    for name, trajectories in played.items():
        if [t.question.id for t in trajectories] != [t.question.id for t in first]:
            raise ValueError(f"{name} has played other questions than {LOCKSTEP}")
        if not all(t.done for t in trajectories):
            raise ValueError(f"{name} has not played every episode to its end")
        share = _tokens(trajectories) / _tokens(first)
        if not 1 / (1 + args.tolerance) <= share <= 1 + args.tolerance:
            raise ValueError(f"{name} wrote {share:.2f} times the tokens of {LOCKSTEP}: their times can't be compared")
    same = np.mean([a == b for a, b in zip(_written(first), _written(played[ASYNCHRONOUS]), strict=True)])
    if same < 0.95:  # rounding moves a draw to the neighbouring token now and then
        raise ValueError(f"only {same:.0%} of the episodes are the same in lockstep and asynchronously")


def main(args: Args) -> None:
    """Measure and print the table."""
    start = time.perf_counter()
    found = lines(args.repeats, args)
    name = f"{args.model}: {args.episodes} episodes, {args.slots} at once"
    print_section(Console(), name, found, time.perf_counter() - start)
    if args.output is not None:
        rows = [f"| {line.name} | {line.value:.2f} {line.unit} | {line.detail} |" for line in found]
        args.output.write_text("\n".join(["| | | |", "|---|---|---|", *rows, ""]), encoding="utf-8")


if __name__ == "__main__":
    with ends_in_one_line(ValueError, IGSearchError):
        main(parse_options(Args, description=__doc__))
