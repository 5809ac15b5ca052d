"""`play_recorded`: what a program wrote is recorded as a rollout records what a policy writes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from chat_templates import CHATML, LLAMA, chat_policy
from helpers import QUESTIONS, CountingRetriever, answer, search, small_retriever
from models import bundled_policy, tiny_policy, turn_end

from algorithms.common.model.policy import Policy
from algorithms.common.rollout.collect import play
from algorithms.common.rollout.decoder import Decoder
from algorithms.common.rollout.scripted import play_recorded
from algorithms.common.rollout.truncation import ObservationCut
from igsearch_env.errors import ConfigurationError
from igsearch_env.protocols import make_protocol
from igsearch_env.rules import EpisodeRules
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.trajectory import ANSWERED, CONTEXT_FULL, NO_ANSWER, Trajectory
from retrievers import Retriever

# The turns of an episode: valid, with text before the action, without an action, of several attempts, without an end.
SCRIPTS = {
    "search": [search("where Alan Brin was born"), answer("Tolona"), answer("x")],
    "refine": [search("Alan"), "<refine> Alan Brin was born in Tolona.</refine>\n" + answer("Tolona"), answer("x")],
    "invalid": ["I do not know </search>", search("  Karith river "), answer("Ostue"), answer("Ostue")],
    "answers": [answer("Mira"), answer("Mira Sorel")],
    "none": ["no </search>", search("x"), "nothing </answer>", "still nothing </answer>", answer("late")],
}
NEW = 64


class DictatedDecoder(Decoder):
    """Decodes as ever, but "samples" the tokens of a script."""

    def __init__(self, policy: Policy, script: Sequence[str]) -> None:
        super().__init__(policy, turn_end(policy), slots=2, max_new_tokens=NEW, temperature=1.0)
        self.script = [policy.tokenizer.encode(text) for text in script]
        self.turns: dict[int, int] = {}

    def begin(self, prompt: Sequence[int], generator: np.random.Generator | None = None) -> int:
        slot = super().begin(prompt, generator)
        self.turns[slot] = 0
        return slot

    def append_observation(self, slot: int, observation: Sequence[int]) -> None:
        super().append_observation(slot, observation)
        self.turns[slot] += 1

    def _choose(self, slots: list[int]) -> tuple[list[int], list[float]]:
        written = [len(self._episodes[slot].ids) - self._episodes[slot].begun for slot in slots]
        ids = [self.script[self.turns[slot]][place] for slot, place in zip(slots, written, strict=True)]
        return ids, [0.0] * len(slots)


def stepper_of(
    policy: Policy,
    *,
    protocol: str = "search_r1",
    attempts: int = 1,
    cut: int | None = None,
    retriever: Retriever | None = None,
) -> EpisodeStepper:
    """Four questions over the small world, and at most two searches."""
    limit = None if cut is None else ObservationCut(policy.tokenizer, cut)
    rules = EpisodeRules(2, 2, attempts, make_protocol(protocol, "bare", limit))
    return EpisodeStepper(QUESTIONS, retriever or small_retriever(), None, rules)


def recorded(policy: Policy, stepper: EpisodeStepper, script: Sequence[str], new: int = NEW) -> list[Trajectory]:
    """Every question played by a script."""

    def write(trajectory: Trajectory, may_search: bool) -> str:
        return script[len(trajectory.turns)]

    return play_recorded(policy, stepper, QUESTIONS, write, max_new_tokens=new)


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("template", ["", CHATML, LLAMA])
@pytest.mark.parametrize(("protocol", "attempts"), [("search_r1", 1), ("autorefine", 1), ("search_r1", 2)])
def test_the_record_is_that_of_a_rollout(name: str, template: str, protocol: str, attempts: int) -> None:
    policy = chat_policy(template) if template else tiny_policy()
    stepper = stepper_of(policy, protocol=protocol, attempts=attempts)
    rollout = play(DictatedDecoder(policy, SCRIPTS[name]), stepper, QUESTIONS, seed=(0,))
    assert recorded(policy, stepper, SCRIPTS[name]) == rollout
    assert {t.stop_reason for t in rollout} <= {ANSWERED, NO_ANSWER}
    assert all(turn.completion_ids for trajectory in rollout for turn in trajectory.turns)
    assert any(turn.query_span for trajectory in rollout for turn in trajectory.turns) == (name != "answers")


def test_a_cut_observation_is_recorded_as_it_was_shown() -> None:
    policy = bundled_policy()
    stepper = stepper_of(policy, cut=6)
    trajectories = recorded(policy, stepper, SCRIPTS["search"])
    assert trajectories == play(DictatedDecoder(policy, SCRIPTS["search"]), stepper, QUESTIONS, seed=(0,))
    for trajectory in trajectories:
        first = trajectory.turns[0]
        assert first.observation_ids == policy.tokenizer.encode(first.observation)
        assert not any(passage.text in first.observation for passage in first.passages)


def test_a_turn_that_the_policy_could_not_write_ends_the_episode_before_it() -> None:
    policy = tiny_policy()
    retriever = CountingRetriever(small_retriever())
    stepper = stepper_of(policy, retriever=retriever)
    script = [search("Alan"), answer("Tolona")]
    lengths = [len(policy.tokenizer.encode(text)) for text in script]
    assert lengths[1] < lengths[0]
    assert {t.stop_reason for t in recorded(policy, stepper, script, max(lengths))} == {ANSWERED}
    retriever.calls.clear()
    long = recorded(policy, stepper, script, lengths[0] - 1)
    assert [(t.stop_reason, t.turns, t.outcome) for t in long] == [(CONTEXT_FULL, [], 0.0)] * len(QUESTIONS)
    assert retriever.calls == []
    late = recorded(policy, stepper, [search("A"), answer("a much longer answer than the query was " * 3)], lengths[0])
    assert [(t.stop_reason, len(t.turns), t.outcome) for t in late] == [(CONTEXT_FULL, 1, 0.0)] * len(QUESTIONS)


def test_a_full_context_ends_the_episode_as_in_a_rollout() -> None:
    script = SCRIPTS["search"]
    whole = recorded(policy := tiny_policy(), stepper_of(policy), script)
    before_answer = [t.tokens - len(t.turns[-1].completion_ids) for t in whole]
    for spare in (-1, 0):
        policy = tiny_policy(context_length=min(before_answer) + NEW + spare)
        stepper = stepper_of(policy)
        trajectories = recorded(policy, stepper, script)
        assert trajectories == play(DictatedDecoder(policy, script), stepper, QUESTIONS, seed=(0,))
        full = [t.stop_reason == CONTEXT_FULL for t in trajectories]
        assert full == [tokens > min(before_answer) + spare for tokens in before_answer]


def test_a_prompt_without_room_for_a_turn_is_refused() -> None:
    policy = tiny_policy(context_length=NEW + 4)
    with pytest.raises(ConfigurationError, match=r"question 'q0': its prompt has \d+ tokens, more than the 4 that fit"):
        recorded(policy, stepper_of(policy), SCRIPTS["search"])
