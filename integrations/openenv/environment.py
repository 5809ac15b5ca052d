"""`SearchEnvironment`: one session of the server, which plays one episode at a time."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from gymnasium.utils.seeding import np_random
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import EnvironmentMetadata, State

from igsearch_env.episode import Episode
from igsearch_env.errors import ConfigurationError, check_choice
from igsearch_env.questions import Question
from integrations.batching import StepBatcher
from integrations.episodes import plain_info
from integrations.openenv.models import SearchAction, SearchObservation
from integrations.records import dump_episode
from integrations.settings import question_of

SPLIT = "train"


class SearchEnvironment(Environment):  # type: ignore[misc] # untyped base class
    """Sessions share questions, search engine and scorer; searches of sessions that wait are run together.

    Args:
        batcher: the opened stepper, shared by all sessions.
    """

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, batcher: StepBatcher) -> None:
        super().__init__()
        self.batcher = batcher
        self.episode: Episode | None = None
        self._random = np_random()[0]
        self._state = State(episode_id=str(uuid4()), step_count=0)

    def reset(
        self,
        seed: int | None = None,
        episode_id: str | None = None,
        *,
        index: int | None = None,
        split: str = SPLIT,
        question: dict[str, Any] | None = None,
        **_: Any,
    ) -> SearchObservation:
        """Start an episode with a random question, question number `index`, or a `question` of `question_row`.

        A seed draws the same question as `IGSearchEnv.reset(seed=...)` with the same questions. Raises
        `ConfigurationError` for another split, or an index out of range, `QuestionError` for something else than a
        question.
        """
        if seed is not None:
            self._random = np_random(seed)[0]
        if question is not None:
            chosen = question_of(question, "question")
        elif index is not None:
            chosen = self._task(split, index)
        else:
            chosen = self._questions[int(self._random.integers(len(self._questions)))]
        self.episode = self.batcher.stepper.begin(chosen)
        self._state = State(episode_id=episode_id or str(uuid4()), step_count=0)
        return SearchObservation(text=self.episode.trajectory.prompt, metadata=plain_info(self.episode))

    def step(self, action: SearchAction, timeout_s: float | None = None, **_: Any) -> SearchObservation:
        """One turn of the policy."""
        episode = self._running()
        return self._observation(episode, self.batcher.step(episode, action.text))

    async def step_async(self, action: SearchAction, timeout_s: float | None = None, **_: Any) -> SearchObservation:
        """As `step`; the server calls this one."""
        episode = self._running()
        return self._observation(episode, await self.batcher.astep(episode, action.text))

    @property
    def state(self) -> State:
        """Id of the episode and number of its steps."""
        return self._state

    def get_metadata(self) -> EnvironmentMetadata:
        """Name and description of the environment."""
        return EnvironmentMetadata(
            name="igsearch",
            description="Answer questions with a search engine; each search is rewarded by its information gain.",
            version="0.1.0",
        )

    # ---------------------------------------------------------------- the questions, as tasks

    def list_splits(self) -> list[str]:
        """The only split."""
        return [SPLIT]

    def num_tasks(self, split: str) -> int:
        """Number of questions."""
        check_choice("split", split, [SPLIT])
        return len(self._questions)

    def get_task(self, split: str, index: int) -> dict[str, Any]:
        """A question without its answers. Raises `IndexError` for an index out of range."""
        if not 0 <= index < self.num_tasks(split):
            raise IndexError(f"index={index}: must be in 0 to {self.num_tasks(split) - 1}")
        question = self._questions[index]
        return {"index": index, "id": question.id, "text": question.text, "dataset": question.dataset}

    def list_tasks(self, split: str) -> list[dict[str, Any]]:
        """All questions without their answers."""
        return self.get_task_range(split)

    def get_task_range(self, split: str, start: int | None = None, stop: int | None = None) -> list[dict[str, Any]]:
        """Questions `start` to `stop`, without their answers."""
        return [self.get_task(split, index) for index in range(self.num_tasks(split))[start:stop]]

    # ---------------------------------------------------------------- parts

    @property
    def _questions(self) -> list[Question]:
        return self.batcher.stepper.questions

    def _task(self, split: str, index: int) -> Question:
        count = self.num_tasks(split)
        if not 0 <= index < count:
            raise ConfigurationError(f"index={index}: must be in 0 to {count - 1}, there are {count} questions")
        return self._questions[index]

    def _running(self) -> Episode:
        if self.episode is None:
            raise ConfigurationError("no episode is running: call reset() first")
        if self.episode.trajectory.done:
            raise ConfigurationError(
                f"the episode has ended ({self.episode.trajectory.stop_reason}): call reset() first"
            )
        return self.episode

    def _observation(self, episode: Episode, reward: float) -> SearchObservation:
        self._state.step_count += 1
        trajectory = episode.trajectory
        return SearchObservation(
            text=trajectory.turns[-1].observation,
            reward=reward,
            done=trajectory.done,
            episode=dump_episode(trajectory) if trajectory.done else "",
            metadata=plain_info(episode),
        )
