"""Chat templates that read a date or arguments: prompts don't change by day, and settings are kept and compared."""

from __future__ import annotations

import copy
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from chat_templates import CHATML
from models import tiny_model, tokenizer
from training_runs import question_file, run_ig_grpo
from transformers.utils import chat_template_utils

from algorithms.common.config import parse_config
from algorithms.common.model.chat_template import ChatTemplate
from algorithms.common.model.config import PolicyConfig
from algorithms.common.model.policy import Policy
from algorithms.common.model.tokenizer import PolicyTokenizer
from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.rollout.environment import EnvConfig
from algorithms.common.run.checkpoint import CheckpointError
from algorithms.grpo import GRPOConfig
from igsearch_env.errors import ConfigurationError

DATED = "today is {{ strftime_now('%Y-%m-%d, %A') }}, {{ date_string }}\n"
THINKING = "{% if enable_thinking is defined and not enable_thinking %}no thoughts\n{% endif %}"


def templated(template: str, **options: Any) -> PolicyTokenizer:
    """The bundled tokenizer with a chat template."""
    own = copy.deepcopy(tokenizer())
    own.chat_template = template
    return PolicyTokenizer(own, chat=True, chat_template=ChatTemplate.parse(**options) if options else None)


def prompt(tokens: PolicyTokenizer) -> str:
    """A prompt as the policy reads it."""
    return tokens.continued_text(tokens.encode_prompt("who"))


def test_a_prompt_has_the_date_of_the_run_whatever_day_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tomorrow(chat_template_utils.datetime):  # type: ignore[name-defined,misc]
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls(2031, 1, 2)

    before = prompt(templated(DATED + CHATML))
    monkeypatch.setattr(chat_template_utils, "datetime", Tomorrow)
    assert prompt(templated(DATED + CHATML)) == before
    assert before.startswith("today is 2024-07-26, Friday, 26 Jul 2024\n")
    other = prompt(templated(DATED + CHATML, day="2026-03-01", arguments=""))
    assert other.startswith("today is 2026-03-01, Sunday, 01 Mar 2026\n")


@pytest.mark.parametrize("form", ["%d %b %Y", "%A, %-d %B %y", "%Y-%m-%dT%H:%M:%S", "100%% %j %%d %F", "no date"])
def test_the_date_is_written_as_strftime_writes_it(form: str) -> None:
    template = "{% set today = strftime_now('" + form + "') %}\n<{{ today }}>" + CHATML
    written = prompt(templated(template, day="2026-03-01", arguments=""))
    assert written.startswith(f"<{datetime(2026, 3, 1, 12).strftime(form)}>")


def test_a_template_that_begins_with_a_line_break_keeps_it() -> None:
    assert prompt(templated("\n{{ strftime_now('%Y') }}" + CHATML)).startswith("\n2024")


def test_arguments_reach_the_template() -> None:
    assert "no thoughts" not in prompt(templated(THINKING + CHATML))
    assert "no thoughts" in prompt(
        templated(THINKING + CHATML, day="2024-07-26", arguments='{"enable_thinking": false}')
    )


@pytest.mark.parametrize(
    ("template", "arguments", "message"),
    [
        (CHATML, '{"enable_thinking": false}', "does not read 'enable_thinking', so it would change nothing"),
        (THINKING + CHATML, '{"enable_thinkin": false}', "does not read 'enable_thinkin'"),
        ("{{ ['a', 'b'] | random }}" + CHATML, "", "draws at random"),
    ],
)
def test_what_would_change_nothing_or_at_random_is_refused(template: str, arguments: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        templated(template, day="2024-07-26", arguments=arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"chat_template_date": "26 Jul 2024"},
            r"chat_template_date='26 Jul 2024': not a date .*write it as 2024-07-26",
        ),
        ({"chat_template_date": "2024-02-30"}, "chat_template_date='2024-02-30': not a date"),
        ({"chat_template_arguments": "enable_thinking=false"}, "not a JSON object; write the arguments as e.g."),
        ({"chat_template_arguments": "[1]"}, "not a JSON object"),
        ({"chat_template_arguments": "[" * 100_000}, "not a JSON object"),
        ({"chat_template_arguments": '{"tokenize": true}'}, "'tokenize' is set by this project; leave it out"),
        ({"chat_template_arguments": '{"date_string": "x"}'}, "'date_string'.*set policy.chat_template_date"),
        ({"chat_template_arguments": '{"a": 1}', "chat": False}, r"without policy\.chat"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        PolicyConfig(**{"chat": True, **options})


def test_arguments_are_json_on_the_command_line_and_keys_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "policy:\n  chat: true\n  chat_template_date: 2025-01-02\n  chat_template_arguments: {b: [1], a: no}\n"
    )
    from_file = parse_config(GRPOConfig, ["--config", str(file)]).policy
    typed = ["--policy.chat", "--policy.chat-template-date", "2025-01-02", "--policy.chat-template-arguments"]
    assert parse_config(GRPOConfig, [*typed, '{"a": false, "b": [1]}']).policy == from_file
    assert from_file.chat_template.fingerprint == {"date": "2025-01-02", "arguments": '{"a": false, "b": [1]}'}


def test_a_run_keeps_its_date_and_its_arguments(tmp_path: Path) -> None:
    own = copy.deepcopy(tokenizer())
    own.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    own.chat_template = DATED + THINKING + CHATML
    model = tiny_model()
    model.resize_token_embeddings(len(own), mean_resizing=False)
    Policy(model, own, chat=True).save(tmp_path / "policy")
    questions = question_file(tmp_path / "questions.jsonl", 7)
    arguments: dict[str, Any] = {"chat": True, "chat_template_arguments": '{"enable_thinking": true}'}
    small: dict[str, Any] = {
        "steps": 1,
        "eval_every": 0,
        "policy": PolicyConfig(str(tmp_path / "policy"), chat_template_date="2026-03-01", **arguments),
        "env": EnvConfig(questions=(questions,), eval_questions=(questions,)),
        "rollout": RolloutConfig(questions_per_step=2, group_size=2, max_new_tokens=4),
    }
    run_dir = run_ig_grpo(small, tmp_path / "run")
    kept = {"date": "2026-03-01", "arguments": '{"enable_thinking": true}'}
    state = json.loads((run_dir / "checkpoints" / "step-000001" / "state.json").read_text())
    assert state["chat_template"] == kept
    assert json.loads((run_dir / "test_after.json").read_text())["fingerprint"]["chat_template"] == kept
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["policy"]["chat_template_date"] == "2026-03-01"
    run_ig_grpo(small, run_dir, steps=2)  # resumed with the same
    for changed in (
        {"chat_template_date": "2026-03-02", **arguments},
        {"chat_template_date": "2026-03-01", "chat": True},
    ):
        with pytest.raises(CheckpointError, match=r"holds a run with policy\.chat_template_"):
            run_ig_grpo(small, run_dir, steps=3, policy=PolicyConfig(str(tmp_path / "policy"), **changed))
