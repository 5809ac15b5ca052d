"""`Engine`: the interface of generation backends other than the built-in decoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

from torch import Tensor

from algorithms.common.base.memory_line import MemoryLine
from algorithms.common.model.kv_cache import Ids
from algorithms.common.model.policy import Policy
from algorithms.common.model.turn_end import TurnEnd
from algorithms.common.rollout.config import EngineSettings
from algorithms.common.rollout.engines import ENGINES
from algorithms.common.rollout.turn_decoder import Completion
from igsearch_env.errors import IGSearchError


class EngineError(IGSearchError, RuntimeError):
    """An engine failed, or returned an invalid completion."""

    exit_status = 1


@dataclass(frozen=True)
class GenerationSizes:
    """What the memory of generation depends on, besides `EngineSettings`."""

    episodes: int
    """Maximum number of concurrent episodes."""
    context: int
    """Maximum tokens of an episode."""
    token_bytes: int
    """Bytes of the keys and values of one token, in all layers."""
    vocabulary: int
    """Size of the vocabulary."""
    device_bytes: int
    """Bytes of memory of the device."""
    turns: Sequence[int]
    """Tokens of the longest episode at the end of each of its turns."""
    cuda: bool = False
    """Whether the device is a GPU."""
    by_length: bool = False
    """Whether attention takes sequences by their real lengths."""


@dataclass(frozen=True)
class TurnRequest:
    """One turn that an engine is asked to write."""

    key: int
    """Name of the request, unique among those that are not finished."""
    prompt: Ids
    """All tokens before the turn."""
    seed: int
    """Of the draws of this turn."""
    max_new_tokens: int
    """Maximum tokens of the turn."""
    temperature: float
    """Sampling temperature; 0 is greedy."""
    episode: int
    """Requests of one episode have the same prefix, which a server may still have in its cache."""


class Engine(ABC):
    """A persistent backend that completes sequences with the weights of the last update.

    Args:
        policy: the policy that is trained.
        turn_end: detects the end of a turn.
        settings: the options of the run.

    Raises `ConfigurationError` if the backend is not installed, not reachable or does not fit the policy.
    """

    name: ClassVar[str]
    """Value of `rollout.engine`."""
    shared: ClassVar[bool] = False
    """Whether all processes of a run use the same instance, so that only the first one sends weights to it."""
    own_weights: ClassVar[bool] = True
    """Whether it has a copy of the weights, which `update_weights` replaces, rather than those of the policy."""
    streams: ClassVar[bool] = False
    """Whether it serves each request as it comes (`StreamingEngine`): by default, rollouts are asynchronous then."""
    dtype: str = "unknown"
    """Precision of its weights."""
    takes_adapters: bool = False
    """Whether `update_weights` gets the adapter that is trained (`adapter_weights`), rather than all weights."""
    weights_name: str = ""
    """Name of its weights in requests, if it has one: processes that share an engine get it from the first."""
    asleep: bool = False
    """Whether it has given up its memory (`sleep`), so that it needs `update_weights` before it can write."""
    _submitted: Sequence[TurnRequest] = ()

    @abstractmethod
    def __init__(self, policy: Policy, turn_end: TurnEnd, settings: EngineSettings) -> None: ...

    @property
    def place(self) -> str:
        """Name for messages."""
        return f"rollout.engine={self.name!r}"

    def instances(self) -> Sequence[Engine]:
        """The backends that hold weights of their own: each is compared with the policy after an update."""
        return [self]

    @classmethod
    @abstractmethod
    def memory(cls, settings: EngineSettings, sizes: GenerationSizes) -> Iterator[MemoryLine]:
        """The memory that the engine takes in this process, on the training device; nothing for a server."""

    @abstractmethod
    def complete(
        self, prompts: Sequence[Ids], seeds: Sequence[int], *, max_new_tokens: int, temperature: float
    ) -> list[Completion]:
        """One turn after each prompt: up to the end of its action, an EOS token or `max_new_tokens`.

        The turn includes the token that ended it. Log-probs are those of the sampled distribution, and at temperature 0
        (greedy) those at temperature 1. Raises `EngineError`.
        """

    def submit(self, requests: Sequence[TurnRequest]) -> None:
        """Begin to write turns; `finished` returns them. All have the same temperature and maximum length.

        By default, all that was submitted is one call of `complete`, which returns the turns together.
        """
        self._submitted = [*self._submitted, *requests]

    def finished(self, timeout: float | None = None) -> list[tuple[int, Completion]]:
        """Turns that have been written since the last call, by the key of their request, in any order.

        Waits for one of them, up to `timeout` seconds; returns none then, or if nothing is being written. Raises
        `EngineError`; nothing is being written afterwards.
        """
        requests, self._submitted = self._submitted, []
        if not requests:
            return []
        turns = self.complete(
            [request.prompt for request in requests],
            [request.seed for request in requests],
            max_new_tokens=requests[0].max_new_tokens,
            temperature=requests[0].temperature,
        )
        if len(turns) != len(requests):
            raise EngineError(
                f"{self.place} returned {len(turns)} completions for {len(requests)} prompts; it must return one for "
                "each, in order: check that IGSearch supports its version"
            )
        return [(request.key, turn) for request, turn in zip(requests, turns, strict=True)]

    def cancel(self) -> None:
        """Stop writing the turns that are not finished; `finished` does not return them."""
        self._submitted = []

    def end_episode(self, episode: int) -> None:  # noqa: B027 # not every engine keeps episodes apart
        """No further turn of this episode will be requested."""

    @abstractmethod
    def update_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Use these weights from now on: all weights with adapters merged, by their names in transformers.

        A tied output layer is among them under its own name too (`with_tied_head`). With `takes_adapters`, those of the
        adapter by their names in peft. An engine that sleeps wakes up.
        """

    def sleep(self) -> None:  # noqa: B027 # not every engine holds memory that the update could use
        """Give up the device memory that only generation needs; `update_weights` ends it. Nothing is being written.

        Called between the rollout and the update, on every process.
        """

    def close(self) -> None:  # noqa: B027 # not every engine holds resources
        """Free its resources; it can't be used afterwards."""


