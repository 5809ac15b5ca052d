"""`IGSearch-v0`: one question, one episode."""

from __future__ import annotations

from typing import Any

import gymnasium

from igsearch_env.episode import AgentAction, Episode, check_action
from igsearch_env.errors import ConfigurationError
from igsearch_env.information_gain import InformationGainConfig
from igsearch_env.named_scorers import Scorer
from igsearch_env.opening import Corpus, Opened, Questions
from igsearch_env.protocols import Protocol, as_protocol
from igsearch_env.rules import EpisodeRules
from igsearch_env.stepper import EpisodeStepper, render, step_info
from igsearch_env.terminal import EpisodePrinter
from igsearch_env.trajectory import Trajectory
from retrievers.base import Retriever


class IGSearchEnv(gymnasium.Env[str, AgentAction]):
    """Question answering with a search engine; each search is rewarded by its information gain.

    ## Description
    The agent reads a question, writes searches and reads the passages that they find, until it answers.

    ## Action Space
    `ActionSpace`: any string. The first `<search> query </search>` or `<answer> answer </answer>` in it counts;
    a string with neither, or of more than 16,384 characters, is an invalid action and returns a correction.
    `Search(query)` and `Answer(text)` are actions, too, and used as they are: tags in them mean nothing.

    ## Observation Space
    `UnicodeText`: first the prompt with the question, then the result of each action: the passages of a search in
    `<information>` (`<documents>` in the autorefine family), a correction, or "" at the end.

    ## Rewards
    A search earns its stabilised information gain, in nats: how much its passages raise the scorer's mean token
    log-probability of the first golden answer over random passages. In the autorefine family it is paid with the
    next action, after the agent has refined the passages. An answer earns the outcome reward, in [0, 1].

    ## Starting State
    A question drawn uniformly with the environment's generator, or the one in `reset(options={"question": ...})`.

    ## Episode End
    Terminated by an answer. Truncated when the turn after the last call contains none ("no_answer"), or when the
    retriever fails ("retrieval_failed": the agent is not the cause). Every action but an answer
    uses up one of `max_searches`; then the agent is asked to answer and has one more turn.

    ## Information
    A key is present at the steps at which it has a value, so read the others with `info.get`:

    - always: `question_id`, `attempts` (finished ones; see `ReflectionWrapper`)
    - of a search: `query`, `passages` (a tuple of `Passage`)
    - where a gain is known: `information_gain` (nats, before stabilising), `logprob_real`, `logprob_baseline`
    - of an invalid action: `invalid` (why)
    - after an answer: `prediction`; at the end: `outcome`, `stop_reason`

    ## Arguments
    Args:
        questions: questions to draw from, or the path of a question file or folder, PATH:SPLIT, PATH:SPLIT[A:B] or
            hf:REPO/CONFIG:SPLIT (see `load_questions`), or a list of these; the training questions of the bundled
            world by default, or of another generated one: "world:hard", "world:depth=4,noise=0.1" (`WorldOptions`).
        retriever: the search engine; BM25 over the bundled world by default.
        corpus: instead of `retriever`, what `open_retriever` opens: a corpus file, an index folder or the address of
            a retrieval service. Questions of other sources than a generated world need one of the two.
        scorer: an `AnswerScorer`, or its name: "unigram" (smoothed query likelihood, needs no model), a model's name or
            folder, or the address of an OpenAI-compatible server (see `open_scorer`). None: outcome rewards only.
        top_k: passages per search.
        max_searches: actions before the agent must answer.
        protocol: "search_r1", "autorefine", or a `Protocol` with a prompt template of your own.
        information_gain: an `InformationGainConfig` or a dictionary of its fields.
        outcome_reward: "em", "f1" or "autorefine" (F1, or 0.1 for a golden answer in a refine block).
        seed: seed of the random evidence, which also depends on the question and the step.
        json_info: `info` as plain data, which `json.dumps` accepts; a passage is a dictionary of its fields.
        render_mode: "ansi" (render returns the episode so far) or "human" (each turn is printed).

    ## References
    IG-Search, arXiv 2604.15148; Search-R1, arXiv 2503.09516; AutoRefine, arXiv 2505.11277.

    ## Version History
    v0: first version.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "human"], "render_fps": 1}  # noqa: RUF012 (as Gymnasium declares it)

    def __init__(
        self,
        questions: Questions | None = None,
        retriever: Retriever | None = None,
        scorer: Scorer | None = "unigram",
        *,
        corpus: Corpus | None = None,
        top_k: int = 3,
        max_searches: int = 4,
        protocol: str | Protocol = "search_r1",
        information_gain: InformationGainConfig | dict[str, Any] | None = None,
        outcome_reward: str = "em",
        seed: int = 0,
        json_info: bool = False,
        render_mode: str | None = None,
    ) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ConfigurationError(f"render_mode={render_mode!r}: must be None, 'ansi' or 'human'")
        rules = EpisodeRules(top_k, max_searches, protocol=as_protocol(protocol), outcome_reward=outcome_reward)
        self._opened = Opened.of(questions, retriever, corpus)
        self.stepper = EpisodeStepper(
            self._opened.questions,
            self._opened.retriever,
            scorer,
            rules,
            information_gain=information_gain,
            seed=seed,
        )
        self.render_mode = render_mode
        self.json_info = json_info
        self.observation_space, self.action_space = self.stepper.spaces()
        self.episode: Episode | None = None
        self._printer = EpisodePrinter(self.stepper.rules.protocol)  # for mode "human"

    @property
    def trajectory(self) -> Trajectory:
        """The record of the episode so far."""
        if self.episode is None:
            raise gymnasium.error.ResetNeeded("no episode is running: call reset() first")
        return self.episode.trajectory

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start an episode. `options={"question": Question}` chooses the question."""
        super().reset(seed=seed)
        self.episode = self.stepper.begin(self.stepper.choose(options, self.np_random))
        self._printer = EpisodePrinter(self.stepper.rules.protocol)
        if self.render_mode == "human":
            self.render()
        return self.trajectory.prompt, step_info(self.episode, json=self.json_info)

    def step(self, action: AgentAction) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """One turn of the agent, as text, `Search` or `Answer`: observation, reward, terminated, truncated, info."""
        check_action(action)
        trajectory = self.trajectory
        if trajectory.done:
            raise gymnasium.error.ResetNeeded(f"the episode has ended ({trajectory.stop_reason}): call reset() first")
        assert self.episode is not None
        reward = self.stepper.step([self.episode], [action])[0]
        if self.render_mode == "human":
            self.render()
        terminated = trajectory.stop_reason == "answered"
        truncated = trajectory.done and not terminated
        info = step_info(self.episode, json=self.json_info)
        return trajectory.turns[-1].observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Close the search engine that `corpus` opened, and the scorer that a name opened."""
        self.stepper.close()
        self._opened.close()

    def render(self) -> str | None:
        """Mode "ansi": return the episode so far as a string. Mode "human": print what is new in it."""
        if self.render_mode is None:
            gymnasium.logger.warn('render() without a render_mode does nothing: use gym.make(..., render_mode="ansi")')
            return None
        if self.render_mode == "ansi":
            return render(self.trajectory)
        self._printer.show(self.trajectory)
        return None
