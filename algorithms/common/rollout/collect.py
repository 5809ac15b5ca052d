"""Rollouts: the policy plays many episodes at once, and every token is recorded as it was sampled.

    admit     waiting episodes take free slots of the decoder
    advance   the decoder writes turns of live episodes; the environment steps them
    record    token ids, log-probs and spans are attached to the turns; ended episodes free their slots

`advance` has two forms. Together: the decoder writes one turn of every live episode, then one call steps all of them.
The order of events depends on token counts alone, never on the clock, so a run is reproducible bit for bit. On their
own (`asynchronous.py`): each episode continues when its turn is written and its search has returned. The same seeds
give the same episodes, and the same log-probs up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial

from algorithms.common.model.policy import Policy
from algorithms.common.model.tokenizer import PolicyTokenizer
from algorithms.common.rollout.asynchronous import AsynchronousSteps
from algorithms.common.rollout.buffer import RolloutBuffer
from algorithms.common.rollout.turn_decoder import Completion, TurnDecoder
from igsearch_env.episode import Episode
from igsearch_env.errors import ConfigurationError, IGSearchError
from igsearch_env.protocols import Protocol
from igsearch_env.questions import Question
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.trajectory import CONTEXT_FULL, Group, Trajectory, Turn
from retrievers.random_streams import random_stream

# Advances live episodes, by slot; returns the slots whose step is complete, with what they wrote.
Advance = Callable[[Mapping[int, Episode]], list[tuple[int, Completion]]]


def collect(
    decoder: TurnDecoder,
    stepper: EpisodeStepper,
    questions: Sequence[Question],
    *,
    group_size: int,
    seed: Sequence[int],
    first: int = 0,
) -> RolloutBuffer:
    """Play every question `group_size` times and return the groups.

    `seed` (a seed and any counters, such as the step) and the place in the batch determine all draws; `first` is the
    place of the first question, if these are a part of a batch. Trajectories whose retrieval failed are left out of
    their group and counted.
    """
    repeated = [question for question in questions for _ in range(group_size)]
    trajectories = play(decoder, stepper, repeated, seed=seed, first=first * group_size)
    groups = []
    for number, question in enumerate(questions):
        siblings = trajectories[number * group_size : (number + 1) * group_size]
        kept = [t for t in siblings if not t.retrieval_failed]
        groups.append(Group(question, kept, len(siblings) - len(kept)))
    failed = sum(group.failed for group in groups)
    return RolloutBuffer([group for group in groups if group.trajectories], failed)


def play(
    decoder: TurnDecoder,
    stepper: EpisodeStepper,
    questions: Sequence[Question],
    *,
    seed: Sequence[int],
    first: int = 0,
    on_end: Callable[[], None] = lambda: None,
) -> list[Trajectory]:
    """Play one episode per question, as many at once as the decoder has slots. `seed` and `first` as in `collect`.

    `on_end` is called whenever an episode has ended. If this ends with an error, or is interrupted, nothing is being
    written or searched any more.
    """
    ended: dict[int, Trajectory] = {}
    with closing(play_each(decoder, stepper, questions, seed=seed, first=first)) as episodes:
        for place, trajectory in episodes:
            ended[place] = trajectory
            on_end()
    return [ended[place] for place in range(len(questions))]


def play_each(
    decoder: TurnDecoder, stepper: EpisodeStepper, questions: Iterable[Question], *, seed: Sequence[int], first: int = 0
) -> Generator[tuple[int, Trajectory]]:
    """`play` as a stream: yields each episode as it ends, with the place of its question, from 0.

    A question is taken from `questions` when a slot is free for it, so they may be chosen while others are played.
    """
    waiting = enumerate(questions)
    live: dict[int, Episode] = {}  # by slot
    places: dict[int, int] = {}
    with _steps(decoder, stepper) as advance:
        while True:
            while decoder.free and (following := next(waiting, None)) is not None:
                place, question = following
                episode = stepper.begin(question)
                encode_prompt(decoder.policy, episode.trajectory, decoder.max_new_tokens)
                slot = decoder.begin(episode.trajectory.prompt_ids, random_stream("episode", *seed, first + place))
                live[slot], places[slot] = episode, place
            if not live:
                return
            for slot, completion in advance(live):
                trajectory = live[slot].trajectory
                record_turn(decoder.policy, stepper.rules.protocol, trajectory, completion)
                if not trajectory.done and trajectory.tokens > room(decoder.policy, decoder.max_new_tokens):
                    trajectory.stop_reason = CONTEXT_FULL
                if trajectory.done:
                    decoder.end(slot)
                    del live[slot]
                    yield places.pop(slot), trajectory
                else:
                    decoder.append_observation(slot, trajectory.turns[-1].observation_ids)


@contextmanager
def _steps(decoder: TurnDecoder, stepper: EpisodeStepper) -> Iterator[Advance]:
    """What advances the live episodes: all of them together, or each on its own."""
    try:
        if decoder.asynchronous:
            with closing(AsynchronousSteps(decoder, stepper)) as steps:
                yield steps.advance
        else:
            yield partial(_advance_together, decoder, stepper)
    except BaseException:
        with suppress(IGSearchError):  # of an engine that can't be reached: the first error matters more
            decoder.cancel()
        raise


def _advance_together(
    decoder: TurnDecoder, stepper: EpisodeStepper, live: Mapping[int, Episode]
) -> list[tuple[int, Completion]]:
    """Decode one turn of every live episode, then step all of them; returns their turns in order of completion."""
    decoder.prefill()
    completed: list[tuple[int, Completion]] = []
    while decoder.writing:
        completed += decoder.decode_step()
    episodes = [live[slot] for slot, _ in completed]
    stepper.step(episodes, [decoder.policy.tokenizer.decode(completion.ids) for _, completion in completed])
    return completed


def room(policy: Policy, max_new_tokens: int) -> int:
    """Maximum tokens of an episode before its next turn."""
    return policy.context_length - max_new_tokens


def encode_prompt(policy: Policy, trajectory: Trajectory, max_new_tokens: int) -> None:
    """Set the ids of the prompt. Raises `ConfigurationError` if it leaves no room for a turn."""
    longest = room(policy, max_new_tokens)
    trajectory.prompt_ids = policy.tokenizer.encode_prompt(trajectory.prompt, trajectory.system)
    if len(trajectory.prompt_ids) > longest:
        raise ConfigurationError(
            f"question {trajectory.question.id!r}: its prompt has {len(trajectory.prompt_ids)} tokens, more than "
            f"the {longest} that fit a context of {policy.context_length} with {max_new_tokens} new ones; "
            "use a shorter prompt template, fewer new tokens or a policy with a longer context"
        )


def record_turn(policy: Policy, protocol: Protocol, trajectory: Trajectory, completion: Completion) -> None:
    """Attach tokens to the turn that the environment has just recorded."""
    record_completion(policy.tokenizer, protocol, trajectory.turns[-1], completion.ids, completion.logprobs)
    record_observation(policy.tokenizer, trajectory)


def record_completion(
    tokenizer: PolicyTokenizer,
    protocol: Protocol,
    turn: Turn,
    ids: tuple[int, ...],
    logprobs: tuple[float, ...],
    before: int = 0,
) -> None:
    """Attach the tokens that the policy wrote to a turn, and the position of its query in them.

    `before`: number of characters of the decoded ids before the text of the turn.
    """
    turn.completion_ids, turn.logprobs = ids, logprobs
    if turn.is_search:
        span = protocol.action_span(turn.text)
        assert span is not None  # a search has one
        content = turn.text[span.start : span.end]
        start, end = span.start + len(content) - len(content.lstrip()), span.start + len(content.rstrip())
        turn.query_span = tokenizer.token_span(ids, before + start, before + end)
        turn.search_span = tokenizer.token_span(ids, before + span.outer_start, before + span.outer_end)


def record_observation(tokenizer: PolicyTokenizer, trajectory: Trajectory) -> None:
    """Attach the tokens that the policy reads after its last turn."""
    turn = trajectory.turns[-1]
    if not turn.observation:
        return
    # A policy that closed its turn in the chat template wrote no action; what it reads next is a turn of the user.
    closed = bool(turn.completion_ids) and turn.completion_ids[-1] == tokenizer.end_of_turn_id
    if turn.observation_role == "assistant" and closed:
        turn.observation_role = "user"
    turn.observation_ids = tokenizer.encode_observation(turn.observation, turn.observation_role, turn.completion_ids)
