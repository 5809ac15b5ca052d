"""`Engine`: the interface of generation backends other than the built-in decoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from algorithms.common.base.memory_line import MemoryLine
from algorithms.common.model.kv_cache import Ids
from algorithms.common.model.policy import Policy
from algorithms.common.model.turn_end import TurnEnd
from algorithms.common.rollout.turn_decoder import Completion
from igsearch_env.errors import IGSearchError


class EngineError(IGSearchError, RuntimeError):
    """An engine failed, or returned what was not asked for."""


@dataclass(frozen=True)
class EngineSettings:
    """The options of generation that an engine may need; each engine reads what concerns it."""

    dtype: str
    """Precision of the weights that sample."""
    kv_cache_tokens: int
    """Tokens whose keys and values are held."""
    pass_tokens: int
    """Tokens of one forward pass."""
    server_url: str
    """Address of a server, or "" for engines in this process."""
    gpu_memory_utilization: float
    """Share of the GPU's memory, for engines that take a share."""


@dataclass(frozen=True)
class GenerationSizes:
    """What the memory of generation depends on, beside `EngineSettings`."""

    episodes: int
    """Episodes that are played at once, at most."""
    context: int
    """Tokens of the longest episode that the policy takes."""
    token_bytes: int
    """Keys and values of one token, in all layers."""
    vocabulary: int
    """Size of the vocabulary."""
    device_bytes: int
    """Memory of the device."""


class Engine(ABC):
    """A persistent backend that completes sequences with the weights it was last given.

    Args:
        policy: what is trained.
        turn_end: when a turn is over.
        settings: the options of the run.

    Raises `ConfigurationError` where the backend is not installed, not reachable or does not fit the policy.
    """

    name: ClassVar[str]
    """Value of rollout.engine."""
    shared: ClassVar[bool] = False
    """Whether all processes of a run use the same one, so that the first alone gives it weights."""

    @abstractmethod
    def __init__(self, policy: Policy, turn_end: TurnEnd, settings: EngineSettings) -> None: ...

    @classmethod
    @abstractmethod
    def memory(cls, settings: EngineSettings, sizes: GenerationSizes) -> Iterator[MemoryLine]:
        """The memory that the engine takes in this process, on the device that trains; nothing for a server."""

    @abstractmethod
    def complete(
        self, prompts: Sequence[Ids], seeds: Sequence[int], *, max_new_tokens: int, temperature: float
    ) -> list[Completion]:
        """One turn after each prompt: up to the end of its action, an end of sequence or `max_new_tokens`.

        The token that ended the turn is its last. Log-probs are of the distribution that was sampled; at temperature 0
        (greedy), at temperature 1. Raises `EngineError`.
        """

    @abstractmethod
    def update_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Complete with these from now on: all weights, adapters merged, by their names in transformers."""

    def close(self) -> None:  # noqa: B027 # not every engine holds anything
        """Free what it holds; it can't be used afterwards."""


def until_turn_end(turn_end: TurnEnd, ids: Ids, logprobs: tuple[float, ...]) -> Completion:
    """A completion without what follows the end of its turn, which changes nothing of what stands before.

    For engines that stop at a text, and may see it a token late where a token ends inside a character.
    """
    end = turn_end.position(ids) if len(ids) == len(logprobs) else None  # else it is refused, whole
    return Completion(ids[:end], logprobs[:end])
