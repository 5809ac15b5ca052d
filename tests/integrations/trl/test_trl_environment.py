"""TRL's GRPOTrainer with the environment: its own tool loop, and the rewards of what it returns."""

from __future__ import annotations

import copy
import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from models import tiny_model, tokenizer
from trl_trainers import WARNINGS, arguments

from igsearch_env.errors import ConfigurationError
from igsearch_env.questions import Question
from igsearch_env.scorers import UnigramScorer
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.world.bundled import bundled_retriever, bundled_world
from integrations.trl.dataset import question_dataset, question_of
from integrations.trl.environment import (
    NO_SEARCH_LEFT,
    SearchEnvironment,
    environment_factory,
    final_answer,
    information_gain,
    outcome,
)
from retrievers.base import Passage, RetrievalError

pytestmark = WARNINGS
QUESTION = Question("q", "Where was Tondelle Saimov born?", ("Pinrona",), "made_up")


def begun(**options: Any) -> SearchEnvironment:
    """An environment with one question."""
    environment = environment_factory(**options)()
    environment.reset(**question_dataset([QUESTION])[0])
    return environment


def reply(text: str | None, **fields: Any) -> list[dict[str, Any]]:
    """A completion that ends with this message."""
    before = [{"role": "assistant", "content": "", "tool_calls": [{}]}, {"role": "tool", "content": "passages"}]
    return [*before, {"role": "assistant", "content": text, **fields}]


def test_a_search_returns_passages_without_markup_and_is_worth_its_information_gain() -> None:
    environment = begun()
    found = environment.search("Tondelle Saimov born")
    assert found.startswith("[1] Tondelle Saimov: Pinrona is where Tondelle Saimov was born.")
    assert "<" not in found
    gains = information_gain([environment])
    assert gains[0] == pytest.approx(1.8066, abs=1e-3)  # as in README.md
    assert information_gain([begun(scorer=None)]) == [0.0]


@pytest.mark.parametrize(
    ("completion", "answer", "earned"),
    [
        (reply("Pinrona"), "Pinrona", 1.0),
        (reply(" The Pinrona.\n"), "The Pinrona.", 1.0),
        (reply("Larreth"), "Larreth", 0.0),
        (reply(""), None, 0.0),
        (reply(None), None, 0.0),
        (reply("Pinrona", tool_calls=[{"type": "function"}]), None, 0.0),
        ([{"role": "tool", "content": "Pinrona"}], None, 0.0),
        ([], None, 0.0),
    ],
)
def test_the_last_message_is_the_answer(completion: list[dict[str, Any]], answer: str | None, earned: float) -> None:
    assert outcome([completion], [begun()]) == [earned]
    assert final_answer(completion) == answer


@pytest.mark.parametrize("query", ["", "  ", "a </search> b", "x" * 20_000])
def test_a_query_that_is_none_is_refused_and_costs_no_search(query: str) -> None:
    environment = begun()
    with pytest.raises(ValueError, match="write a few plain words"):
        environment.search(query)
    assert environment.trajectory.turns == []


def test_searches_are_limited() -> None:
    environment = begun(max_searches=2)
    assert not environment.search("Pinrona").endswith(NO_SEARCH_LEFT)
    assert environment.search("Pinrona").endswith(NO_SEARCH_LEFT)
    assert environment.search("Pinrona") == NO_SEARCH_LEFT
    assert environment.trajectory.searches == 2


def test_an_episode_whose_retrieval_failed_has_no_reward() -> None:
    class Failing(type(bundled_retriever())):  # type: ignore[misc] # a class that is computed
        def search(self, queries: Any, k: int) -> list[list[Passage]]:
            raise RetrievalError("down")

    failing = Failing(bundled_world().passages)
    environment = SearchEnvironment(EpisodeStepper([QUESTION], failing, UnigramScorer(failing)))
    environment.reset(**question_dataset([QUESTION])[0])
    assert environment.search("Pinrona") == "The search engine failed."
    assert environment.search("Pinrona") == NO_SEARCH_LEFT
    assert outcome([reply("Pinrona")], [environment]) == [None]
    assert information_gain([environment]) == [None]


def test_a_row_of_another_data_set_is_refused() -> None:
    environment = environment_factory()()
    with pytest.raises(ConfigurationError, match="question_dataset"):
        environment.reset(prompt="What?")
    with pytest.raises(ConfigurationError, match="reset"):
        environment.search("Pinrona")


def test_rows_hold_whole_questions() -> None:
    known = {"split": "dev", "level": 2, "supporting_titles": ["A", "B"], "nested": {"a": [None, 1.5]}}
    questions = [*bundled_world().questions["train"][:3], Question("q", "Who?", ("B", "C"), "made_up", known)]
    rows = list(question_dataset(questions))
    assert [question_of(row) for row in rows] == questions
    assert question_of(rows[-1]).metadata == known
    assert question_of(rows[0]).supporting_titles == questions[0].supporting_titles
    assert rows[0]["prompt"] == questions[0].text
    (message,) = question_dataset(questions, chat=True)[0]["prompt"]
    assert message["role"] == "user"
    assert questions[0].text in message["content"]


def test_trl_calls_the_tool_and_rewards_the_plain_answer(tmp_path: Path) -> None:
    trl = importlib.import_module("trl")
    own = copy.deepcopy(tokenizer())
    own.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    own.eos_token, own.padding_side = "<|im_end|>", "left"
    own.chat_template = (Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja").read_text(encoding="utf-8")
    model = tiny_model(context_length=4096)
    model.resize_token_embeddings(len(own), mean_resizing=False)
    trainer = trl.GRPOTrainer(
        model=model,
        args=arguments(
            tmp_path,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=1,
            num_generations=2,
            max_completion_length=1024,
            reward_weights=[1.0, 0.5],
        ),
        processing_class=own,
        train_dataset=question_dataset([QUESTION], chat=True),
        environment_factory=environment_factory(top_k=1),
        reward_funcs=[outcome, information_gain],
    )
    call = json.dumps({"name": "search", "arguments": {"query": "Tondelle Saimov born"}})
    written = iter([[f"<tool_call>\n{call}\n</tool_call>", "Larreth"], ["Pinrona"]])

    def scripted(prompt_ids: list[list[int]], *_: Any, **__: Any) -> tuple[list[list[int]], None]:
        texts = next(written)
        assert len(texts) == len(prompt_ids)
        return [own.encode(f"{text}<|im_end|>", add_special_tokens=False) for text in texts], None

    trainer._generate_single_turn = scripted
    trainer.model.train()
    batch = next(iter(trainer.get_train_dataloader()))
    output = trainer._generate_and_score_completions(batch)
    searched, guessed = trainer.environments
    assert searched.trajectory.searches == 1
    assert guessed.trajectory.searches == 0
    gains = information_gain([searched])
    assert trainer._metrics["train"]["rewards/outcome/mean"] == [0.5]
    assert trainer._metrics["train"]["rewards/information_gain/mean"] == [pytest.approx((gains[0] or 0.0) / 2)]
    assert trainer._metrics["train"]["reward"] == [pytest.approx((1.0 + 0.5 * (gains[0] or 0.0)) / 2)]
    assert torch.sign(output["advantages"]).tolist() == [1.0, -1.0]
