"""verl: the agent loop replays a local rollout with verl's classes; advantages are those of the local buffer."""

from __future__ import annotations

import asyncio
import importlib
import os
import subprocess
import sys
import warnings
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

with warnings.catch_warnings():  # of verl, about packages that it imports
    warnings.simplefilter("ignore")
    for module in ("ray", "verl.protocol", "verl.trainer.ppo.v1.trainer_base"):
        pytest.importorskip(module, reason=f"{module} is not installed: see integrations/verl/README.md")
    importlib.import_module("integrations.verl")

import hydra
import torch
from adapters import LOCAL_ALGORITHMS, ROLLOUT_SETTINGS, local_buffer, local_rows
from models import bundled_policy
from omegaconf import OmegaConf
from paths import ROOT
from tensordict import TensorDict
from verl import DataProto
from verl.experimental.agent_loop.agent_loop import DictConfigWrap, _agent_loop_registry
from verl.trainer.ppo import core_algos, ray_trainer
from verl.trainer.ppo.v1 import trainer_base
from verl.workers.rollout.replica import TokenOutput

from algorithms.comparison.registry import ALGORITHMS
from igsearch_env.errors import ConfigurationError, QuestionError
from igsearch_env.trajectory import Trajectory
from integrations.credit import load_episode
from integrations.episodes import dataset_row
from integrations.settings import SearchSettings
from integrations.verl import ESTIMATORS
from integrations.verl.fields import EPISODE

RESPONSE = 640


class Replay:
    """A server manager that writes the turns of a recorded episode, and checks what it is sent."""

    def __init__(self, trajectory: Trajectory) -> None:
        self.trajectory = trajectory
        self.turn = 0

    async def generate(self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any]) -> TokenOutput:
        earlier = self.trajectory.turns[: self.turn]
        expected = [*self.trajectory.prompt_ids]
        for turn in earlier:
            expected += [*turn.completion_ids, *turn.observation_ids]
        assert prompt_ids == expected
        assert sampling_params["stop"] == ["</search>", "</answer>"]
        assert sampling_params["include_stop_str_in_output"]
        turn = self.trajectory.turns[self.turn]
        self.turn += 1
        return TokenOutput(
            token_ids=list(turn.completion_ids),
            log_probs=list(turn.logprobs),
            extra_fields={"max_global_steps": self.turn},
        )


@cache
def hf_tokenizer() -> Any:
    return bundled_policy().tokenizer.hf_tokenizer


def make_loop(server: Any, response_length: int = RESPONSE, **options: Any) -> Any:
    rollout = {"prompt_length": 64, "response_length": response_length, "name": "vllm"}
    return hydra.utils.instantiate(
        {**_agent_loop_registry["igsearch"], "settings": ROLLOUT_SETTINGS, **options},
        trainer_config=DictConfigWrap(OmegaConf.create({"actor_rollout_ref": {"rollout": rollout}})),
        server_manager=server,
        tokenizer=hf_tokenizer(),
        processor=None,
        dataset_cls=None,
        data_config=DictConfigWrap(OmegaConf.create({})),
    )


async def _play(trajectory: Trajectory, **options: Any) -> Any:
    protocol = SearchSettings.of(ROLLOUT_SETTINGS).shared().stepper.rules.protocol
    row = dataset_row(protocol, trajectory.question, agent_name="igsearch")
    row["raw_prompt"] = np.array(row.pop("prompt"), dtype=object)
    return await make_loop(Replay(trajectory), **options).run({"temperature": 1.0}, **row)


@cache
def play_all() -> list[Any]:
    async def run() -> list[Any]:
        return list(await asyncio.gather(*map(_play, local_buffer().trajectories)))

    return asyncio.run(run())


