"""Steps many episodes together, for both environments: one retrieval call and one scoring call per step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from igsearch_env.episode import AgentAction, Episode, check_action
from igsearch_env.errors import ConfigurationError, QuestionError, check_choice
from igsearch_env.evidence import SearchStep, has_evidence
from igsearch_env.information_gain import InformationGain, InformationGainConfig
from igsearch_env.plain import plain
from igsearch_env.questions import Question, check_unique
from igsearch_env.rules import EpisodeRules
from igsearch_env.scorers import AnswerScorer, UnigramScorer
from igsearch_env.spaces import ActionSpace, UnicodeText
from igsearch_env.trajectory import Trajectory
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
        scorer: AnswerScorer | Literal["unigram"] | None,
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
        if isinstance(information_gain, dict):
            unknown = set(information_gain) - set(InformationGainConfig.__dataclass_fields__)
            for key in sorted(unknown):
                check_choice("information_gain key", key, InformationGainConfig.__dataclass_fields__)
            information_gain = InformationGainConfig(**information_gain)
        config = information_gain or InformationGainConfig()
        if scorer == "unigram":
            scorer = UnigramScorer(self.retriever)
        elif isinstance(scorer, str):
            check_choice("scorer", scorer, ("unigram",))
        self.information_gain = (
            InformationGain(config, scorer, rules.protocol, self.retriever, seed) if scorer is not None else None
        )

    def spaces(self) -> tuple[UnicodeText, ActionSpace]:
        """Observation space and action space of one environment."""
        return UnicodeText(MAX_TEXT_CHARS), ActionSpace(MAX_TEXT_CHARS)

    def begin(self, question: Question) -> Episode:
        """Start an episode."""
        return Episode(question, self.rules)

    def step(self, episodes: Sequence[Episode], actions: Sequence[AgentAction]) -> list[float]:
        """Advance running episodes by one action each; returns the reward of each action.

        An action is the text of the policy, or `Search(query)` or `Answer(text)` (see `Episode.act`).

        One retrieval call and at most one scoring call for all episodes. A search earns its stabilised
        information gain when that is known (at once; in the autorefine family one action later), an answer
        its outcome reward.
        """
        for number, action in enumerate(actions):
            check_action(action, "action" if len(actions) == 1 else f"actions[{number}]")
        queries = [episode.act(action) for episode, action in zip(episodes, actions, strict=True)]
        self.finish(episodes, queries)
        return [episode.trajectory.turns[-1].reward for episode in episodes]

    def finish(
        self, episodes: Sequence[Episode], queries: Sequence[str | None], pool: Sequence[SearchStep] | None = None
    ) -> None:
        """What follows `Episode.act`: passages for the queries that it returned, then the gains that are complete.

        `pool`: see `InformationGain.measure`.
        """
        searching = [(episode, query) for episode, query in zip(episodes, queries, strict=True) if query is not None]
        if searching:
            found = self.retrieve([query for _, query in searching])
            for (episode, _), passages in zip(searching, found, strict=True):
                if passages is None:
                    episode.fail()
                else:
                    episode.observe(passages)
        if self.information_gain is not None:
            self._pay_information_gain(episodes, self.information_gain, pool)

    def retrieve(self, queries: Sequence[str]) -> Sequence[list[Passage] | None]:
        """The passages of each query in one call; None where the retriever failed."""
        try:
            return self.retriever.search(queries, self.rules.top_k)
        except RetrievalError as error:
            return error.results or [None] * len(queries)

    def _pay_information_gain(
        self, episodes: Sequence[Episode], information_gain: InformationGain, pool: Sequence[SearchStep] | None
    ) -> None:
        steps: list[SearchStep] = []
        payees: list[Episode] = []
        for episode in episodes:
            index = episode.take_measurable(has_evidence(episode.trajectory.turns[-1]))
            if index is not None:
                steps.append(SearchStep(episode.trajectory, index))
                payees.append(episode)
        if not steps:
            return
        try:
            gains = information_gain.measure(steps, pool)
        except RetrievalError:  # the retriever returned no random passages for the baseline
            for episode in payees:
                if not episode.trajectory.done:
                    episode.fail()
            return
        for episode, step, gain in zip(payees, steps, gains, strict=True):
            episode.trajectory.turns[step.index].gain = gain
            episode.trajectory.turns[-1].reward += information_gain.config.stabilise(gain.value)


def step_info(episode: Episode, *, json: bool = False) -> dict[str, Any]:
    """The `info` of an episode: always the same keys, None where a key has no value this step.

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
        "passages": turn.passages if turn is not None else (),
        "information_gain": gain.value if gain is not None else None,
        "logprob_real": gain.logprob_real if gain is not None else None,
        "logprob_baseline": gain.logprob_baseline if gain is not None else None,
        "invalid": episode.invalid_reason if turn is not None else None,
        "prediction": trajectory.prediction,
        "outcome": trajectory.outcome if trajectory.done else None,
        "attempts": len(trajectory.attempts),
        "stop_reason": trajectory.stop_reason or None,
    }
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
