"""`IGSearchTrainer`: TRL's `GRPOTrainer` with rollouts, information gain and algorithms of this project.

TRL                                                  here
draws questions, each num_generations times      ->  plays one episode of each (`rollouts.py`)
pads, old and reference log-probs, loss, metrics <-  token ids, loss mask, advantages [B, T]
optimizer, schedule, accelerate, PEFT, checkpoints
"""

from __future__ import annotations

import atexit
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from algorithms.common.algorithm import Algorithm
from algorithms.common.base.errors import TrainingError
from algorithms.common.config import TrainConfig
from algorithms.common.distributed.processes import Processes
from algorithms.common.model.policy import Policy
from algorithms.common.model.untrusted import check_model_folder
from algorithms.common.model.verification import verify
from algorithms.common.rollout.training_rows import TrainingRow
from algorithms.common.training.batch_metrics import batch_metrics
from igsearch_env.errors import ConfigurationError
from igsearch_env.trajectory import ANSWERED, Trajectory
from igsearch_env.world.bundled import POLICY_FOLDER
from integrations.trl.dataset import question_of, questions_of
from integrations.trl.options import choose_algorithm
from integrations.trl.rollouts import Rollout, Rollouts, mean_advantages
from retrievers import Retriever
from retrievers.reading import import_optional

import_optional("trl", "trl", "integrations.trl.trainer:")
from trl import GRPOTrainer  # noqa: E402 (after the message that names the extra)

UNSUPPORTED = ("rollout_func", "environment_factory", "tools")  # arguments of TRL that replace rollouts


class IGSearchTrainer(GRPOTrainer):  # type: ignore[misc] # trl has no types
    """Trains a policy with an algorithm of this project; optimizer, logs, checkpoints, accelerate and PEFT are TRL's.

    Args:
        model: a model of transformers or peft, its folder or name, or `bundled`.
        args: TRL's `GRPOConfig`. `num_generations` is the group size; the questions of a step are its generation batch
            over that. Options that contradict rollouts of this project are refused.
        train_dataset: made by `question_dataset`.
        eval_dataset: likewise.
        algorithm: an `Algorithm`, or a name (cw_grpo, gigpo, grpo, ig_grpo, ig_grpo_potential, igpo, mr_search,
            mt_grpo, reinforce_plus_plus, rloo).
        config: options of the algorithm, the environment, the rollouts and the information gain; default: those of the
            algorithm. Required with an instance. Group size, temperature and seed are those of `args`.
        retriever: replaces the search engine of `config.env`.
        options: other arguments of `GRPOTrainer`, as `processing_class`, `peft_config`, `callbacks` and `optimizers`.

    Raises `ConfigurationError` for arguments that contradict each other, a data set without questions, a model whose
    tokenizer can't write the markers of the protocol, and a model that rollouts can't read (`verification.py`).
    """

    def __init__(
        self,
        model: Any,
        args: Any,
        train_dataset: Any,
        *,
        algorithm: str | Algorithm = "ig_grpo",
        config: TrainConfig | None = None,
        retriever: Retriever | None = None,
        eval_dataset: Any = None,
        **options: Any,
    ) -> None:
        if options.pop("reward_funcs", None):
            raise ConfigurationError(
                "reward_funcs are given together with an algorithm of this project, which computes its own rewards: "
                "leave them out, or use GRPOTrainer with integrations/trl/environment.py"
            )
        for name in UNSUPPORTED:
            if options.get(name):
                raise ConfigurationError(
                    f"{name} is given, but IGSearchTrainer plays the episodes: leave it out, or use GRPOTrainer"
                )
        chosen, config = choose_algorithm(algorithm, config, args)
        questions = {(q.dataset, q.id): q for q in questions_of(train_dataset, "train_dataset")}
        needed = config.rollout.questions_per_step
        if len(train_dataset) < needed:
            raise ConfigurationError(
                f"train_dataset has {len(train_dataset)} questions, fewer than the {needed} of a generation batch, so "
                "TRL would train no step: give more questions, or lower per_device_train_batch_size, "
                "gradient_accumulation_steps or steps_per_generation"
            )
        for name, dataset in _named(eval_dataset):
            questions |= {(q.dataset, q.id): q for q in questions_of(dataset, name)}
        if isinstance(model, (str, Path)):
            model = str(POLICY_FOLDER if model == "bundled" else model)
            check_model_folder(model)
        super().__init__(
            model=model,
            reward_funcs=outcome,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            **options,
        )
        if self.is_fsdp_enabled or getattr(self.accelerator.state, "deepspeed_plugin", None) is not None:
            raise ConfigurationError(
                "accelerate is configured for FSDP or DeepSpeed: a sharded model can't play episodes; launch without, "
                "or train with algorithms/ and --distributed.sharding fsdp2"
            )
        accelerator = self.accelerator
        processes = Processes(accelerator.process_index, accelerator.num_processes, accelerator.device)
        self.rollouts = Rollouts(self._policy(config), chosen, config, list(questions.values()), retriever, processes)
        if self.rollouts.sampler.engine is not None:
            atexit.register(self.rollouts.close)
        self.rollout_func = self._play  # not an argument: TRL would warn that it is experimental
        self._rows: Sequence[Mapping[str, Any]] = []
        self._played: Rollout | None = None
        self._batches: Counter[tuple[str, int]] = Counter()  # generated in a step

    def _policy(self, config: TrainConfig) -> Policy:
        """The model that TRL trains, as this project plays with it."""
        adapter = self.model if hasattr(self.model, "get_base_model") else None
        precision = "bfloat16" if self.args.bf16 else "float16" if self.args.fp16 else None
        policy = Policy(
            self.model if adapter is None else adapter.get_base_model(),
            self._tokenizer,
            chat=config.policy.chat,
            chat_template=config.policy.chat_template,
            context_length=config.policy.context_length,
            compute_dtype=precision,
            adapter=adapter,
        )
        verify(policy)
        return policy

    # ---------------------------------------------------------------- one batch

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """TRL's tensors of a micro-batch, without the padding to the longest episode of the whole batch."""
        inputs: dict[str, Any] = super()._prepare_inputs(generation_batch)
        return inputs if self.pad_to_multiple_of else without_padding(inputs)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's tensors of a batch, with advantages [B, T] instead of [B]."""
        self._rows = inputs
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        played, self._played = self._played, None
        assert played is not None
        advantages_BT = torch.zeros(output["completion_ids"].shape)
        for row, place in zip(played.rows, advantages_BT, strict=True):
            if row is not None:
                place[: len(row.advantages)] = torch.from_numpy(row.advantages)
        if self.importance_sampling_level == "sequence":
            _check_constant(played.rows)
        output["advantages"] = advantages_BT.to(output["completion_ids"].device)
        self._log_rollout(played)
        return output

    def _play(self, prompts: list[Any], trainer: Any) -> dict[str, list[Any]]:
        """TRL's `rollout_func`: the episodes of a batch. Failed ones are a token without loss and reward."""
        training = self.model.training
        mode, step = "train" if training else "eval", self.state.global_step
        number = self._batches[mode, step]
        self._batches[mode, step] += 1
        self.model.eval()  # dropout and gradient checkpointing are off
        try:
            played = self.rollouts.collect(
                [question_of(row) for row in self._rows],
                self.num_generations if training else self.num_generations_eval,
                seed=(self.args.seed, step, number, int(training)),
                step=step,
                train=training,
            )
        finally:
            self.model.train(training)
        self._played = played
        blank = self._tokenizer.pad_token_id
        pairs = list(zip(played.trajectories, played.rows, strict=True))
        return {
            "prompt_ids": [list(t.prompt_ids) for t, _ in pairs],
            "completion_ids": [[blank] if row is None else row.completion_ids.tolist() for _, row in pairs],
            "logprobs": [[0.0] if row is None else row.logprobs.tolist() for _, row in pairs],
            "env_mask": [[0] if row is None else row.mask.astype(int).tolist() for _, row in pairs],
            "trajectory": [t for t, _ in pairs],
        }

    def _log_rollout(self, played: Rollout) -> None:
        """Log the statistics of the episodes, and replace TRL's values that do not apply to them."""
        metrics = self._metrics["train" if self.model.training else "eval"]
        config = self.rollouts.config
        described = batch_metrics(played.buffer, played.advantages, max_searches=config.env.max_searches)
        for name, value in described.items():
            metrics[f"igsearch/{name}"].append(value)
        # TRL counts an episode as truncated if its last token is not EOS, which an answer need not end with.
        whole = [t.stop_reason == ANSWERED for t in played.buffer.trajectories]
        lengths = played.buffer.policy_tokens[whole]
        metrics["completions/clipped_ratio"][-1] = 1.0 - float(np.mean(whole))
        for name in ("mean", "min", "max"):
            found = float(getattr(np, name)(lengths)) if lengths.size else 0.0
            metrics[f"completions/{name}_terminated_length"][-1] = found
        # TRL's table of completions has one advantage per row: its own, which is not used.
        logged = self._logs["advantages"]
        means = [value for part in self.rollouts.processes.gather(mean_advantages(played.rows)) for value in part]
        for _ in range(min(len(means), len(logged))):
            logged.pop()
        logged.extend(means)