class StreamingEngine(Engine):
    """An engine that serves each request as it comes, with draws of its own."""

    streams = True

    def complete(
        self, prompts: Sequence[Ids], seeds: Sequence[int], *, max_new_tokens: int, temperature: float
    ) -> list[Completion]:
        """`Engine.complete`; nothing else may be in progress."""
        asked = enumerate(zip(prompts, seeds, strict=True))
        self.submit([TurnRequest(key, prompt, seed, max_new_tokens, temperature, key) for key, (prompt, seed) in asked])
        turns: dict[int, Completion] = {}
        while ended := self.finished():
            turns.update(ended)
        return [turns[key] for key in range(len(prompts))]

    @abstractmethod
    def submit(self, requests: Sequence[TurnRequest]) -> None:
        """`Engine.submit`."""

    @abstractmethod
    def finished(self, timeout: float | None = None) -> list[tuple[int, Completion]]:
        """`Engine.finished`."""

    @abstractmethod
    def cancel(self) -> None:
        """`Engine.cancel`."""


def with_tied_head(model: Any, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The weights of a transformers model, followed by a tied output layer under its own name.

    The parameters of a model name a tied tensor once, as its embedding. An engine may hold the output layer in a form
    of its own, which it renews only if it gets a tensor of that name: vLLM does on a CPU. Others skip it.
    """
    places = {part: name for name, part in model.named_modules()}
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    tied = bool(getattr(model.config.get_text_config(), "tie_word_embeddings", False)) and head in places
    source, target = (f"{places.get(part, '')}.weight" for part in (embedding, head))
    kept: Tensor | None = None
    for name, weight in weights:
        yield name, weight
        if name == target:
            tied = False
        if name == source:
            kept = weight
    if tied and kept is not None:
        yield target, kept


def until_turn_end(turn_end: TurnEnd, ids: Ids, logprobs: tuple[float, ...]) -> Completion:
    """A completion without the tokens after the end of its turn, which do not affect those before.

    For engines that stop at a text, and may detect it one token late if a token ends inside a character.
    """
    end = turn_end.position(ids) if len(ids) == len(logprobs) else None  # otherwise it is rejected as a whole later
    return Completion(ids[:end], logprobs[:end])


def engine_class(name: str) -> type[Engine]:
    """The class of an engine, by the value of `rollout.engine`."""
    module, _, attribute = ENGINES[name].partition(".")
    found: type[Engine] = getattr(import_module(f"{__package__}.{module}"), attribute)
    return found
