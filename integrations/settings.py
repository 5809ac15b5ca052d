"""`SearchSettings`: questions, search engine and rules of an adapter's episodes, from values of a configuration."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from algorithms.common.base.typed import as_type
from igsearch_env.errors import ConfigurationError, QuestionError, check_choice
from igsearch_env.information_gain import InformationGainConfig
from igsearch_env.opening import Opened
from igsearch_env.protocols import make_protocol
from igsearch_env.questions import Question
from igsearch_env.rules import EpisodeRules
from igsearch_env.scorers import AnswerScorer
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.world.options import BUNDLED
from integrations.batching import StepBatcher
from retrievers.base import Retriever
from retrievers.reading import FileError

_SUPPORTING = ("supporting_titles", "supporting_ids")
_opened: dict[str, StepBatcher] = {}
_opening = threading.Lock()


@dataclass(frozen=True)
class SearchSettings:
    """What `IGSearchEnv` takes, as values that a YAML file or a command line can hold.

    Raises `ConfigurationError` for a value out of range, when it is opened.
    """

    questions: str | tuple[str, ...] = BUNDLED
    """Question files, as `load_questions` reads them; `bundled` or `world:OPTIONS`: those of a world."""
    corpus: str = BUNDLED
    """A corpus file, an index folder or the address of a retrieval service; `bundled`: the world of the questions."""
    scorer: str | None = "unigram"
    """`unigram`, or None for outcome rewards alone. Pass a scorer of another kind to `open`."""
    top_k: int = 3
    """Passages per search."""
    max_searches: int = 4
    """Actions before the policy must answer."""
    protocol: str = "search_r1"
    """Format of actions and observations."""
    prompt: str = ""
    """Prompt: a name, a template with {question}, or @FILE; default: that of the protocol."""
    outcome_reward: str = "em"
    """Reward of an answer: em, f1 or autorefine."""
    information_gain: dict[str, Any] = field(default_factory=dict)
    """Fields of `InformationGainConfig`. `random_source` is always `corpus`, see `open`."""
    seed: int = 0
    """Seed of the random evidence."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> SearchSettings:
        """Settings from a mapping. Raises `ConfigurationError` for a key that is no field, or a wrong type."""
        names = [f.name for f in dataclasses.fields(cls)]
        for key in values:
            check_choice("setting", key, names)
        try:
            return as_type(cls, dict(values), "settings")
        except FileError as error:
            raise ConfigurationError(f"{error}; see SearchSettings for the types") from error

    def open(self, scorer: AnswerScorer | None = None, retriever: Retriever | None = None) -> EpisodeStepper:
        """Questions, search engine and rules, opened.

        Random evidence is drawn from the corpus, not from the searches of other episodes: which of them happen to be
        stepped in the same call depends on timing, and the reward of a search must not.

        Args:
            scorer: an `AnswerScorer` instead of the one that the settings name.
            retriever: a search engine instead of `corpus`.
        """
        check_choice("scorer", str(self.scorer), ("unigram", "None"))
        protocol = make_protocol(self.protocol, self.prompt)
        if protocol.tools:
            raise ConfigurationError(
                f"protocol={self.protocol!r}: the adapters pass on text, in which calls depend on the policy's chat "
                "template; use a protocol of tags, such as 'search_r1'"
            )
        rules = EpisodeRules(
            self.top_k,
            self.max_searches,
            protocol=protocol,
            outcome_reward=self.outcome_reward,
        )
        gain = InformationGainConfig.of({**self.information_gain, "random_source": "corpus"})
        corpus = None if retriever is not None or self.corpus == BUNDLED else self.corpus
        opened = Opened.of(self.questions, retriever, corpus)
        return EpisodeStepper(
            opened.questions,
            opened.retriever,
            scorer if scorer is not None else "unigram" if self.scorer else None,
            rules,
            information_gain=gain,
            seed=self.seed,
        )

    def shared(self) -> StepBatcher:
        """What `open` returns, opened once per process: for frameworks that make an environment for every episode."""
        key = json.dumps(dataclasses.asdict(self), sort_keys=True)
        with _opening:
            if key not in _opened:
                _opened[key] = StepBatcher(self.open())
            return _opened[key]


def question_row(question: Question) -> dict[str, Any]:
    """A question as plain data, for the datasets of trainers; `question_of` reads it.

    Of its metadata, only what sources of gains read (`information_gain.source`).
    """
    known = {key: list(question.metadata[key]) for key in _SUPPORTING if question.metadata.get(key) is not None}
    return {
        "id": question.id,
        "text": question.text,
        "golden_answers": list(question.golden_answers),
        "dataset": question.dataset,
        **known,
    }


def question_of(row: Any, where: str) -> Question:
    """The question that `question_row` wrote. Raises `QuestionError` that begins with `where` for anything else."""
    try:
        values = dict(row)
        values["golden_answers"] = tuple(values["golden_answers"])  # an array, if the row is from a parquet file
        known = {key: values.pop(key, None) for key in _SUPPORTING}
        values["metadata"] = {key: [str(name) for name in names] for key, names in known.items() if names is not None}
        return as_type(Question, values, where)
    except (FileError, KeyError, TypeError, ValueError) as error:
        raise QuestionError(
            f"{where}: {str(row)[:80]!r} is no question ({error}); give id, text, golden_answers and dataset"
        ) from error
