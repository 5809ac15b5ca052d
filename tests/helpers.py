"""A world small enough to reason about, and stand-ins that record what they are asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from igsearch_env import Gain, IGSearchEnv, IGSearchVectorEnv, InformationGain, InformationGainConfig
from igsearch_env.evidence import SearchStep
from igsearch_env.protocols import PROTOCOLS, Invalid, Protocol, Search, make_protocol
from igsearch_env.protocols.tags import TagProtocol
from igsearch_env.questions import Question
from igsearch_env.scorers import ScoreRequest
from igsearch_env.trajectory import Trajectory, Turn
from retrievers import BM25Retriever, DictionaryRetriever, Passage, RetrievalError, Retriever

TAGGED = sorted(name for name, protocol in PROTOCOLS.items() if issubclass(protocol, TagProtocol))
"""Protocols whose actions are tags."""

PASSAGES = [
    Passage("p0", "Alan Brin", "Alan Brin was born in Tolona."),
    Passage("p1", "Tolona", "Tolona is a city in Veria."),
    Passage("p2", "The Silent River", "The Silent River is a novel by Alan Brin."),
    Passage("p3", "Mira Sorel", "Mira Sorel worked as a botanist in Karith."),
    Passage("p4", "Karith", "Karith stands on the river Ostue."),
    Passage("p5", "Vexo Glass", "Vexo Glass was founded by Mira Sorel."),
    Passage("p6", "Ostue", "The Ostue flows north into the sea of Lurm."),
    Passage("p7", "Lurm", "Lurm is a shallow sea known for herring and fog."),
]
QUESTIONS = [
    Question("q0", "Where was Alan Brin born?", ("Tolona",), "birthplace"),
    Question("q1", "What did Mira Sorel work as?", ("botanist", "a botanist"), "occupation"),
    Question("q2", "Who founded Vexo Glass?", ("Mira Sorel",), "founder"),
    Question("q3", "Which river flows through Karith?", ("Ostue", "the Ostue"), "river"),
]

INFO_KEYS = {
    "question_id",
    "query",
    "passages",
    "information_gain",
    "logprob_real",
    "logprob_baseline",
    "invalid",
    "prediction",
    "outcome",
    "attempts",
    "stop_reason",
}


def info_of(infos: dict[str, Any], i: int) -> dict[str, Any]:
    """The info of environment `i` among those of a vector environment."""
    return {key: infos[key][i] for key in INFO_KEYS & infos.keys() if infos[f"_{key}"][i]}


def small_retriever() -> BM25Retriever:
    """BM25 over `PASSAGES`."""
    return BM25Retriever(PASSAGES)


def search(query: str) -> str:
    """A turn that searches."""
    return f"<think> hm </think> <search> {query} </search>"


def answer(text: str) -> str:
    """A turn that answers."""
    return f"<answer> {text} </answer>"


class CountingRetriever(Retriever):
    """Passes everything on and records the queries of each search call."""

    def __init__(self, inner: Retriever) -> None:
        self.inner = inner
        self.calls: list[list[str]] = []

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.calls.append(list(queries))
        return self.inner.search(queries, k)

    def sample(self, n: int, rng: np.random.Generator) -> list[Passage]:
        return self.inner.sample(n, rng)

    def __len__(self) -> int:
        return len(self.inner)


class FailingRetriever(CountingRetriever):
    """Fails every search whose queries contain "fail"."""

    MESSAGE = "connection to 10.0.0.7 refused"

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        if any("fail" in query for query in queries):
            raise RetrievalError(self.MESSAGE)
        return super().search(queries, k)


class LengthScorer:
    """Scores a branch by the characters that stand before the answer: easy to predict, blind to batch order."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        return [[float(len(read(request, j))) for j in range(len(request.evidences))] for request in requests]


class RecordingScorer:
    """Keeps the requests of each call; evidence number j of a request scores -(j + 1), so the real one -1."""

    def __init__(self) -> None:
        self.calls: list[list[ScoreRequest]] = []

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        self.calls.append(list(requests))
        return [[-(j + 1.0) for j in range(len(request.evidences))] for request in requests]

    @property
    def requests(self) -> list[ScoreRequest]:
        """The requests of the only call."""
        (call,) = self.calls
        return call


def played(
    question: Question, *turns: tuple[str, Sequence[Passage]], protocol: Protocol | None = None, last_call: bool = False
) -> Trajectory:
    """A trajectory made by hand: per turn what the policy wrote and what a search found.

    With `last_call` the last observation ends with the environment's last call.
    """
    protocol = protocol or make_protocol()
    trajectory = Trajectory(question, protocol.question_prompt(question.text))
    for text, passages in turns:
        action = protocol.parse(text)
        observation = ""
        if isinstance(action, Search):
            observation = protocol.observation(passages)
        elif isinstance(action, Invalid):
            observation = protocol.correction(action)
        role = protocol.role_after(action)
        trajectory.turns.append(Turn(text, action, observation, tuple(passages), observation_role=role))
    if last_call:
        trajectory.turns[-1].observation += protocol.last_call()
    return trajectory


def make_env(**options: Any) -> IGSearchEnv:
    """The environment over the small world."""
    return IGSearchEnv(**({"questions": QUESTIONS, "retriever": small_retriever(), "top_k": 2} | options))


def make_envs(num_envs: int = 4, **options: Any) -> IGSearchVectorEnv:
    """The vector environment over the small world."""
    return IGSearchVectorEnv(
        num_envs, **({"questions": QUESTIONS, "retriever": small_retriever(), "top_k": 2} | options)
    )


ELSEWHERE = DictionaryRetriever({"x": [Passage(f"c{i}", "Elsewhere", f"elsewhere number {i} .") for i in range(9)]})


def read(request: ScoreRequest, branch: int) -> str:
    """Everything that a branch reads before the answer prefix."""
    return "".join(segment.text for segment in (*request.context, request.evidences[branch]))


def measured(
    steps: Sequence[SearchStep],
    *,
    family: str = "search_r1",
    seed: int = 0,
    retriever: Retriever | None = ELSEWHERE,
    **config: Any,
) -> tuple[list[ScoreRequest], list[Gain]]:
    """The score requests of the steps and their gains, with corpus evidence from `ELSEWHERE`."""
    scorer = RecordingScorer()
    gain = InformationGain(InformationGainConfig(**config), scorer, make_protocol(family), retriever, seed)
    gains = gain.measure(steps)
    return scorer.requests, gains


def one_search(number: int, *passages: Passage) -> SearchStep:
    """A step of question `number` of many that searched once."""
    question = Question(f"n{number}", f"Question {number}?", (f"gold {number}",), "x")
    return SearchStep(played(question, (search(f"query {number}"), passages)), 0)
