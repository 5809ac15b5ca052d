"""What writes turns in place of the built-in decoder: `Engine`, and `EngineDecoder`, by which a rollout drives one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np
from torch import Tensor

from algorithms.common.model.kv_cache import Ids
from algorithms.common.model.policy import Policy
from algorithms.common.model.tokenizer import Tokens
from algorithms.common.rollout.decoder import Completion
from igsearch_env.errors import ConfigurationError, IGSearchError
from igsearch_env.protocols.protocol import STOP_TAGS

SEEDS = 2**31  # seeds of requests are below: every engine takes them
LOGPROB_SLACK = 1e-3  # by which rounding may lift a log-prob above 0


class EngineError(IGSearchError, RuntimeError):
    """An engine failed, or returned what was not asked for."""


class Engine(ABC):
    """A persistent thing that completes sequences with the weights of the policy as they were last given to it."""

    name: ClassVar[str]
    """Value of rollout.engine."""
    shared: ClassVar[bool] = False
    """Whether all processes of a run use the same one, so that the first alone gives it weights."""

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


class EngineDecoder:
    """Writes whole turns by an engine, with the interface of `Decoder`: what is queued is one call of the engine.

    Args:
        engine: what completes.
        policy: its tokenizer, vocabulary and context.
        slots: episodes that are alive at once, at most.
        max_new_tokens: of one turn.
        temperature: 0 is greedy.
    """

    def __init__(self, engine: Engine, policy: Policy, *, slots: int, max_new_tokens: int, temperature: float) -> None:
        self.engine = engine
        self.policy = policy
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self._free = deque(range(slots))
        self._ids: dict[int, list[int]] = {}
        self._generators: dict[int, np.random.Generator | None] = {}
        self._queue: list[int] = []
        self._writing: list[int] = []

    @property
    def free(self) -> int:
        """Slots that can be taken."""
        return len(self._free)

    @property
    def writing(self) -> int:
        """Slots whose turn `decode_step` will write."""
        return len(self._writing)

    def begin(self, prompt: Sequence[int], generator: np.random.Generator | None = None) -> int:
        """Take a slot for an episode. `generator` decides the seeds of its requests."""
        slot = self._free.popleft()
        self._ids[slot] = list(prompt)
        self._generators[slot] = generator
        self._queue.append(slot)
        return slot

    def append_observation(self, slot: int, observation: Sequence[int]) -> None:
        """The next turn of an episode, after what it observed."""
        self._ids[slot] += observation
        self._queue.append(slot)

    def end(self, slot: int) -> None:
        """Let another episode take the slot."""
        self._free.append(slot)

    def prefill(self) -> None:
        """Take what is queued; the engine reads and writes at once, in `decode_step`."""
        room = self.policy.context_length - self.max_new_tokens
        for slot in self._queue:
            if len(self._ids[slot]) > room:
                raise ConfigurationError(
                    f"a sequence of {len(self._ids[slot])} tokens: a context of {self.policy.context_length} leaves "
                    f"room for {room} beside {self.max_new_tokens} new ones; use a shorter prompt, fewer new tokens or "
                    "a policy with a longer context"
                )
        self._writing += self._queue
        self._queue = []

    def decode_step(self) -> list[tuple[int, Completion]]:
        """The turns of all slots that are writing."""
        slots, self._writing = sorted(self._writing), []
        completions = self.engine.complete(
            [tuple(self._ids[slot]) for slot in slots],
            [self._seed(slot) for slot in slots],
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
        )
        _check(self.engine.name, self.policy, completions, len(slots), self.max_new_tokens)
        for slot, completion in zip(slots, completions, strict=True):
            self._ids[slot] += completion.ids
        return list(zip(slots, completions, strict=True))

    def prefixes(self) -> None:
        """Nothing: what an engine has read stays with it."""

    def _seed(self, slot: int) -> int:
        if self.temperature == 0:
            return 0
        generator = self._generators[slot]
        assert generator is not None  # sampling needs one
        return int(generator.integers(SEEDS))


def until_turn_end(tokens: Tokens, ids: Ids, logprobs: tuple[float, ...]) -> Completion:
    """A completion without what follows the end of its turn, which changes nothing of what stands before.

    For engines that stop at a text, and may see it a token late where a token ends inside a character.
    """
    end = _turn_end(tokens, ids) if len(ids) == len(logprobs) else None  # else it is refused, whole
    return Completion(ids[:end], logprobs[:end])


def _turn_end(tokens: Tokens, ids: Sequence[int]) -> int | None:
    """After how many tokens the turn is over; None while it goes on."""
    may_end = tokens.closing_ids | tokens.eos_ids
    return next((n for n, token in enumerate(ids, start=1) if token in may_end and tokens.ends_turn(ids[:n])), None)


def _check(name: str, policy: Policy, completions: Sequence[Completion], count: int, max_new_tokens: int) -> None:
    """Raise `EngineError` where an engine returned other things than `count` turns of this policy."""
    where = f"rollout.engine={name!r}"
    if len(completions) != count:
        raise EngineError(
            f"{where} returned {len(completions)} completions for {count} prompts; it must return one for each, in "
            "their order: see whether its version is one that IGSearch supports"
        )
    vocabulary = int(policy.model.config.get_text_config().vocab_size)
    for number, completion in enumerate(completions):
        rule = _broken_rule(policy, vocabulary, completion, max_new_tokens)
        if rule is not None:
            raise EngineError(f"{where}, completion {number}: {rule}")


def _broken_rule(policy: Policy, vocabulary: int, completion: Completion, max_new_tokens: int) -> str | None:
    """What is wrong with a completion: the value, the rule and the repair."""
    ids, logprobs = completion.ids, completion.logprobs
    if not ids:
        return "it has no tokens; a turn has at least one: see whether the engine stops at an id of its own"
    strange = next((token for token in ids if not 0 <= token < vocabulary), None)
    if strange is not None:
        return (
            f"id {strange} is outside the policy's vocabulary of {vocabulary}; let the engine run the model that is "
            "trained"
        )
    if len(ids) > max_new_tokens:
        return f"it has {len(ids)} tokens, more than rollout.max_new_tokens={max_new_tokens}; see what the engine logs"
    if len(logprobs) != len(ids):
        return f"{len(logprobs)} log-probs for {len(ids)} tokens; there must be one for each: see what the engine logs"
    wrong = next((x for x in logprobs if not math.isfinite(x) or x > LOGPROB_SLACK), None)
    if wrong is not None:
        return (
            f"a log-prob is {wrong}; it must be finite and at most 0: see whether the engine's weights or logits "
            "overflow in its precision (policy.dtype, rollout.dtype)"
        )
    end = _turn_end(policy, ids)
    if end is not None and end < len(ids):
        rest = policy.decode(ids[end:])[:80]
        return (
            f"it goes on after the end of its turn ({len(ids) - end} tokens, {rest!r}); a turn ends at "
            f"{', '.join(STOP_TAGS)} or an end of sequence: turn off whatever writes several tokens at once "
            "(speculative decoding)"
        )
    if end is None and len(ids) < max_new_tokens:
        return (
            f"it stopped after {len(ids)} of rollout.max_new_tokens={max_new_tokens} tokens, at no end of a turn; give "
            "the engine a context as long as the policy's and no stop rules of its own"
        )
    return None
