"""`EngineDecoder`: drives an `Engine` with the interface of the built-in decoder, and checks what it returns."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import numpy as np

from algorithms.common.model.policy import Policy
from algorithms.common.model.turn_end import TurnEnd
from algorithms.common.rollout.engines.base import Engine, EngineError
from algorithms.common.rollout.turn_decoder import Completion
from igsearch_env.errors import ConfigurationError

SEEDS = 2**31  # seeds of requests are below: every engine takes them
LOGPROB_SLACK = 1e-3  # by which rounding may lift a log-prob above 0


class EngineDecoder:
    """Writes whole turns by an engine, with the interface of `Decoder`: what is queued is one call of the engine.

    Args:
        engine: what completes.
        policy: its tokenizer, vocabulary and context.
        turn_end: when a turn is over.
        slots: episodes that are alive at once, at most.
        max_new_tokens: of one turn.
        temperature: 0 is greedy.
    """

    def __init__(
        self,
        engine: Engine,
        policy: Policy,
        turn_end: TurnEnd,
        *,
        slots: int,
        max_new_tokens: int,
        temperature: float,
    ) -> None:
        self.engine = engine
        self.turn_end = turn_end
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
        _check(self.engine.name, self.policy, self.turn_end, completions, len(slots), self.max_new_tokens)
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


def _check(
    name: str,
    policy: Policy,
    turn_end: TurnEnd,
    completions: Sequence[Completion],
    count: int,
    max_new_tokens: int,
) -> None:
    """Raise `EngineError` where an engine returned other things than `count` turns of this policy."""
    where = f"rollout.engine={name!r}"
    if len(completions) != count:
        raise EngineError(
            f"{where} returned {len(completions)} completions for {count} prompts; it must return one for each, in "
            "their order: see whether its version is one that IGSearch supports"
        )
    vocabulary = int(policy.model.config.get_text_config().vocab_size)
    for number, completion in enumerate(completions):
        rule = _broken_rule(turn_end, vocabulary, completion, max_new_tokens)
        if rule is not None:
            raise EngineError(f"{where}, completion {number}: {rule}")


def _broken_rule(turn_end: TurnEnd, vocabulary: int, completion: Completion, max_new_tokens: int) -> str | None:
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
    end = turn_end.position(ids)
    if end is not None and end < len(ids):
        rest = turn_end.tokenizer.decode(ids[end:])[:80]
        return (
            f"it goes on after the end of its turn ({len(ids) - end} tokens, {rest!r}); a turn ends at "
            f"{', '.join(turn_end.stop_strings)} or an end of sequence: turn off whatever writes several tokens at "
            "once (speculative decoding)"
        )
    if end is None and len(ids) < max_new_tokens:
        return (
            f"it stopped after {len(ids)} of rollout.max_new_tokens={max_new_tokens} tokens, at no end of a turn; give "
            "the engine a context as long as the policy's and no stop rules of its own"
        )
    return None