def batch_of(outputs: list[Any], length: int = RESPONSE) -> DataProto:
    """As `AgentLoopWorker._postprocess` makes it: padded tensors, and the extra fields as arrays of objects."""
    mask = torch.zeros(len(outputs), length, dtype=torch.int64)
    rewards = torch.zeros(mask.shape)
    for row, output in enumerate(outputs):
        mask[row, : len(output.response_mask)] = torch.tensor(output.response_mask)
        rewards[row, len(output.response_mask) - 1] = output.reward_score
    episodes, uids = np.empty(len(outputs), dtype=object), np.empty(len(outputs), dtype=object)
    episodes[:] = [output.extra_fields[EPISODE] for output in outputs]
    uids[:] = [f"uid {group}" for group in local_buffer().group_index]
    tensors = TensorDict({"response_mask": mask, "token_level_rewards": rewards}, batch_size=len(outputs))
    return DataProto(batch=tensors, non_tensor_batch={"uid": uids, EPISODE: episodes})


def test_the_loop_records_what_a_local_rollout_records() -> None:
    outputs = play_all()
    rows = local_rows("grpo", local_buffer())
    assert len({len(t.turns) for t in local_buffer().trajectories}) > 1
    for output, row in zip(outputs, rows, strict=True):
        assert output.prompt_ids == row.prompt_ids.tolist()
        assert output.response_ids == row.completion_ids.tolist()
        assert output.response_mask == row.mask.astype(int).tolist()
        np.testing.assert_array_equal(np.float32(output.response_logprobs), row.logprobs)
        assert output.reward_score == row.trajectory.outcome
        assert output.extra_fields["turn_scores"] == [turn.reward for turn in row.trajectory.turns]
        assert output.extra_fields["max_global_steps"] == len(row.trajectory.turns)
        assert load_episode(output.extra_fields[EPISODE]).turns == row.trajectory.turns


@pytest.mark.parametrize("length", [RESPONSE, 48], ids=["whole", "cut"])
@pytest.mark.parametrize("name", LOCAL_ALGORITHMS)
def test_advantages_through_verl_equal_those_of_the_local_buffer(name: str, length: int) -> None:
    data = batch_of(play_all())
    for key in ("response_mask", "token_level_rewards"):
        data.batch[key] = data.batch[key][:, :length]
    done = ray_trainer.compute_advantage(data, adv_estimator=f"igsearch_{name}", config=OmegaConf.create({}))
    rows = local_rows(name, local_buffer())
    assert any(row.advantages.any() for row in rows)
    for row, values in zip(rows, done.batch["advantages"].numpy(), strict=True):
        expected = np.zeros(length, dtype=np.float32)
        cut = row.advantages[:length]
        expected[: len(cut)] = cut
        np.testing.assert_array_equal(values, expected)


def test_the_v1_trainer_reads_episodes_from_its_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    data = batch_of(play_all())
    episodes = data.non_tensor_batch.pop(EPISODE)
    keys = [f"{uid}_{session}_0" for session, uid in enumerate(data.non_tensor_batch["uid"])]

    def kv_batch_get(keys: list[str], partition_id: str, select_fields: list[str]) -> dict[str, Any]:
        assert (partition_id, select_fields) == ("train", ["extra_fields"])
        fields = np.empty(len(keys), dtype=object)
        fields[:] = [{EPISODE: episodes[int(key.split("_")[1])]} for key in keys]
        return {"extra_fields": fields}

    monkeypatch.setattr(trainer_base, "tq", SimpleNamespace(kv_batch_get=kv_batch_get))
    done = trainer_base.compute_advantage_for_multi_trajectories(
        data, batch_keys=keys, adv_estimator="igsearch_ig_grpo", config=OmegaConf.create({})
    )
    for row, values in zip(local_rows("ig_grpo", local_buffer()), done.batch["advantages"].numpy(), strict=True):
        np.testing.assert_array_equal(values[: len(row.advantages)], row.advantages)


