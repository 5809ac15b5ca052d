"""Train with TRL: `IGSearchTrainer` on the bundled world, or on a model, questions and a corpus of your own.

python integrations/trl/train.py --algorithm ig_grpo --steps 10
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from retrievers.extras import require_for_program

require_for_program("torch", "training with TRL")
require_for_program("transformers", "training with TRL")

import torch  # noqa: E402
from transformers import PrinterCallback, TrainerCallback  # noqa: E402

from algorithms.common.base.command_line import command_line, parse_options  # noqa: E402
from algorithms.common.model.config import PolicyConfig  # noqa: E402
from algorithms.common.rollout.environment import EnvConfig, check_named_world  # noqa: E402
from algorithms.common.run.setup import choose_threads  # noqa: E402
from algorithms.comparison.registry import ALGORITHMS  # noqa: E402
from igsearch_env.errors import ConfigurationError, IGSearchError, check_choice, check_range  # noqa: E402
from integrations.trl.dataset import question_dataset  # noqa: E402
from retrievers.program import ends_in_one_line  # noqa: E402
from retrievers.reading import import_optional  # noqa: E402


@dataclass(frozen=True)
class Args:
    """Options; those of the environment are as in `algorithms/ig_grpo.py`."""

    algorithm: str = "ig_grpo"
    """Name of the algorithm."""
    model: str = "bundled"
    """Folder or name of a model, or `bundled`."""
    steps: int = 10
    """Optimizer steps."""
    questions_per_step: int = 16
    """Questions of a step."""
    group_size: int = 8
    """Rollouts per question (TRL: num_generations)."""
    micro_batch: int = 16
    """Trajectories of a forward pass (TRL: per_device_train_batch_size)."""
    lr: float = 3e-4
    """Peak learning rate, after five steps of warm-up."""
    bf16: bool = False
    """Compute in bfloat16 under autocast."""
    context_length: int | None = None
    """Maximum sequence length, tokens; default: that of the model."""
    lora_rank: int = 0
    """Rank of LoRA adapters; 0 trains all weights."""
    output: Path = Path("runs/trl")
    """Folder of checkpoints and logs."""
    seed: int = 0
    """Random seed."""
    env: EnvConfig = field(default_factory=EnvConfig)
    """The environment; of the questions, only `questions` are used."""

    def __post_init__(self) -> None:
        for name in ("steps", "questions_per_step", "micro_batch"):  # TRL takes 0 or -1 steps as three epochs
            check_range(name, getattr(self, name), 1)
        check_range("group_size", self.group_size, 2)
        check_range("lora_rank", self.lora_rank, 0)
        check_range("seed", self.seed, 0)


def main(args: Args) -> None:
    """Train, print a line a step and save the policy."""
    trl = import_optional("trl", "trl", "integrations/trl/train.py")
    from integrations.trl.trainer import IGSearchTrainer

    episodes = args.questions_per_step * args.group_size
    if episodes % args.micro_batch:
        raise ConfigurationError(
            f"micro_batch={args.micro_batch}: must divide the {episodes} episodes of a step "
            f"(questions_per_step {args.questions_per_step} x group_size {args.group_size})"
        )
    torch.set_num_threads(choose_threads()[0])
    check_choice("algorithm", args.algorithm, ALGORITHMS)
    sections: dict[str, Any] = {} if args.env == EnvConfig() else {"env": args.env}
    policy = PolicyConfig(context_length=args.context_length)
    config = replace(ALGORITHMS[args.algorithm].config, **sections, policy=policy)
    longest = config.rollout.max_new_tokens * (config.env.max_searches + 1) * config.env.attempts
    options = trl.GRPOConfig(
        str(args.output),
        max_steps=args.steps,
        learning_rate=args.lr,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=5,
        adam_beta2=0.99,
        per_device_train_batch_size=args.micro_batch,
        gradient_accumulation_steps=episodes // args.micro_batch,
        num_generations=args.group_size,
        max_completion_length=longest,
        bf16=args.bf16,
        use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=args.seed,
    )
    lora = None
    if args.lora_rank:
        lora = import_optional("peft", "trl", "lora_rank").LoraConfig(
            r=args.lora_rank, lora_alpha=2 * args.lora_rank, target_modules="all-linear", task_type="CAUSAL_LM"
        )
    questions = None if args.env.questions == ("bundled",) else args.env.questions
    trainer = IGSearchTrainer(
        args.model,
        options,
        question_dataset(questions),
        algorithm=args.algorithm,
        config=config,
        peft_config=lora,
        callbacks=[StepLine()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.save_model()
    print(f"policy in {args.output}")


class StepLine(TrainerCallback):  # type: ignore[misc] # transformers has no types here
    """Prints a line for each step."""

    def on_log(self, *arguments: Any, logs: dict[str, Any], **_: Any) -> None:
        """Called by the trainer; `arguments`: its options, its state."""
        if "igsearch/reward" not in logs:
            return
        now = time.perf_counter()
        last, self.last = getattr(self, "last", self.began), now
        gain = logs.get("igsearch/information_gain/mean")
        shown = "" if gain is None else f"  information gain {gain:.3f}"
        print(
            f"step {arguments[1].global_step}/{arguments[1].max_steps}  reward {logs['igsearch/reward']:.3f}  "
            f"searches {logs['igsearch/searches']:.2f}{shown}  {now - last:.2f} s",
            flush=True,
        )

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Called by the trainer."""
        self.began = time.perf_counter()


if __name__ == "__main__":
    words = command_line()
    parsed = parse_options(Args, words, description=__doc__)
    with ends_in_one_line(IGSearchError, OSError):
        check_named_world(parsed.env, words)
        main(parsed)
