"""The episodes of a round: demonstrations, or the policy's own successes. Saved in parts, so that a round resumes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from algorithms.common.base.errors import CheckpointError, TrainingError
from algorithms.common.base.typed import as_type
from algorithms.common.distributed.processes import Processes
from algorithms.common.model.policy import Policy
from algorithms.common.rollout.buffer import RolloutBuffer, RolloutBufferError
from algorithms.common.rollout.collect import collect
from algorithms.common.rollout.sampler import Sampler
from algorithms.common.rollout.scripted import play_recorded
from algorithms.common.training.config import WarmStartConfig
from igsearch_env.demonstrator import Demonstrator, answer_read, succeeded
from igsearch_env.protocols import Invalid
from igsearch_env.questions import Question
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.trajectory import CONTEXT_FULL, Group, Trajectory
from retrievers.random_streams import random_stream
from retrievers.reading import FileError, one_line

PART = 64  # questions of a part
KEPT = 2  # successful episodes of a question, at most
HOPELESS = 16  # parts without a successful episode, after which a round ends

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
    policy: Policy,
    stepper: EpisodeStepper,
    config: WarmStartConfig,
    processes: Processes,
    max_new_tokens: int,
    seed: int,
) -> Play:
    """Episodes of the scripted policy, divided among the processes as in `sampled`."""
    demonstrator = Demonstrator(config.titles, config.vague, seed)
    protocol = stepper.rules.protocol

    def write(trajectory: Trajectory, may_search: bool) -> str:
        return demonstrator.write(protocol, trajectory, may_search=may_search)

    def play(questions: Sequence[Question], first: int) -> list[Group]:
        share = processes.share(len(questions))
        mine = questions[share.start : share.stop]
        played = play_recorded(policy, stepper, mine, write, max_new_tokens=max_new_tokens)
        kept = [[t] if not t.retrieval_failed else [] for t in played]
        groups = [Group(question, t, 1 - len(t)) for question, t in zip(mine, kept, strict=True)]
        return processes.all_gather_flat(groups)

    return play


def sampled(
    sampler: Sampler, stepper: EpisodeStepper, config: WarmStartConfig, processes: Processes, seed: int, number: int
) -> Play:
    """Episodes of the policy itself. Each process plays its share of the questions and receives all groups."""

    def play(questions: Sequence[Question], first: int) -> list[Group]:
        share = processes.share(len(questions))
        mine = questions[share.start : share.stop]
        # The last part may have fewer questions than there are processes.
        decoder = sampler.decoder(max(1, len(mine)) * config.samples, config.temperature)
        buffer = collect(
            decoder, stepper, mine, group_size=config.samples, seed=(seed, number), first=first + share.start
        )
        lost = sum(processes.gather(buffer.failed - sum(group.failed for group in buffer.groups)))
        groups = processes.all_gather_flat(buffer.groups)
        return [*groups, Group(questions[0], [], lost)] if lost else groups

    return play


@dataclass(frozen=True)
class Round:
    """Where the episodes of a round are, and what it needs of them.

    Args:
        folder: holds the parts of the round that are done; missing ones are played and added.
        wanted: stop after this many successful episodes; None: play all questions.
        max_failure_rate: of retrieval, in a part.
        required: whether the round must have a successful episode. Else it may have none, and trains nothing.
        trained_since: whether the policy that played the round has been trained since, so that it can't play more.
    """

    folder: Path
    wanted: int | None
    max_failure_rate: float
    required: bool
    trained_since: bool


def episodes_of_round(
    about: Round,
    play: Play,
    questions: Sequence[Question],
    processes: Processes,
    progress: Callable[[int, int], None],
) -> tuple[RolloutBuffer, dict[str, float]]:
    """The successful episodes of a round, and what is known of all of them.

    `play` plays questions; `progress` is called after each part with the numbers of questions played and of successful
    episodes. Raises `TrainingError` if a required episode is missing or retrieval fails too often, `CheckpointError`
    if a part is damaged or can't be made again.
    """
    kept: list[Group] = []
    totals: Counter[str] = Counter()
    for number, first in enumerate(range(0, len(questions), PART)):
        path = about.folder / f"part-{number:04d}.jsonl.gz"
        if not processes.run_on_main(path.is_file):
            if about.trained_since:
                raise CheckpointError(f"{path} is missing; {_repair(about)}")
            groups = play(questions[first : first + PART], first)
            _check_failures(groups, about.max_failure_rate)
            good = [group for group in map(_successes, groups) if group.trajectories]
            part = RolloutBuffer(good, metadata=dict(_counts(groups)))
            processes.run_on_main(lambda path=path, part=part: part.save(path))  # type: ignore[misc] # its defaults
        try:
            part = RolloutBuffer.load(path)
            totals.update(as_type(dict[str, int], part.metadata, f"{path}: metadata"))
        except (RolloutBufferError, FileError) as error:
            raise CheckpointError(f"{path} is damaged ({one_line(error)}); {_repair(about)}") from error
        kept += part.groups
        found = sum(len(group.trajectories) for group in kept)
        progress(min(first + PART, len(questions)), found)
        if (about.wanted is not None and found >= about.wanted) or (not kept and number + 1 == HOPELESS):
            break
    if about.required and not kept:
        raise TrainingError(
            f"warm start: none of {totals['episodes']:,} episodes answered a question with what it had read "
            f"({totals['answer_read']:,} had read a golden answer, {totals['full']:,} had no room left). If none had "
            "read one, the corpus lacks the answers of env.questions, or the limit on tokens of an observation is too "
            "low; check both with igsearch evaluate --policy oracle-titles. If all had no room, raise "
            f"rollout.max_new_tokens or policy.context_length. Delete {about.folder.parent} before the next attempt"
        )
    groups = list(_first(kept, about.wanted))
    return RolloutBuffer(groups), _rates(totals)


def _repair(about: Round) -> str:
    checkpoints = about.folder.parent / "checkpoints"
    also = f", and {checkpoints} with it: the policy that played it has been trained since" * about.trained_since
    return f"restore it, or delete it{also}; the same command makes again what is missing"


def _check_failures(groups: Sequence[Group], most: float) -> None:
    """Raise `TrainingError` if retrieval failed too often, before such a part is saved."""
    failed = sum(group.failed for group in groups)
    episodes = failed + sum(len(group.trajectories) for group in groups)
    if failed > most * episodes:
        raise TrainingError(
            f"warm start: retrieval failed for {failed} of {episodes} episodes, more than env.max_failure_rate={most}; "
            "fix the retriever and run again to resume"
        )


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
