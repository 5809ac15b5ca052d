"""The vector form of `IGSearch-v0`: N episodes in lockstep, one retrieval call and one scoring call per step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from igsearch_env.episode import AgentAction, Episode, check_action
from igsearch_env.errors import ConfigurationError, check_choice
from igsearch_env.information_gain import InformationGainConfig
from igsearch_env.named_scorers import Scorer
from igsearch_env.opening import Corpus, Opened, Questions
from igsearch_env.plain import plain
from igsearch_env.protocols import Answer, Protocol, Search, as_protocol
from igsearch_env.questions import Question
from igsearch_env.rules import EpisodeRules
from igsearch_env.stepper import EpisodeStepper, checked_options, step_info
from igsearch_env.trajectory import Trajectory
from retrievers.base import Retriever

Strings = tuple[str, ...]
Flags = NDArray[np.bool_]


class IGSearchVectorEnv(VectorEnv[Strings, Sequence[AgentAction], Any]):
    """N `IGSearchEnv` environments. Takes the same arguments, and the `attempts` of `ReflectionWrapper`.

    Observations are tuples of N strings, actions sequences of N strings, `Search` or `Answer`. `infos` is that of
    Gymnasium's vector environments: for each key of `IGSearchEnv`'s info that an environment has at this step an array
    of shape (N,), and a mask `_key` of the environments that have it; with `json_info` lists.

    `autoreset_mode`, as in Gymnasium: "NextStep", the step after the end of an episode begins another one; "SameStep",
    the step that ends it does, and `infos` has its `final_obs` and `final_info`. "Disabled": ended episodes stay as
    they are (their actions are ignored, their rewards are 0, and they have no info) until the next `reset`.
    """

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 (as Gymnasium declares it)

    def __init__(
        self,
        num_envs: int = 1,
        questions: Questions | None = None,
        retriever: Retriever | None = None,
        scorer: Scorer | None = "unigram",
        *,
        corpus: Corpus | None = None,
        top_k: int = 3,
        max_searches: int = 4,
        attempts: int = 1,
        protocol: str | Protocol = "search_r1",
        information_gain: InformationGainConfig | dict[str, Any] | None = None,
        outcome_reward: str = "em",
        seed: int = 0,
        json_info: bool = False,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
    ) -> None:
        if num_envs < 1:
            raise ConfigurationError(f"num_envs={num_envs}: must be at least 1")
        if render_mode is not None:
            raise ConfigurationError(f"render_mode={render_mode!r}: the vector environment can't render; use gym.make")
        mode = autoreset_mode.value if isinstance(autoreset_mode, AutoresetMode) else autoreset_mode
        check_choice("autoreset_mode", mode, [each.value for each in AutoresetMode])
        rules = EpisodeRules(top_k, max_searches, attempts, as_protocol(protocol), outcome_reward)
        self._opened = Opened.of(questions, retriever, corpus)
        self.stepper = EpisodeStepper(
            self._opened.questions,
            self._opened.retriever,
            scorer,
            rules,
            information_gain=information_gain,
            seed=seed,
        )
        self.num_envs = num_envs
        self.json_info = json_info
        self.autoreset_mode = AutoresetMode(mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.single_observation_space, self.single_action_space = self.stepper.spaces()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.episodes: list[Episode] = []
        self._generators: list[np.random.Generator] = []

    @property
    def trajectories(self) -> list[Trajectory]:
        """The records of the current episodes, one per environment."""
        return [episode.trajectory for episode in self.episodes]

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Strings, dict[str, Any]]:
        """Begin all episodes, or those of `options["reset_mask"]` (a boolean array).

        `options["questions"]`: N questions, one per environment, instead of random ones.
        """
        given = checked_options(options)
        mask = self._mask(given.get("reset_mask"))
        chosen = self._chosen(given.get("questions"))
        self._seed(seed, mask)
        episodes = self.episodes or [None] * self.num_envs  # type: ignore[list-item]
        self.episodes = [
            (self.stepper.begin(chosen[i]) if chosen is not None else self._draw(i)) if mask[i] else episodes[i]
            for i in range(self.num_envs)
        ]
        infos: dict[str, Any] = {}
        for i in np.flatnonzero(mask).tolist():
            infos = self._add_info(infos, step_info(self.episodes[i]), i)
        return self._observations(), plain(infos) if self.json_info else infos

    def step(self, actions: Sequence[AgentAction]) -> tuple[Strings, NDArray[np.float64], Flags, Flags, dict[str, Any]]:
        """One turn of every running episode: observations, rewards, terminations, truncations, infos."""
        if not self.episodes:
            raise gymnasium.error.ResetNeeded("no episode is running: call reset() first")
        is_list = isinstance(actions, Sequence) or (isinstance(actions, np.ndarray) and actions.ndim > 0)
        if isinstance(actions, (str, Search, Answer)) or not is_list:
            raise ConfigurationError(
                f"actions is {actions!r}: it must be a sequence of one action for each environment, strings or Search "
                "and Answer"
            )
        for number, action in enumerate(actions):
            check_action(action, f"actions[{number}]")
        if len(actions) != self.num_envs:
            raise ConfigurationError(f"{len(actions)} actions for {self.num_envs} environments: pass one for each")
        ended = [i for i, episode in enumerate(self.episodes) if episode.trajectory.done]
        running = [i for i, episode in enumerate(self.episodes) if not episode.trajectory.done]
        rewards = np.zeros(self.num_envs)
        if running:
            rewards[running] = self.stepper.step([self.episodes[i] for i in running], [actions[i] for i in running])
        if self.autoreset_mode is AutoresetMode.NEXT_STEP:
            for i in ended:
                self.episodes[i] = self._draw(i)
        reasons = [episode.trajectory.stop_reason for episode in self.episodes]
        terminations = np.array([reason == "answered" for reason in reasons])
        truncations = np.array([bool(reason) for reason in reasons]) & ~terminations
        stays = set(ended) if self.autoreset_mode is AutoresetMode.DISABLED else set()
        infos: dict[str, Any] = {}
        for i in range(self.num_envs):
            info = {} if i in stays else step_info(self.episodes[i])
            if self.autoreset_mode is AutoresetMode.SAME_STEP and reasons[i]:
                final = {"final_obs": _observation(self.episodes[i]), "final_info": info}
                self.episodes[i] = self._draw(i)
                info = final | step_info(self.episodes[i])
            infos = self._add_info(infos, info, i)
        return self._observations(), rewards, terminations, truncations, plain(infos) if self.json_info else infos

    def close_extras(self, **kwargs: Any) -> None:
        """Close the search engine that `corpus` opened, and the scorer that a name opened."""
        self.stepper.close()
        self._opened.close()

    def _chosen(self, questions: Any) -> list[Question] | None:
        if questions is None:
            return None
        if isinstance(questions, (str, Mapping)) or not isinstance(questions, (Sequence, np.ndarray)):
            raise ConfigurationError(
                f"options['questions'] is {repr(questions)[:80]}: it must be a list of {self.num_envs} Questions, one "
                "for each environment"
            )
        chosen = list(np.atleast_1d(questions)) if isinstance(questions, np.ndarray) else list(questions)
        if len(chosen) != self.num_envs:
            raise ConfigurationError(f"options['questions'] has {len(chosen)} entries for {self.num_envs} environments")
        for question in chosen:
            if not isinstance(question, Question):
                raise ConfigurationError(f"options['questions'] has {question!r}: each must be a Question")
        return chosen

    def _draw(self, i: int) -> Episode:
        questions = self.stepper.questions
        return self.stepper.begin(questions[int(self._generators[i].integers(len(questions)))])

    def _seed(self, seed: int | Sequence[int | None] | None, mask: Flags) -> None:
        if seed is None and self._generators:
            return
        if seed is None or isinstance(seed, (int, np.integer)):
            seeds: list[int | None] = [None if seed is None else int(seed) + i for i in range(self.num_envs)]
        else:
            if isinstance(seed, str) or not isinstance(seed, (Sequence, np.ndarray)):
                raise ConfigurationError(f"seed={seed!r}: must be a whole number, a list of {self.num_envs}, or None")
            seeds = list(seed)
            if len(seeds) != self.num_envs:
                raise ConfigurationError(f"{len(seeds)} seeds for {self.num_envs} environments: pass one for each")
        old = self._generators or [np.random.default_rng() for _ in seeds]
        self._generators = [
            old[i] if value is None or not mask[i] else np.random.default_rng(value) for i, value in enumerate(seeds)
        ]

    def _mask(self, mask: Any) -> Flags:
        if mask is None:
            return np.ones(self.num_envs, dtype=np.bool_)
        if not (isinstance(mask, np.ndarray) and mask.shape == (self.num_envs,) and mask.dtype == np.bool_):
            raise ConfigurationError(f"reset_mask is {mask!r}: it must be a boolean array of {self.num_envs} entries")
        if not self.episodes and not mask.all():
            raise ConfigurationError("reset_mask leaves environments without an episode: omit it in the first reset")
        return mask

    def _observations(self) -> Strings:
        return tuple(map(_observation, self.episodes))


def _observation(episode: Episode) -> str:
    turns = episode.trajectory.turns
    return turns[-1].observation if turns else episode.trajectory.prompt
