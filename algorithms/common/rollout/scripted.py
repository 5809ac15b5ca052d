"""Episodes that a program plays, recorded as if the policy had written them: training data for a supervised start."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from algorithms.common.model.policy import Policy
from algorithms.common.rollout.collect import encode_prompt, record_turn, room
from algorithms.common.rollout.turn_decoder import Completion
from igsearch_env.questions import Question
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.trajectory import CONTEXT_FULL, Trajectory

# The text of the next turn of an episode, and whether it may still search.
Write = Callable[[Trajectory, bool], str]


def play_recorded(
    policy: Policy, stepper: EpisodeStepper, questions: Sequence[Question], write: Write, *, max_new_tokens: int
) -> list[Trajectory]:
    """Play one episode per question, with the token ids, spans and limits of a rollout.

    The log-probs of all tokens are 0: no policy has sampled them. An episode ends with `CONTEXT_FULL` where the policy
    could not have written it: before a turn of more than `max_new_tokens` tokens, or in a full context.
    """
    episodes = [stepper.begin(question) for question in questions]
    for episode in episodes:
        encode_prompt(policy, episode.trajectory, max_new_tokens)
    running = episodes
    while running:
        written = [
            tuple(policy.tokenizer.encode_completion(write(episode.trajectory, episode.searches_left > 0)))
            for episode in running
        ]
        for episode, ids in zip(running, written, strict=True):
            if len(ids) > max_new_tokens:
                episode.trajectory.stop_reason = CONTEXT_FULL
        turns = [(e, ids) for e, ids in zip(running, written, strict=True) if not e.trajectory.done]
        running = [episode for episode, _ in turns]
        # As in a rollout, the environment reads what the tokens say.
        stepper.step(running, [policy.tokenizer.decode(ids) for _, ids in turns])
        for episode, ids in turns:
            trajectory = episode.trajectory
            record_turn(policy, stepper.rules.protocol, trajectory, Completion(ids, (0.0,) * len(ids)))
            if not trajectory.done and trajectory.tokens > room(policy, max_new_tokens):
                trajectory.stop_reason = CONTEXT_FULL
        running = [episode for episode in running if not episode.trajectory.done]
    return [episode.trajectory for episode in episodes]