def test_padding_rows_do_not_count_and_masked_tokens_get_nothing() -> None:
    outputs = play_all()
    data = batch_of(outputs)
    estimate = core_algos.get_adv_estimator_fn("igsearch_grpo")
    mask, episodes, index = (
        data.batch["response_mask"],
        list(data.non_tensor_batch[EPISODE]),
        list(data.non_tensor_batch["uid"]),
    )
    whole, _ = estimate(data.batch["token_level_rewards"], mask, index, non_tensor_batch={EPISODE: episodes})
    padded = torch.cat([mask, torch.zeros_like(mask[:1])])
    rewards = torch.zeros(padded.shape)
    more, _ = estimate(rewards, padded, [*index, index[0]], non_tensor_batch={EPISODE: [*episodes, episodes[0]]})
    assert torch.equal(more[:-1], whole)
    assert not more[-1].any()
    some = mask.clone()
    some[:, 1] = 0
    fewer, _ = estimate(rewards[:-1], some, index, non_tensor_batch={EPISODE: episodes})
    assert torch.equal(fewer, whole * some)
    with pytest.raises(ConfigurationError, match="another response"):
        estimate(rewards[:-1], mask.flip(0), index, non_tensor_batch={EPISODE: episodes})
    with pytest.raises(ConfigurationError, match="the batch has no episodes"):
        estimate(rewards[:-1], mask, index)


def test_estimators_of_others_are_unchanged() -> None:
    data = batch_of(play_all())
    ours = ray_trainer.compute_advantage(data, adv_estimator="igsearch_grpo", config=OmegaConf.create({}))
    advantages = ours.batch["advantages"].clone()
    theirs = ray_trainer.compute_advantage(data, adv_estimator=core_algos.AdvantageEstimator.GRPO)
    torch.testing.assert_close(theirs.batch["advantages"], advantages, atol=1e-5, rtol=1e-5)


def test_a_response_that_is_full_ends_the_episode() -> None:
    trajectory = max(local_buffer().trajectories, key=lambda t: t.tokens)
    output = asyncio.run(_play(trajectory, response_length=40))
    assert 0 < len(output.response_ids) == len(output.response_mask) <= 40
    assert output.response_mask[-1] == 1  # nothing is kept behind the last token of the policy
    assert load_episode(output.extra_fields[EPISODE]).stop_reason == "context_full"


def test_registered_names() -> None:
    without_critic = {f"igsearch_{name}" for name, entry in ALGORITHMS.items() if entry.algorithm.critic is None}
    assert set(ESTIMATORS) == without_critic
    assert set(ESTIMATORS) <= set(core_algos.ADV_ESTIMATOR_REGISTRY)


def test_bad_input_is_refused() -> None:
    trajectory = local_buffer().trajectories[0]

    async def play(prompt_length: int = 64, **options: Any) -> None:
        loop = make_loop(Replay(trajectory), **options)  # in a coroutine: verl makes an event loop where none runs
        loop.rollout_config.prompt_length = prompt_length
        row = dataset_row(loop.protocol, trajectory.question) if prompt_length < 64 else {"prompt": []}
        await loop.run({}, raw_prompt=row.pop("prompt"), **row)

    with pytest.raises(Exception, match="did you mean 'top_k'"):
        asyncio.run(play(settings={"topk": 3}))
    with pytest.raises(QuestionError, match="extra_info"):
        asyncio.run(play())
    with pytest.raises(ConfigurationError, match="prompt_length=2"):
        asyncio.run(play(prompt_length=2))


def test_the_environment_variable_registers_both() -> None:
    program = (
        "import warnings; warnings.simplefilter('ignore'); import verl\n"
        "from verl.experimental.agent_loop.agent_loop import _agent_loop_registry as loops\n"
        "from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY as estimators\n"
        "assert 'igsearch' in loops and 'igsearch_ig_grpo' in estimators"
    )
    environ = {**os.environ, "VERL_USE_EXTERNAL_MODULES": "integrations.verl", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
