"""Episodes with native tool calls: their tokens are those of the chat template, and gains score what it renders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import QUESTIONS, small_retriever
from models import tiny_model
from tool_templates import STABLE, TEMPLATES, tool_tokenizer

from algorithms.common.model.policy import Policy
from algorithms.common.model.turn_end import TurnEnd
from algorithms.common.rollout.answer_scorer import PolicyScorer, measure_information_gain
from algorithms.common.rollout.buffer import RolloutBuffer
from algorithms.common.rollout.collect import collect
from algorithms.common.rollout.decoder import Decoder
from algorithms.common.rollout.environment import EpisodeConfig, make_rules
from algorithms.common.rollout.scripted import play_recorded
from igsearch_env.errors import ConfigurationError
from igsearch_env.information_gain import InformationGain, InformationGainConfig
from igsearch_env.protocols import Answer, Search
from igsearch_env.protocols.tool_calls import SEARCH_TOOL
from igsearch_env.scorers import weighted_mean
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.trajectory import ANSWERED, Group, Trajectory
from retrievers import Passage
from retrievers.dictionary import DictionaryRetriever

SCRIPT = (Search('where "Alan Brin" was born'), Search("Karith river"), Answer("Tolona"))
CONFIG = EpisodeConfig(protocol="tool_calls", prompt="tool_calls", top_k=2)


def tool_policy(family: str) -> Policy:
    """A tiny policy with the chat template of a family."""
    model = tiny_model(context_length=4096)
    model.resize_token_embeddings(len(tool_tokenizer(family)), mean_resizing=False)
    return Policy(model, tool_tokenizer(family), chat=True)


def stepper_of(policy: Policy, retriever: Any = None, config: EpisodeConfig = CONFIG) -> EpisodeStepper:
    return EpisodeStepper(QUESTIONS, retriever or small_retriever(), None, make_rules(config, policy.tokenizer))


def play_script(policy: Policy, stepper: EpisodeStepper, script: Sequence[Search | Answer] = SCRIPT) -> Trajectory:
    def write(trajectory: Trajectory, may_search: bool) -> str:
        return stepper.rules.protocol.write(script[len(trajectory.turns)])

    (trajectory,) = play_recorded(policy, stepper, QUESTIONS[:1], write, max_new_tokens=200)
    return trajectory


def tokens(trajectory: Trajectory) -> list[int]:
    turns = (i for turn in trajectory.turns for i in (*turn.completion_ids, *turn.observation_ids))
    return [*trajectory.prompt_ids, *turns]


@pytest.mark.parametrize("system", ["", "Be brief."])
@pytest.mark.parametrize("family", STABLE)
def test_the_tokens_of_an_episode_are_those_that_the_template_renders(family: str, system: str) -> None:
    policy = tool_policy(family)
    if system and family == "gemma3":
        with pytest.raises(ConfigurationError, match="takes no system message"):
            stepper_of(policy, config=replace(CONFIG, system_prompt=system))
        return
    stepper = stepper_of(policy, config=replace(CONFIG, system_prompt=system))
    trajectory = play_script(policy, stepper)
    assert trajectory.stop_reason == ANSWERED
    assert [turn.action for turn in trajectory.turns] == list(SCRIPT)
    tool_format = policy.tokenizer.tool_format
    assert tool_format is not None
    chat = trajectory.messages()
    hf = policy.tokenizer.hf_tokenizer
    if tool_format.native:
        text = hf.apply_chat_template(chat, tools=[SEARCH_TOOL], tokenize=False)
    else:
        text = hf.apply_chat_template(tool_format.as_plain_messages(chat), tokenize=False)
    whole = hf.encode(text, add_special_tokens=False)
    found = tokens(trajectory)
    assert found == whole[: len(found)]
    assert not hf.decode(whole[len(found) :]).strip()
    assert found[-1] in policy.tokenizer.eos_ids


def test_a_template_that_renders_earlier_turns_otherwise() -> None:
    policy = tool_policy("qwen3")
    trajectory = play_script(policy, stepper_of(policy), SCRIPT[1:])
    # Each turn is what the template writes for it as the last one, and nothing that was sampled is rendered again.
    observation = trajectory.turns[0].observation
    call = '<tool_call>\n{"name": "search", "arguments": {"query": "Karith river"}}\n</tool_call><|im_end|>'
    text = policy.tokenizer.decode_whole(tokens(trajectory))
    assert text.endswith(
        f"<|im_start|>user\n{trajectory.prompt}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n{call}\n"
        f"<|im_start|>user\n<tool_response>\n{observation}\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
        "<think>\n\n</think>\n\nTolona<|im_end|>"
    )


def hand_built(policy: Policy, ids: Sequence[int], answer: str) -> float:
    """The score of an answer after some tokens, by one pass of the model."""
    target = policy.tokenizer.hf_tokenizer.encode(answer, add_special_tokens=False)
    whole = torch.tensor([[*ids, *target]])
    with torch.no_grad():
        logprobs = policy.model(whole).logits[0].log_softmax(-1)
    places = range(len(ids), len(ids) + len(target))
    return weighted_mean([float(logprobs[at - 1, whole[0, at]]) for at in places])


@pytest.mark.parametrize("family", TEMPLATES)
def test_information_gain_scores_the_answer_where_the_policy_would_write_it(family: str) -> None:
    policy = tool_policy(family)
    stepper = stepper_of(policy)
    trajectory = play_script(policy, stepper)
    buffer = RolloutBuffer([Group(trajectory.question, [trajectory])])
    protocol = stepper.rules.protocol
    config = InformationGainConfig(num_random=2, random_source="corpus")
    gain = InformationGain(config, PolicyScorer(policy), protocol, small_retriever())
    measure_information_gain(buffer, gain)
    answer = trajectory.question.golden_answers[0]
    hf = policy.tokenizer.hf_tokenizer
    prefix = hf.encode(protocol.answer_prefix, add_special_tokens=False)
    before = list(trajectory.prompt_ids)
    for turn in trajectory.turns[:2]:
        assert turn.gain is not None
        before += turn.completion_ids
        real = hand_built(policy, [*before, *turn.observation_ids, *prefix], answer)
        others = []
        for text in turn.gain.baseline_evidences:
            assert policy.tokenizer.tool_format is not None
            rendered = policy.tokenizer.tool_format.result(text)  # from the end of the call to the start of the reply
            others.append(
                hand_built(policy, [*before, *hf.encode(rendered, add_special_tokens=False), *prefix], answer)
            )
        assert turn.gain.logprob_real == pytest.approx(real, abs=1e-5)
        assert turn.gain.logprob_baseline == pytest.approx(sum(others) / 2, abs=1e-5)
        before += turn.observation_ids


@pytest.mark.parametrize("baseline", ["random", "previous", "empty", "query"])
@pytest.mark.parametrize("family", ["qwen2.5", "gpt-oss", "smollm2"])
def test_gains_without_recorded_tokens_are_the_same(family: str, baseline: Any) -> None:
    policy = tool_policy(family)
    stepper = stepper_of(policy)
    recorded = play_script(policy, stepper)
    plain = Trajectory(recorded.question, recorded.prompt)
    for turn in recorded.turns:
        plain.turns.append(replace(turn, completion_ids=(), observation_ids=(), gain=None))
    config = InformationGainConfig(baseline=baseline, num_random=2, random_source="corpus")
    gain = InformationGain(config, PolicyScorer(policy), stepper.rules.protocol, small_retriever())
    for trajectory in (recorded, plain):
        measure_information_gain(RolloutBuffer([Group(trajectory.question, [trajectory])]), gain)
    for a, b in zip(recorded.turns[:2], plain.turns[:2], strict=True):
        assert a.gain is not None
        assert b.gain is not None
        assert a.gain.value == pytest.approx(b.gain.value, abs=1e-5)


def test_special_tokens_in_passages_end_nothing() -> None:
    policy = tool_policy("qwen2.5")
    text = "The token <|im_end|> ends a turn, </tool_response> a result."
    retriever = DictionaryRetriever({"Karith river": [Passage("1", "ChatML", text), Passage("2", "B", "b")]})
    trajectory = play_script(policy, stepper_of(policy, retriever), SCRIPT[1:])
    hf = policy.tokenizer.hf_tokenizer
    observation = trajectory.turns[0].observation_ids
    assert text in hf.decode(observation)
    assert list(observation).count(hf.convert_tokens_to_ids("<|im_end|>")) == 1


def test_a_turn_that_was_cut_short_is_ended_before_its_result() -> None:
    policy = tool_policy("qwen2.5")
    stepper = stepper_of(policy)
    end = policy.tokenizer.hf_tokenizer.convert_tokens_to_ids("<|im_end|>")
    for text in ("<tool_call>\n{", "<think> which"):
        ids = policy.tokenizer.encode_completion(text)
        role = stepper.rules.protocol.role_after(stepper.rules.protocol.parse(text))
        cut = policy.tokenizer.encode_observation("Wrong.", role, ids)
        whole = policy.tokenizer.encode_observation("Wrong.", role, (*ids, end))
        assert cut == (end, *whole)


def test_a_result_follows_the_end_that_the_template_writes() -> None:
    tokenizer = tool_policy("gemma4").tokenizer
    tokenizer.use_tools([SEARCH_TOOL])
    ids = {name: tokenizer.hf_tokenizer.convert_tokens_to_ids(name) for name in ("<|tool_response>", "<turn|>")}
    result = tokenizer.encode_observation("found", "tool", (ids["<|tool_response>"],))
    assert tokenizer.encode_observation("found", "tool", (ids["<turn|>"],)) == (ids["<|tool_response>"], *result)
    reply = tokenizer.encode_observation("hm", "user", (ids["<turn|>"],))
    assert tokenizer.encode_observation("hm", "user", (ids["<|tool_response>"],)) == (ids["<turn|>"], *reply)


def test_invalid_calls_are_answered_in_the_role_of_the_tool() -> None:
    policy = tool_policy("qwen2.5")
    stepper = stepper_of(policy)
    episode = stepper.begin(QUESTIONS[0])
    stepper.step([episode], ['<tool_call>\n{"name": "browse", "arguments": {}}\n</tool_call>'])
    turn = episode.trajectory.turns[0]
    assert turn.observation_role == "tool"
    assert "no tool 'browse'" in turn.observation
    ids = policy.tokenizer.encode_observation(turn.observation, turn.observation_role, ())
    assert "<tool_response>\nThere is no tool 'browse'" in policy.tokenizer.decode_whole(ids)


@pytest.mark.parametrize("family", ["qwen3", "gemma4", "gpt-oss"])
def test_sampled_tokens_reach_the_loss_untouched(family: str, tmp_path: Path) -> None:
    policy = tool_policy(family)
    stepper = stepper_of(policy, config=replace(CONFIG, attempts=2))
    decoder = Decoder(
        policy,
        TurnEnd(policy.tokenizer, stepper.rules.protocol.stop_strings),
        slots=4,
        max_new_tokens=24,
        temperature=1,
    )
    buffer = collect(decoder, stepper, QUESTIONS[:2], group_size=3, seed=(0,))
    for trajectory, sequence in zip(buffer.trajectories, buffer.sequences, strict=True):
        written = [i for turn in trajectory.turns for i in turn.completion_ids]
        assert sequence.ids[sequence.mask].tolist() == written
        assert sequence.ids.tolist() == tokens(trajectory)[: len(sequence.ids)]
        assert all(len(turn.logprobs) == len(turn.completion_ids) for turn in trajectory.turns)
    buffer.save(tmp_path / "buffer.jsonl.gz")
    assert RolloutBuffer.load(tmp_path / "buffer.jsonl.gz").groups == buffer.groups


def test_the_protocol_needs_the_chat_template() -> None:
    policy = Policy(tiny_model(), tool_tokenizer("qwen2.5"))
    with pytest.raises(ConfigurationError, match=r"--policy\.chat"):
        make_rules(CONFIG, policy.tokenizer)
