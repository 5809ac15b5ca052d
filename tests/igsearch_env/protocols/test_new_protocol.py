"""A protocol of one's own: its class and a line in `PROTOCOLS` are all that environment, rollouts and scores need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest
from chat_templates import CHATML, chat_policy
from helpers import QUESTIONS, make_env, make_envs, small_retriever
from models import tiny_policy
from torch import Tensor

from algorithms.common.model.turn_end import TurnEnd
from algorithms.common.rollout.answer_scorer import PolicyScorer
from algorithms.common.rollout.collect import play
from algorithms.common.rollout.engine_decoder import EngineDecoder
from algorithms.common.rollout.engines.base import Engine
from algorithms.common.rollout.environment import EnvConfig, make_rules
from algorithms.common.rollout.turn_decoder import Completion
from igsearch_env import Question
from igsearch_env.errors import ConfigurationError
from igsearch_env.evidence import search_steps
from igsearch_env.information_gain import InformationGain, InformationGainConfig
from igsearch_env.protocols import PROTOCOLS, Action, ActionSpan, Answer, Invalid, Protocol, Search, make_protocol
from igsearch_env.scripted import OracleTitles, play_scripted
from igsearch_env.stepper import EpisodeStepper
from retrievers import Passage

KARITH = Question("q", "Which river flows through Karith?", ("Ostue",), "river", {"supporting_titles": ["Karith"]})


class Lines(Protocol):
    """Actions on lines of their own: `find: QUERY;` and `final: ANSWER;`. Passages are a message of the user."""

    name = "lines"
    own_prompt = "Find the answer. {question}\n"
    stop_strings = (";",)
    markers = ("find:", "final:", ";")
    answer_prefix = "final:"
    observation_role = "user"

    def description(self) -> str:
        return "A turn ends with `find: query;` or `final: answer;`."

    def parse(self, text: str) -> Action:
        span = self.action_span(text)
        if span is None:
            return Invalid("Write find: query; or final: answer;")
        content = text[span.start : span.end].strip()
        return Search(content) if span.kind == "search" else Answer(content)

    def action_span(self, text: str) -> ActionSpan | None:
        for kind, opening in (("search", "find:"), ("answer", "final:")):
            at = text.find(opening)
            end = text.find(";", at)
            if at >= 0 and end >= 0:
                start = at + len(opening)
                return ActionSpan("search" if kind == "search" else "answer", start, end, at, end + 1)
        return None

    def write(self, action: Search | Answer) -> str:
        return f"find: {action.query};" if isinstance(action, Search) else f"final: {action.text};"

    def evidence(self, passages: Sequence[Passage]) -> str:
        return "[" + "|".join(f"{p.title}: {p.text}".replace("]", ")") for p in passages) + "]"

    def after_evidence(self, observation: str) -> str:
        return observation.rpartition("]")[2]


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROTOCOLS, "lines", Lines)


class Writes(Engine):
    """Writes these turns, one a call."""

    name = "writes"

    def __init__(self, turns: list[tuple[int, ...]]) -> None:
        self.turns = turns

    @classmethod
    def memory(cls, settings: Any, sizes: Any) -> Iterator[Any]:
        yield from ()

    def complete(self, prompts: Sequence[tuple[int, ...]], seeds: Sequence[int], **options: Any) -> list[Completion]:
        ids = self.turns.pop(0)
        return [Completion(ids, (-0.5,) * len(ids)) for _ in prompts]

    def update_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        raise NotImplementedError


def test_the_environment_speaks_it_by_name() -> None:
    env = make_env(protocol="lines", seed=1)
    prompt, _ = env.reset(options={"question": KARITH})
    assert prompt == "Find the answer. Which river flows through Karith?\n"
    observation, reward, terminated, _, info = env.step("Let me see.\nfind: Karith river;")
    assert observation.startswith("\n\n[Karith: Karith stands on the river Ostue.|")
    assert info["query"] == "Karith river"
    assert reward != 0 == terminated
    _, _, _, _, info = env.step("<search> Karith </search>")
    assert info["invalid"] == "Write find: query; or final: answer;"
    _, reward, terminated, _, _ = env.step("final: Ostue;")
    assert (reward, terminated) == (1.0, True)


def test_a_vector_environment_and_scripted_policies_speak_it() -> None:
    envs = make_envs(2, protocol="lines", autoreset_mode="Disabled")
    envs.reset(options={"questions": QUESTIONS[:2]})
    observations = envs.step(["find: Alan Brin;", "final: botanist;"])[0]
    assert "Alan Brin was born in Tolona." in observations[0]
    stepper = EpisodeStepper([KARITH], small_retriever(), None, make_rules(EnvConfig(protocol="lines", prompt="")))
    (trajectory,) = play_scripted(OracleTitles(), stepper, [KARITH])
    assert [turn.text for turn in trajectory.turns] == ["find: Karith;", "final: Ostue;"]
    assert trajectory.outcome == 1.0


@pytest.mark.parametrize("chat", [True, False])
def test_a_rollout_records_its_spans_and_its_role(chat: bool) -> None:
    policy = chat_policy(CHATML) if chat else tiny_policy()
    rules = make_rules(EnvConfig(protocol="lines"), policy.tokenizer)
    encode = policy.tokenizer.encode
    turns = [encode("Well. find: Karith river;"), encode("final: Ostue;")]
    turn_end = TurnEnd(policy.tokenizer, rules.protocol.stop_strings)
    assert [turn_end.position((*turn, *turn)) for turn in turns] == [len(turn) for turn in turns]
    decoder = EngineDecoder(Writes(list(turns)), policy, turn_end, slots=1, max_new_tokens=40, temperature=0.0)
    stepper = EpisodeStepper([KARITH], small_retriever(), None, rules)
    (trajectory,) = play(decoder, stepper, [KARITH], seed=(0,))
    search = trajectory.turns[0]
    decode = policy.tokenizer.decode
    assert search.query_span is not None
    assert search.search_span is not None
    assert decode(search.completion_ids[slice(*search.query_span)]).strip() == "Karith river"
    assert decode(search.completion_ids[slice(*search.search_span)]).strip() == "find: Karith river;"
    said = decode(search.observation_ids)
    in_chat = f"<|im_end|>\n<|im_start|>user\n{search.observation.strip()}<|im_end|>\n<|im_start|>assistant\n"
    assert said == (in_chat if chat else search.observation)
    assert trajectory.outcome == 1.0


def test_information_gain_scores_the_answer_after_its_prefix() -> None:
    policy = tiny_policy()
    protocol = make_protocol("lines")
    stepper = EpisodeStepper([KARITH], small_retriever(), None, make_rules(EnvConfig(protocol="lines")))
    (trajectory,) = play_scripted(OracleTitles(), stepper, [KARITH])
    gain = InformationGain(
        InformationGainConfig(random_source="corpus"), PolicyScorer(policy), protocol, small_retriever()
    )
    steps = search_steps([trajectory])
    (request,), _ = gain.requests(steps)
    assert (request.answer_prefix, request.answer) == ("final:", " Ostue")
    assert request.evidences[0].text == trajectory.turns[0].observation
    assert all(evidence.text.startswith("\n\n[") and evidence.text.endswith("]\n\n") for evidence in request.evidences)
    (measured,) = gain.measure(steps)
    assert measured.value == pytest.approx(measured.logprob_real - measured.logprob_baseline)


def test_what_is_defined_for_tags_alone_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"context='skeleton' is defined for tags; protocol='lines'"):
        make_env(protocol="lines", information_gain={"context": "skeleton"})


def test_its_name_is_offered() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'lines'"):
        EnvConfig(protocol="line")
