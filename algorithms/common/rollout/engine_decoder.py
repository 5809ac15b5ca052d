"""`EngineDecoder`: drives an `Engine` with the interface of the built-in decoder, and checks what it returns."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import numpy as np

from algorithms.common.model.policy import Policy
from algorithms.common.model.turn_end import TurnEnd
from algorithms.common.rollout.engines.base import Engine, EngineError, TurnRequest
from algorithms.common.rollout.turn_decoder import Completion
from igsearch_env.errors import ConfigurationError

SEEDS = 2**31  # seeds of requests are smaller, as every engine accepts
LOGPROB_SLACK = 1e-3  # rounding may raise a log-prob above 0 by this much


class EngineDecoder:
    """Writes whole turns with an engine, with the interface of `Decoder`: all that is queued is one call of the engine.

    Args:
        engine: generates the completions.
        policy: provides tokenizer, vocabulary and context length.
        turn_end: detects the end of a turn.
        slots: maximum number of live episodes.
        max_new_tokens: maximum tokens per turn.
        temperature: 0 is greedy.
        asynchronous: `TurnDecoder.asynchronous`.
    """

    prefill_share = 0.0  # a request is submitted at once: the engine joins prefills and decoding itself

    def __init__(
        self,
        engine: Engine,
        policy: Policy,
        turn_end: TurnEnd,
        *,
        slots: int,
        max_new_tokens: int,
        temperature: float,
        asynchronous: bool = False,
    ) -> None:
        self.engine = engine
        self.turn_end = turn_end
        self.policy = policy
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.asynchronous = asynchronous
        self._slots = slots
        self._free = deque(range(slots))
        self._ids: dict[int, list[int]] = {}
        self._episodes: dict[int, int] = {}  # number of the episode in each slot
        self._begun = 0
        self._generators: dict[int, np.random.Generator | None] = {}
        self._queue: list[int] = []
        self._writing: set[int] = set()

    @property
    def free(self) -> int:
        """Number of free slots."""
        return len(self._free)

    @property
    def writing(self) -> int:
        """Number of slots whose turn `decode_step` will write."""
        return len(self._writing)

    def begin(self, prompt: Sequence[int], generator: np.random.Generator | None = None) -> int:
        """Take a slot for an episode. `generator` draws the seeds of its requests."""
        slot = self._free.popleft()
        self._ids[slot] = list(prompt)
        self._episodes[slot] = self._begun
        self._begun += 1
        self._generators[slot] = generator
        self._queue.append(slot)
        return slot

    def append_observation(self, slot: int, observation: Sequence[int]) -> None:
        """Queue the next turn of an episode, after the observation."""
        self._ids[slot] += observation
        self._queue.append(slot)

    def end(self, slot: int) -> None:
        """Free the slot for another episode."""
        self._free.append(slot)
        self.engine.end_episode(self._episodes[slot])

    def cancel(self) -> None:
        """`TurnDecoder.cancel`."""
        self._queue, self._writing, self._free = [], set(), deque(range(self._slots))
        self.engine.cancel()

    def prefill(self) -> None:
        """Check what is queued and submit it to the engine, which prefills and decodes."""
        room = self.policy.context_length - self.max_new_tokens
        for slot in self._queue:
            if len(self._ids[slot]) > room:
                raise ConfigurationError(
                    f"a sequence of {len(self._ids[slot])} tokens: a context of {self.policy.context_length} has "
                    f"room for {room} with {self.max_new_tokens} new ones; use a shorter prompt, fewer new tokens or "
                    "a policy with a longer context"
                )
        self.engine.submit([self._request(slot) for slot in sorted(self._queue)])
        self._writing |= set(self._queue)
        self._queue = []

    def decode_step(self, timeout: float | None = None) -> list[tuple[int, Completion]]:
        """Turns that the engine has finished, in order of slots.

        Waits for at least one, up to `timeout` seconds (then there may be none).
        """
        completions = dict(self.engine.finished(timeout))
        strange = sorted(completions.keys() - self._writing)
        if strange:
            raise EngineError(
                f"{self.engine.place} returned a turn for request {strange[0]}, which it was not asked for; check that "
                "IGSearch supports its version"
            )
        self._writing -= completions.keys()
        for slot, completion in sorted(completions.items()):
            _check(self.engine.name, self.policy, self.turn_end, completion, slot, self.max_new_tokens)
            self._ids[slot] += completion.ids
        return sorted(completions.items())

    def prefixes(self) -> None:
        """None: the KV cache of an engine is not accessible."""

    def _request(self, slot: int) -> TurnRequest:
        return TurnRequest(
            key=slot,
            prompt=tuple(self._ids[slot]),
            seed=self._seed(slot),
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            episode=self._episodes[slot],
        )

    def _seed(self, slot: int) -> int:
        if self.temperature == 0:
            return 0
        generator = self._generators[slot]
        assert generator is not None  # sampling needs one
        return int(generator.integers(SEEDS))


def _check(
    name: str, policy: Policy, turn_end: TurnEnd, completion: Completion, number: int, max_new_tokens: int
) -> None:
    """Raise `EngineError` unless a completion is a valid turn of this policy."""
    vocabulary = int(policy.model.config.get_text_config().vocab_size)
    rule = _broken_rule(turn_end, vocabulary, completion, max_new_tokens)
    if rule is not None:
        raise EngineError(f"rollout.engine={name!r}, completion {number}: {rule}")


def _broken_rule(turn_end: TurnEnd, vocabulary: int, completion: Completion, max_new_tokens: int) -> str | None:
    """What is wrong with a completion: the value, the rule and the repair."""
    ids, logprobs = completion.ids, completion.logprobs
    if not ids:
        return "it has no tokens; a turn has at least one: check whether the engine has stop ids of its own"
    strange = next((token for token in ids if not 0 <= token < vocabulary), None)
    if strange is not None:
        return (
            f"id {strange} is outside the policy's vocabulary of {vocabulary}; run the engine with the model that is "
            "trained"
        )
    if len(ids) > max_new_tokens:
        return f"it has {len(ids)} tokens, more than max_new_tokens={max_new_tokens}; check the engine's log"
    if len(logprobs) != len(ids):
        return f"{len(logprobs)} log-probs for {len(ids)} tokens; there must be one for each: check the engine's log"
    wrong = next((x for x in logprobs if not math.isfinite(x) or x > LOGPROB_SLACK), None)
    if wrong is not None:
        return (
            f"a log-prob is {wrong}; it must be finite and at most 0: check whether the engine's weights or logits "
            "overflow in its precision (policy.dtype, rollout.dtype)"
        )
    end = turn_end.position(ids)
    if end is not None and end < len(ids):
        rest = turn_end.tokenizer.decode(ids[end:])[:80]
        return (
            f"it continues after the end of its turn ({len(ids) - end} tokens, {rest!r}); a turn ends at "
            f"{', '.join(turn_end.stop_strings)} or an EOS token: disable decoding of several tokens at "
            "once (speculative decoding)"
        )
    if end is None and len(ids) < max_new_tokens:
        return (
            f"it stopped after {len(ids)} of max_new_tokens={max_new_tokens} tokens, before the turn ended; "
            "give the engine a context as long as the policy's and no stop rules of its own"
        )
    return None
