"""A system prompt from the configuration to the prompt ids that rollouts, information gain and warm starts read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from chat_templates import CHATML, chat_policy
from models import bundled_policy

from algorithms.common.evaluation.fingerprint import differences, make_fingerprint
from algorithms.common.rollout.buffer_json import group_row, read_group
from algorithms.common.rollout.collect import encode_prompt
from algorithms.common.rollout.environment import EnvConfig, make_rules
from algorithms.common.rollout.scripted import play_recorded
from igsearch_env import ConfigurationError, Group, Search
from igsearch_env.evidence import history
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.world.bundled import bundled_retriever, bundled_world

SYSTEM = "Be brief ."
QUESTION = bundled_world().questions["dev"][0]


@pytest.mark.parametrize("chat", [False, True])
def test_every_reader_has_the_same_prompt(chat: bool) -> None:
    policy = chat_policy(CHATML) if chat else bundled_policy()
    rules = make_rules(EnvConfig(system_prompt=SYSTEM), policy.tokenizer)
    stepper = EpisodeStepper([QUESTION], bundled_retriever(), None, rules)
    (played,) = play_recorded(
        policy, stepper, [QUESTION], lambda *_: rules.protocol.write(Search("river")), max_new_tokens=64
    )
    begun = stepper.begin(QUESTION).trajectory
    encode_prompt(policy, begun, 16)
    expected = policy.tokenizer.encode_prompt(rules.protocol.question_prompt(QUESTION.text), SYSTEM)
    assert begun.prompt_ids == played.prompt_ids == expected
    (first, *_) = history(played, 1)
    assert (first.text, first.ids) == (f"{SYSTEM}\n\n{played.prompt}", expected)
    text = policy.tokenizer.decode_whole(expected)
    assert text.index("Be brief") < text.index(QUESTION.text)
    assert ("system" in text) is chat
    assert played.transcript().startswith(f"{SYSTEM}\n\n{played.prompt}")
    assert read_group(group_row(Group(QUESTION, [played])), "x").trajectories == [played]


def test_older_trajectories_have_none() -> None:
    stepper = EpisodeStepper([QUESTION], bundled_retriever(), None, make_rules(EnvConfig()))
    row = group_row(Group(QUESTION, [stepper.begin(QUESTION).trajectory]))
    assert "system" not in row["trajectories"][0]
    assert read_group(row, "x").trajectories[0].system == ""


def test_a_file_and_white_space(tmp_path: Path) -> None:
    (tmp_path / "system.txt").write_text(f"\n{SYSTEM}\n", encoding="utf-8")
    for given in (f"@{tmp_path / 'system.txt'}", f"  {SYSTEM}\n"):
        assert make_rules(EnvConfig(system_prompt=given)).protocol.system == SYSTEM
    with pytest.raises(ConfigurationError, match=r"system='@.*missing.*pass a UTF-8 text file"):
        make_rules(EnvConfig(system_prompt=f"@{tmp_path / 'missing'}"))
    with pytest.raises(ConfigurationError, match=re.escape("move {question} to the prompt template")):
        make_rules(EnvConfig(system_prompt="Answer {question}"))


def test_a_template_without_a_system_role_is_refused_at_the_start() -> None:
    policy = chat_policy("{% for m in messages if m.role != 'system' %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    make_rules(EnvConfig(), policy.tokenizer)
    with pytest.raises(ConfigurationError, match="takes no system message"):
        make_rules(EnvConfig(system_prompt=SYSTEM), policy.tokenizer)


def test_the_fingerprint_of_an_evaluation_names_it() -> None:
    def of(system: str) -> dict[str, object]:
        rules = make_rules(EnvConfig(system_prompt=system))
        return make_fingerprint(
            questions=[QUESTION], retriever={}, policy="bundled", rules=rules, chat=False, max_new_tokens=8
        )

    assert "system" not in of("")["prompt"]  # type: ignore[operator]
    (found,) = differences(of(""), of(SYSTEM))
    assert "prompt.system" in found
    assert differences(of(SYSTEM), of(SYSTEM)) == []
