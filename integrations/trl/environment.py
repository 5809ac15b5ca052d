"""IGSearch for TRL's own `environment_factory`: a search tool, called in JSON by TRL, and two reward functions.

    GRPOTrainer(
        model=..., args=GRPOConfig(..., reward_weights=[1.0, 0.3]), train_dataset=question_dataset(chat=True),
        environment_factory=environment_factory(), reward_funcs=[outcome, information_gain],
    )

The advantage is then TRL's: one number per episode. `IGSearchTrainer` has the credit per token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from igsearch_env.episode import Episode
from igsearch_env.errors import ConfigurationError
from igsearch_env.information_gain import InformationGainConfig
from igsearch_env.opening import Corpus, Opened, Questions
from igsearch_env.protocols import Search
from igsearch_env.rewards import outcome_reward
from igsearch_env.rules import EpisodeRules
from igsearch_env.scorers import AnswerScorer
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.trajectory import Trajectory
from integrations.trl.dataset import question_of
from retrievers.base import Passage, Retriever

NO_SEARCH_LEFT = "No search is left. Reply with the answer now."


class SearchEnvironment:
    """One episode. TRL makes an instance per rollout, resets it with a row of the data set and calls its tool.

    TRL offers every public method but `reset` as a tool, so there is only one.
    """

    def __init__(self, stepper: EpisodeStepper) -> None:
        self._stepper = stepper
        self._episode: Episode | None = None

    def reset(self, **row: Any) -> None:
        """Start an episode with the question of a row. Raises `ConfigurationError` for a row of another data set."""
        self._episode = self._stepper.begin(question_of(row))

    def search(self, query: str) -> str:
        """Search for passages that help to answer the question.

        Args:
            query: What to look for, in a few words.

        Returns:
            The passages that were found, the best first.
        """
        episode = self._running
        if episode.trajectory.done or episode.searches_left == 0:
            return NO_SEARCH_LEFT
        protocol = self._stepper.rules.protocol
        text = protocol.write(Search(query.strip()))
        if not query.strip() or protocol.parse(text) != Search(query.strip()):
            # TRL shows the message to the policy and counts a failed call.
            raise ValueError("the query is empty, too long or contains markup: write a few plain words")
        self._stepper.step([episode], [text])
        if episode.trajectory.retrieval_failed:
            return "The search engine failed."
        left = "" if episode.searches_left else f"\n\n{NO_SEARCH_LEFT}"
        return passages_text(episode.trajectory.turns[-1].passages) + left

    @property
    def _running(self) -> Episode:
        if self._episode is None:
            raise ConfigurationError("no episode is running: call reset() with a row of question_dataset first")
        return self._episode

    @property
    def trajectory(self) -> Trajectory:
        """The searches of the episode, with their passages and gains."""
        return self._running.trajectory

    @property
    def rules(self) -> EpisodeRules:
        """The rules of the episode."""
        return self._stepper.rules


def environment_factory(
    questions: Questions | None = None,
    retriever: Retriever | None = None,
    *,
    corpus: Corpus | None = None,
    scorer: AnswerScorer | Literal["unigram"] | None = "unigram",
    top_k: int = 3,
    max_searches: int = 4,
    outcome_reward: str = "em",
    information_gain: InformationGainConfig | dict[str, Any] | None = None,
    seed: int = 0,
) -> Callable[[], SearchEnvironment]:
    """What TRL's `environment_factory` takes. All its environments share one search engine and one scorer.

    The arguments are those of `IGSearchEnv`. `scorer=None`: `information_gain` rewards nothing, and costs nothing.
    """
    opened = Opened.of(questions, retriever, corpus)
    rules = EpisodeRules(top_k, max_searches, outcome_reward=outcome_reward)
    stepper = EpisodeStepper(
        opened.questions, opened.retriever, scorer, rules, information_gain=information_gain, seed=seed
    )
    return lambda: SearchEnvironment(stepper)


def outcome(completions: Sequence[Any], environments: Sequence[SearchEnvironment], **_: Any) -> list[float | None]:
    """TRL's reward function: the outcome reward of the last message; None where retrieval failed.

    A function rather than `get_reward`, because TRL does not show that the message that ends an episode.
    """
    rewards: list[float | None] = []
    for messages, environment in zip(completions, environments, strict=True):
        trajectory = environment.trajectory
        answer, golden = final_answer(messages), trajectory.question.golden_answers
        earned = 0.0 if answer is None else outcome_reward(environment.rules.outcome_reward, answer, golden, [])
        rewards.append(None if trajectory.retrieval_failed else earned)
    return rewards


def information_gain(environments: Sequence[SearchEnvironment], **_: Any) -> list[float | None]:
    """TRL's reward function: the sum of the stabilised information gains of an episode, in nats."""
    return [
        None if e.trajectory.retrieval_failed else sum(turn.reward for turn in e.trajectory.turns if turn.is_search)
        for e in environments
    ]


def final_answer(messages: Sequence[Any]) -> str | None:
    """The text of the message that ends an episode; None if it is a tool call, a result or empty."""
    last = messages[-1] if messages else {}
    if last.get("role") != "assistant" or last.get("tool_calls"):
        return None
    text = str(last.get("content") or "").strip()
    return text or None


def passages_text(passages: Sequence[Passage]) -> str:
    """Passages as a tool returns them."""
    return "\n".join(f"[{n}] {p.title}: {p.text}" for n, p in enumerate(passages, start=1)) or "Nothing was found."
