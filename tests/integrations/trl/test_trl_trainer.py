"""Training with TRL: episodes of this project, TRL's logs, checkpoints, evaluation and adapters."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import tiny_model, tokenizer
from paths import ROOT
from recorded_calls import record_calls
from transformers import AutoModelForCausalLM
from trl_trainers import WARNINGS, arguments

from algorithms.common.base.errors import TrainingError
from algorithms.common.model.config import PolicyConfig
from algorithms.common.model.policy import Policy
from algorithms.common.rollout.environment import EnvConfig
from algorithms.common.rollout.sampler import Sampler
from algorithms.ig_grpo import IGGRPOConfig
from igsearch_env.errors import ConfigurationError
from igsearch_env.world.bundled import bundled_retriever, bundled_world
from integrations.trl.dataset import question_dataset
from integrations.trl.trainer import IGSearchTrainer, without_padding
from retrievers import Retriever
from retrievers.base import Passage, RetrievalError

pytestmark = WARNINGS
SMALL = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "num_generations": 4}


class SometimesFails(Retriever):
    """The bundled search engine, which fails for every third query."""

    def __init__(self) -> None:
        self.inner, self.asked = bundled_retriever(), 0

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """As `Retriever.search`."""
        found: list[list[Passage] | None] = list(self.inner.search(queries, k))
        for place in range(len(found)):
            self.asked += 1
            found[place] = None if self.asked % 3 == 0 else found[place]
        if None in found:
            raise RetrievalError("down", results=found)
        return found  # type: ignore[return-value] # none is None

    def sample(self, n: int, rng: np.random.Generator) -> list[Passage]:
        """As `Retriever.sample`."""
        return self.inner.sample(n, rng)

    def fingerprint(self) -> dict[str, Any]:
        """As `Retriever.fingerprint`."""
        return {}

    def __len__(self) -> int:
        return len(self.inner)


def test_twelve_lines_train_with_information_gain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pages = [ROOT / "integrations" / "trl" / "README.md", ROOT / "docs" / "trainers.md"]
    programs = [
        re.findall(r"```python\n(from trl.*?)```", page.read_text(encoding="utf-8"), re.DOTALL) for page in pages
    ]
    assert programs[0][0] == programs[1][0]
    program = programs[0][0]
    assert len(program.splitlines()) <= 12
    smaller = program.replace("per_device_train_batch_size=32", "per_device_train_batch_size=8").replace(
        "max_steps=40", "max_steps=1"
    )
    assert smaller.count("=8") == 2
    scope: dict[str, Any] = {}
    exec(smaller.replace('"runs/trl"', '"runs/trl", dataloader_pin_memory=False'), scope)
    assert scope["trainer"].state.global_step == 1
    assert scope["trainer"].rollouts.algorithm.name == "ig_grpo"


def test_a_step_changes_the_policy_and_a_checkpoint_resumes(tmp_path: Path) -> None:
    options = {**SMALL, "learning_rate": 1e-3, "save_strategy": "steps", "save_steps": 1}
    rows = question_dataset(bundled_world().questions["train"][:6])

    def trained(steps: int, folder: Path, **more: Any) -> IGSearchTrainer:
        trainer = IGSearchTrainer("bundled", arguments(folder, **options, max_steps=steps), rows)
        trainer.train(**more)
        return trainer

    whole = trained(2, tmp_path / "a")
    trained(1, tmp_path / "b")
    resumed = trained(2, tmp_path / "b", resume_from_checkpoint=True)
    weights, again = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    first = whole.state.log_history[0]
    assert first["igsearch/reward"] == first["reward"] == first["rewards/outcome/mean"]
    assert "igsearch/information_gain/mean" in first
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "a" / "checkpoint-2")
    assert all(torch.equal(weights[name], value) for name, value in saved.state_dict().items())
    policy = Policy.load(PolicyConfig(path=str(tmp_path / "a" / "checkpoint-2"), device="cpu"))
    assert policy.model.dtype == torch.float32


def test_episodes_whose_retrieval_failed_are_not_trained_on(tmp_path: Path) -> None:
    config = IGGRPOConfig(env=EnvConfig(max_failure_rate=1.0))
    trainer = IGSearchTrainer(
        "bundled", arguments(tmp_path, **SMALL), question_dataset(), config=config, retriever=SometimesFails()
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    batch = next(iter(trainer.get_train_dataloader()))
    output = trainer._generate_and_score_completions(batch)
    failed = (output["tool_mask"] * output["completion_mask"]).sum(1) == 0
    assert 0 < int(failed.sum()) < 4
    assert not output["advantages"][failed].any()
    assert trainer._metrics["train"]["igsearch/retrieval_failures"] == [float(failed.sum())]
    assert torch.isfinite(trainer.compute_loss(trainer.model, without_padding(output)))
    strict = IGSearchTrainer("bundled", arguments(tmp_path, **SMALL), question_dataset(), retriever=SometimesFails())
    strict.model.train()
    with pytest.raises(TrainingError, match=r"env\.max_failure_rate=0\.2"):
        strict._generate_and_score_completions(batch)


def test_it_trains_adapters_and_evaluates(tmp_path: Path) -> None:
    import peft

    trainer = IGSearchTrainer(
        "bundled",
        arguments(tmp_path, **SMALL, learning_rate=1e-2, per_device_eval_batch_size=4, num_generations_eval=2),
        question_dataset(),
        algorithm="grpo",
        eval_dataset=question_dataset(bundled_world().questions["dev"][:2]),
        peft_config=peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    scores = trainer.evaluate()
    assert scores["eval_igsearch/episodes"] == 4
    moved = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    assert all("lora_" in name for name in moved)


def test_one_ratio_for_a_sequence_is_refused_where_tokens_differ(tmp_path: Path) -> None:
    trainer = IGSearchTrainer(
        "bundled", arguments(tmp_path, importance_sampling_level="sequence", loss_type="grpo"), question_dataset()
    )
    with pytest.raises(TrainingError, match="credit of single tokens would be lost"):
        trainer.train()


def test_a_model_that_cannot_write_the_markers_is_refused(tmp_path: Path) -> None:
    own = copy.deepcopy(tokenizer())
    own.decode = lambda ids, **_: "?"  # type: ignore[method-assign] # a tokenizer that knows no tags
    with pytest.raises(ConfigurationError, match="decodes the tag"):
        IGSearchTrainer(tiny_model(), arguments(tmp_path), question_dataset(), processing_class=own)


def test_padding_of_the_whole_batch_is_left_out() -> None:
    inputs = {
        "prompt_ids": torch.tensor([[0, 1, 2], [0, 0, 3]]),
        "prompt_mask": torch.tensor([[0, 1, 1], [0, 0, 1]]),
        "completion_ids": torch.tensor([[4, 5, 0, 0], [6, 0, 0, 0]]),
        "completion_mask": torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]]),
        "advantages": torch.tensor([[1.0, 2.0, 0.0, 0.0], [3.0, 0.0, 0.0, 0.0]]),
        "num_items_in_batch": torch.tensor(3),
    }
    found = without_padding(inputs)
    assert found["prompt_ids"].tolist() == [[1, 2], [0, 3]]
    assert found["completion_ids"].tolist() == [[4, 5], [6, 0]]
    assert found["advantages"].tolist() == [[1.0, 2.0], [3.0, 0.0]]
    assert int(found["num_items_in_batch"]) == 3


def test_trl_still_has_what_the_trainer_overrides() -> None:
    base = IGSearchTrainer.__mro__[1]
    for name in ("_generate_and_score_completions", "_prepare_inputs"):
        assert len(inspect.signature(getattr(base, name)).parameters) == 2
    assert "(B, T)" in inspect.getsource(base._compute_loss)


def test_an_engine_sleeps_from_each_rollout_to_the_next_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    for name in ("sleep", "sync_weights", "decoder"):
        record_calls(monkeypatch, Sampler, name, events)
    rows = question_dataset(bundled_world().questions["train"][:2])
    IGSearchTrainer("bundled", arguments(tmp_path, **SMALL, max_steps=2), rows).train()
    assert events == ["sync_weights", *["sync_weights", "decoder", "sleep"] * 2]
