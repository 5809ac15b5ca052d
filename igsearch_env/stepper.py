"""Steps many episodes together, for both environments: one retrieval call and one scoring call per step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from igsearch_env.episode import AgentAction, Episode, check_action
from igsearch_env.errors import ConfigurationError, QuestionError
from igsearch_env.evidence import SearchStep, has_evidence
from igsearch_env.gain_sources import check_source_of_episodes
from igsearch_env.information_gain import InformationGain, InformationGainConfig
from igsearch_env.named_scorers import Scorer, open_scorer
from igsearch_env.plain import plain
from igsearch_env.question_lists import check_unique
from igsearch_env.questions import Question
from igsearch_env.rules import EpisodeRules
from igsearch_env.spaces import ActionSpace, UnicodeText
from igsearch_env.trajectory import Gain, Trajectory
from igsearch_env.world.bundled import bundled_retriever, bundled_world
from retrievers.base import Passage, RetrievalError, Retriever

# Bound of the text spaces. Actions longer than a protocol allows are in the space too: they are invalid actions.
MAX_TEXT_CHARS = 1_000_000


class EpisodeStepper:
    """Questions, retriever, scorer and rules: the environments without Gymnasium's interface.

    The other arguments are documented in `IGSearchEnv`.
    """

    def __init__(
        self,
        questions: Sequence[Question] | None,
        retriever: Retriever | None,
        scorer: Scorer | None,
        rules: EpisodeRules | None = None,
        *,
        information_gain: InformationGainConfig | dict[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        if questions is None and retriever is not None:
            raise ConfigurationError("retriever is given but no questions: pass both, or neither for the bundled world")
        self.questions = list(bundled_world().questions["train"] if questions is None else questions)
        if not self.questions:
            raise QuestionError("questions is empty: pass at least one Question")
        check_unique(self.questions, "questions")
        self.retriever = retriever if retriever is not None else bundled_retriever()
        self.rules = rules = rules or EpisodeRules()
        self.retriever.check_count(rules.top_k, "top_k")
        config = InformationGainConfig.of(information_gain)
        check_source_of_episodes(config.source, self.questions, self.retriever)
        self.scorer = open_scorer(scorer, self.retriever) if scorer is not None and config.needs_scorer else None
        self._opened = self.scorer is not scorer  # here, by its name
        self.information_gain = (
            None
            if self.scorer is None and config.needs_scorer
            else InformationGain(config, self.scorer, rules.protocol, self.retriever, seed)
        )

    def spaces(self) -> tuple[UnicodeText, ActionSpace]:
        """Observation space and action space of one environment."""
        return UnicodeText(MAX_TEXT_CHARS), ActionSpace(MAX_TEXT_CHARS)

    def choose(self, options: dict[str, Any] | None, rng: np.random.Generator) -> Question:
        """The question in the options of a reset, else one drawn uniformly with `rng`."""
        question = checked_options(options).get("question")
        if question is None:
            return self.questions[int(rng.integers(len(self.questions)))]
        if not isinstance(question, Question):
            raise ConfigurationError(
                f"options['question'] is {question!r}: it must be a Question; make one with Question.from_dict"
            )
        return question

    def begin(self, question: Question) -> Episode:
        """Start an episode."""
        return Episode(question, self.rules)

    def step(self, episodes: Sequence[Episode], actions: Sequence[AgentAction]) -> list[float]:
        """Advance running episodes by one action each; returns the reward of each action.

        An action is the text of the policy, or `Search(query)` or `Answer(text)` (see `Episode.act`).

        One retrieval call and at most one scoring call for all episodes. A search earns its stabilised
        information gain when that is known (at once; in the autorefine family one action later), an answer
        its outcome reward. After a step that raised, its episodes can't be continued (`ConfigurationError`).
        """
        for number, action in enumerate(actions):
            check_action(action, "action" if len(actions) == 1 else f"actions[{number}]")
        for number, episode in enumerate(episodes):
            if episode.unfinished:
                which = "this episode" if len(episodes) == 1 else f"episode {number} of those that are running"
                raise ConfigurationError(
                    f"the last step of {which} raised an error, so that its observation and reward are missing: call "
                    "reset() to begin another episode"
                )
        for episode in episodes:
            episode.unfinished = True
        queries = [episode.act(action) for episode, action in zip(episodes, actions, strict=True)]
        self.finish(episodes, queries)
        for episode in episodes:
            episode.unfinished = False
        return [episode.trajectory.turns[-1].reward for episode in episodes]

    def finish(self, episodes: Sequence[Episode], queries: Sequence[str | None]) -> None:
        """What follows `Episode.act`: passages for the queries that it returned, then the gains that are complete."""
        searching = [(episode, query) for episode, query in zip(episodes, queries, strict=True) if query is not None]
        if searching:
            found: Sequence[list[Passage] | None]
            try:
                found = self.search([query for _, query in searching])
            except RetrievalError as error:
                found = error.results or [None] * len(searching)
            for (episode, _), passages in zip(searching, found, strict=True):
                if passages is None:
                    episode.fail()
                else:
                    episode.observe(passages)
        measured = self.measurable(episodes)
        if not measured:
            return
        assert self.information_gain is not None
        try:
            gains = self.information_gain.measure([step for _, step in measured])
        except RetrievalError:  # the retriever returned no random passages for the baseline
            for episode, _ in measured:
                if not episode.trajectory.done:
                    episode.fail()
            return
        for (episode, step), gain in zip(measured, gains, strict=True):
            self.pay(episode, step, gain)

    def close(self) -> None:
        """Close the scorer, if it was opened by its name and holds connections."""
        if self._opened and callable(close := getattr(self.scorer, "close", None)):
            close()

    def search(self, queries: Sequence[str]) -> list[list[Passage]]:
        """The passages of each query, in one call of the retriever."""
        return self.retriever.search(queries, self.rules.top_k)

    def measurable(self, episodes: Sequence[Episode]) -> list[tuple[Episode, SearchStep]]:
        """The searches whose gain is complete after the last actions. Each is returned once."""
        if self.information_gain is None:
            return []
        ready = [(e, e.take_measurable(has_evidence(e.trajectory.turns[-1]))) for e in episodes]
        return [(episode, SearchStep(episode.trajectory, index)) for episode, index in ready if index is not None]

    def pay(self, episode: Episode, step: SearchStep, gain: Gain) -> None:
        """Record the gain of a search and add it, stabilised, to the reward of the last action."""
        assert self.information_gain is not None
        episode.trajectory.turns[step.index].gain = gain
        episode.trajectory.turns[-1].reward += self.information_gain.config.stabilise(gain.value)


def checked_options(options: object) -> Mapping[str, Any]:
    """The options of a reset. Raises `ConfigurationError` unless they are a dictionary or None."""
    if options is not None and not isinstance(options, Mapping):
        raise ConfigurationError(
            f"options={repr(options)[:80]}: must be a dictionary, such as {{'question': Question}}"
        )
    return options or {}


def step_info(episode: Episode, *, json: bool = False) -> dict[str, Any]:
    """The `info` of an episode: the keys that have a value at this step.

    Gymnasium's vector environments make a mask `_key` of the keys that each environment reports, and an array whose
    dtype is the type of the first value, so that a key without a value is left out and each key has one type.
    `json`: as plain data, which `json.dumps` accepts (`plain.py`).
    """
    trajectory = episode.trajectory
    turn = trajectory.turns[-1] if trajectory.turns else None
    measured = turn
    if turn is not None and episode.rules.protocol.refines:
        measured = trajectory.turns[-2] if len(trajectory.turns) > 1 else None
    gain = measured.gain if measured is not None else None
    info = {
        "question_id": trajectory.question.id,
        "query": turn.query if turn is not None else None,
        "passages": turn.passages if turn is not None and turn.is_search else None,
        "information_gain": float(gain.value) if gain is not None else None,
        "logprob_real": float(gain.logprob_real) if gain is not None else None,
        "logprob_baseline": float(gain.logprob_baseline) if gain is not None else None,
        "invalid": episode.invalid_reason if turn is not None else None,
        "prediction": trajectory.prediction,
        "outcome": float(trajectory.outcome) if trajectory.done else None,
        "attempts": len(trajectory.attempts),
        "stop_reason": trajectory.stop_reason or None,
    }
    info = {key: value for key, value in info.items() if value is not None}
    return plain(info) if json else info


def render(trajectory: Trajectory) -> str:
    """An episode as plain text, one block per turn, with the information gain of each search."""
    lines = [f"Question ({trajectory.question.dataset} {trajectory.question.id}): {trajectory.question.text}"]
    for number, turn in enumerate(trajectory.turns, start=1):
        lines.append(f"[{number}] {turn.text.strip()}")
        if turn.gain is not None:
            lines.append(
                f"    information gain {turn.gain.value:+.3f} nats "
                f"(real {turn.gain.logprob_real:.3f}, baseline {turn.gain.logprob_baseline:.3f})"
            )
        lines += [f"    {line}" for line in turn.observation.strip().splitlines()]
    if trajectory.done:
        golds = " | ".join(trajectory.question.golden_answers)
        lines.append(f"{trajectory.stop_reason}: outcome {trajectory.outcome:.3f} (golden: {golds})")
    return "\n".join(lines)