def outcome(trajectory: Sequence[Trajectory], **_: Any) -> list[float | None]:
    """TRL's reward function: the outcome reward of each episode, for the logs; None where retrieval failed."""
    return [None if t.retrieval_failed else t.outcome for t in trajectory]


def without_padding(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of a micro-batch without columns that are padding in each row; the loss is the same."""
    prompt_BP, completion_BT = inputs["prompt_mask"], inputs["completion_mask"]
    longest_prompt, longest = int(prompt_BP.sum(1).max()), int(completion_BT.sum(1).max())
    trimmed = {}
    for name, value in inputs.items():
        if isinstance(value, torch.Tensor) and value.shape == prompt_BP.shape and name.startswith("prompt_"):
            value = value[:, value.shape[1] - longest_prompt :]
        elif isinstance(value, torch.Tensor) and value.shape == completion_BT.shape:
            value = value[:, :longest]
        trimmed[name] = value
    return trimmed


def _named(dataset: Any) -> list[tuple[str, Any]]:
    if dataset is None:
        return []
    if isinstance(dataset, Mapping):
        return [(f"eval_dataset[{name!r}]", part) for name, part in dataset.items()]
    return [("eval_dataset", dataset)]


def _check_constant(rows: Sequence[TrainingRow | None]) -> None:
    """Raise `TrainingError` if a trajectory has several advantages, which one ratio of the sequence would average."""
    for row in rows:
        if row is not None and np.ptp(row.advantages[row.mask]) > 0:
            raise TrainingError(
                "importance_sampling_level='sequence': TRL averages the advantages over a sequence, and here they "
                "differ between its tokens, so the credit of single tokens would be lost; set it to 'token'"
            )
