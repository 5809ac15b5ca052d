"""The episodes of a round: demonstrations, or the policy's own successes. Saved in parts, so that a round resumes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from algorithms.common.base.errors import TrainingError
from algorithms.common.distributed.processes import Processes
from algorithms.common.model.policy import Policy
from algorithms.common.rollout.buffer import RolloutBuffer
from algorithms.common.rollout.collect import collect
from algorithms.common.rollout.sampler import Sampler
from algorithms.common.rollout.scripted import play_recorded
from algorithms.common.training.supervised import WarmStartConfig
from igsearch_env.demonstrator import Demonstrator, answer_read, succeeded
from igsearch_env.protocols import Invalid
from igsearch_env.questions import Question
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.trajectory import CONTEXT_FULL, Group, Trajectory
from retrievers.random_streams import random_stream

PART = 64  # questions of a part
KEPT = 2  # successful episodes of a question, at most

# The episodes of some questions; the place of the first of them among all questions.
Play = Callable[[Sequence[Question], int], list[Group]]


def questions_in_turn(questions: Sequence[Question], seed: int, number: int) -> list[Question]:
    """All questions, shuffled for a round, one of each data set in turn until it has no more."""
    order = random_stream("questions of a warm start", seed, number).permutation(len(questions))
    groups: dict[str, list[Question]] = {}
    for place in order.tolist():
        groups.setdefault(questions[place].dataset, []).append(questions[place])
    longest = max(map(len, groups.values()), default=0)
    return [group[place] for place in range(longest) for group in groups.values() if place < len(group)]


def demonstrated(
    policy: Policy, stepper: EpisodeStepper, config: WarmStartConfig, max_new_tokens: int, seed: int
) -> Play:
    """Episodes of the scripted policy."""
    demonstrator = Demonstrator(config.titles, config.vague, seed)
    protocol = stepper.rules.protocol

    def write(trajectory: Trajectory, may_search: bool) -> str:
        return demonstrator.write(protocol, trajectory, may_search=may_search)

    def play(questions: Sequence[Question], first: int) -> list[Group]:
        episodes = play_recorded(policy, stepper, questions, write, max_new_tokens=max_new_tokens)
        return [Group(question, [episode]) for question, episode in zip(questions, episodes, strict=True)]

    return play


def sampled(
    sampler: Sampler, stepper: EpisodeStepper, config: WarmStartConfig, processes: Processes, seed: int, number: int
) -> Play:
    """Episodes of the policy itself. Each process plays its share of the questions and receives all groups."""

    def play(questions: Sequence[Question], first: int) -> list[Group]:
        share = processes.share(len(questions))
        mine = questions[share.start : share.stop]
        decoder = sampler.decoder(len(mine) * config.samples, config.temperature)
        buffer = collect(
            decoder, stepper, mine, group_size=config.samples, seed=(seed, number), first=first + share.start
        )
        return processes.all_gather_flat(buffer.groups)

    return play


def episodes_of_round(
    folder: Path,
    play: Play,
    questions: Sequence[Question],
    processes: Processes,
    *,
    wanted: int | None,
    progress: Callable[[int, int], None],
) -> tuple[RolloutBuffer, dict[str, float]]:
    """The successful episodes of a round, and what is known of all of them.

    Args:
        folder: holds the parts of the round that are done; missing ones are played and added.
        play: plays questions.
        wanted: stop after this many successful episodes; None: play all questions.
        progress: called after each part with the numbers of questions played and of successful episodes.

    Raises `TrainingError` if no episode is successful.
    """
    kept: list[Group] = []
    totals: Counter[str] = Counter()
    for number, first in enumerate(range(0, len(questions), PART)):
        path = folder / f"part-{number:04d}.jsonl.gz"
        if not processes.run_on_main(path.is_file):
            groups = play(questions[first : first + PART], first)
            good = [group for group in map(_successes, groups) if group.trajectories]
            part = RolloutBuffer(good, metadata=dict(_counts(groups)))
            processes.run_on_main(lambda path=path, part=part: part.save(path))  # type: ignore[misc] # its defaults
        part = RolloutBuffer.load(path)
        kept += part.groups
        totals.update(part.metadata)
        found = sum(len(group.trajectories) for group in kept)
        progress(min(first + PART, len(questions)), found)
        if wanted is not None and found >= wanted:
            break
    if not kept:
        raise TrainingError(
            f"warm start: none of {totals['episodes']:,} episodes answered a question with what it had read "
            f"({totals['answer_read']:,} had read a golden answer, {totals['full']:,} had no room left). If none had "
            "read one, the corpus lacks the answers of env.questions, or env.max_observation_tokens cuts them off; "
            "check both with examples/evaluate.py --policy oracle-titles"
        )
    groups = list(_first(kept, wanted))
    return RolloutBuffer(groups), _rates(totals)


def _successes(group: Group) -> Group:
    """The different successful episodes of a question without an invalid action, at most `KEPT`."""
    good: dict[str, Trajectory] = {}
    for trajectory in group.trajectories:
        if succeeded(trajectory) and not any(isinstance(turn.action, Invalid) for turn in trajectory.turns):
            good.setdefault(trajectory.transcript(), trajectory)
    return Group(group.question, list(good.values())[:KEPT])


def _first(groups: Sequence[Group], wanted: int | None) -> Iterator[Group]:
    """Groups with `wanted` episodes in all."""
    left = wanted
    for group in groups:
        if left is not None and left <= 0:
            return
        yield group if left is None else Group(group.question, group.trajectories[:left])
        left = None if left is None else left - len(group.trajectories)


def _counts(groups: Sequence[Group]) -> Counter[str]:
    episodes = [trajectory for group in groups for trajectory in group.trajectories]
    turns = [turn for trajectory in episodes for turn in trajectory.turns]
    return Counter(
        episodes=len(episodes),
        turns=len(turns),
        valid=sum(not isinstance(turn.action, Invalid) for turn in turns),
        correct=sum(trajectory.outcome == 1.0 for trajectory in episodes),
        searches=sum(trajectory.searches for trajectory in episodes),
        answer_read=sum(answer_read(trajectory) is not None for trajectory in episodes),
        full=sum(trajectory.stop_reason == CONTEXT_FULL for trajectory in episodes),
    )


def _rates(totals: Counter[str]) -> dict[str, float]:
    episodes, turns = max(totals["episodes"], 1), max(totals["turns"], 1)
    return {
        "warm_start/episodes": float(totals["episodes"]),
        "warm_start/em": totals["correct"] / episodes,
        "warm_start/searches": totals["searches"] / episodes,
        "warm_start/answer_read": totals["answer_read"] / episodes,
        "warm_start/valid_turns": totals["valid"] / turns,
    }
