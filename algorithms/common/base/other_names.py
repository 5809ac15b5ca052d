"""What other trainers call the options of this project, so that an unknown option can be answered with its name here.

Names of TRL and transformers as options, those of verl and other trainers configured by hydra as dotted keys. Each is
followed by options of this project: the first that a command has is suggested.
"""

from __future__ import annotations

from collections.abc import Collection

_SAMPLES = ("rollout.group_size",)
_MODEL = ("policy.path", "policy")
_QUESTIONS = ("env.questions", "questions")
_TESTS = ("env.eval_questions", "questions")
_OUTPUT = ("run_dir", "output")
_QUESTIONS_PER_STEP = ("rollout.questions_per_step", "batch_size")
_LENGTH = ("rollout.max_new_tokens", "max_new_tokens")

OTHER_NAMES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("model", "model_name", "model_path", "model_dir", "model_id", "model_name_or_path"), _MODEL),
    **dict.fromkeys(("policy", "checkpoint", "ckpt", "weights", "pretrained_model_name_or_path"), _MODEL),
    "actor_rollout_ref.model.path": _MODEL,
    **dict.fromkeys(("dataset", "dataset_name", "train_file", "train_dataset", "data", "data.train_files"), _QUESTIONS),
    **dict.fromkeys(("eval_dataset", "eval_file", "validation_file", "data.val_files"), _TESTS),
    **dict.fromkeys(("output_dir", "output", "out", "out_dir", "save_dir", "trainer.default_local_dir"), _OUTPUT),
    **dict.fromkeys(("log_dir", "logdir", "run_name", "exp_name", "trainer.experiment_name"), _OUTPUT),
    **dict.fromkeys(("max_steps", "num_steps", "total_steps", "trainer.total_training_steps"), ("steps",)),
    **dict.fromkeys(("num_train_epochs", "num_epochs", "n_epochs", "trainer.total_epochs"), ("steps",)),
    **dict.fromkeys(("learning_rate", "actor_rollout_ref.actor.optim.lr"), ("optimizer.lr",)),
    **dict.fromkeys(("num_iterations", "ppo_epochs", "actor_rollout_ref.actor.ppo_epochs"), ("optimizer.epochs",)),
    **dict.fromkeys(("num_generations", "group_size", "n_samples", "actor_rollout_ref.rollout.n"), _SAMPLES),
    **dict.fromkeys(("batch_size", "train_batch_size", "data.train_batch_size"), _QUESTIONS_PER_STEP),
    "per_device_train_batch_size": _QUESTIONS_PER_STEP,
    **dict.fromkeys(("max_completion_length", "max_new_tokens", "max_tokens", "data.max_response_length"), _LENGTH),
    **dict.fromkeys(("beta", "kl_coef", "kl_loss_coef", "actor_rollout_ref.actor.kl_loss_coef"), ("loss.kl_coef",)),
    **dict.fromkeys(("epsilon", "clip_ratio", "cliprange"), ("loss.clip_ratio_low",)),
    "epsilon_high": ("loss.clip_ratio_high",),
    "loss_type": ("loss.aggregation",),
    "actor_rollout_ref.actor.loss_agg_mode": ("loss.aggregation",),
    "scale_rewards": ("scale_by_std",),
    **dict.fromkeys(("lam", "vf_lambda", "algorithm.lam"), ("gae_lambda",)),
    **dict.fromkeys(("use_vllm", "vllm_mode", "actor_rollout_ref.rollout.name"), ("rollout.engine",)),
    "vllm_server_base_url": ("rollout.server_url",),
    **dict.fromkeys(("bf16", "fp16", "torch_dtype", "model_dtype"), ("policy.dtype", "dtype")),
    **dict.fromkeys(("use_peft", "lora_r", "lora_rank", "actor_rollout_ref.model.lora_rank"), ("policy.lora.rank",)),
    "lora_target_modules": ("policy.lora.target_modules",),
    **dict.fromkeys(("eval_steps", "trainer.test_freq"), ("eval_every",)),
    **dict.fromkeys(("save_steps", "trainer.save_freq"), ("save_every",)),
    **dict.fromkeys(("logger", "wandb", "trainer.logger"), ("report_to",)),
    **dict.fromkeys(("wandb_project", "project_name", "trainer.project_name"), ("project",)),
    **dict.fromkeys(("overwrite_output_dir", "force"), ("overwrite",)),
    **dict.fromkeys(("max_turns", "max_tool_calling_iterations"), ("env.max_searches", "max_searches")),
    **dict.fromkeys(("n_questions", "num_questions", "num_samples", "max_samples"), ("limit", "eval_limit")),
    **dict.fromkeys(("max_length", "max_seq_length", "max_model_len"), ("policy.context_length", "context_length")),
    **dict.fromkeys(("workers", "num_workers", "num_threads"), ("threads",)),
    **dict.fromkeys(("topk", "retriever.topk"), ("env.top_k", "top_k")),
    **dict.fromkeys(("retriever_url", "search_url", "retriever.url"), ("env.corpus", "corpus")),
}

_RESUMES = "the same command, with the same folder or output, resumes what was interrupted"
_LAUNCHES = "start several processes with torchrun --nproc-per-node N in place of python"

ANSWERS: dict[str, str] = {
    **dict.fromkeys(("resume", "resume_from", "resume_from_checkpoint", "resume_run", "resume_training"), _RESUMES),
    **dict.fromkeys(("continue", "load_checkpoint", "trainer.resume_mode", "trainer.resume_from_path"), _RESUMES),
    **dict.fromkeys(("gpus", "gpu", "n_gpus", "num_gpus", "num_processes", "nproc", "nproc_per_node"), _LAUNCHES),
    **dict.fromkeys(("world_size", "trainer.n_gpus_per_node", "devices"), _LAUNCHES),
    "push_to_hub": "igsearch export RUN --output FOLDER --push OWNER/NAME uploads a trained policy",
}
"""What to do here in place of an option of other trainers that has no counterpart, by its name there."""


def name_here(name: str, known: Collection[str]) -> str | None:
    """The option, among those that a command has, that another trainer calls `name`; None if there is none.

    A name without its section counts too, if one option alone ends in it: `temperature` for `rollout.temperature`.
    """
    if name in known:
        return None
    for option in OTHER_NAMES.get(name, ()):
        if option in known:
            return option
    ends = [option for option in known if option.endswith(f".{name}")]
    rollout = [option for option in ends if not option.startswith("warm_start.")]
    return (rollout or ends)[0] if len(rollout or ends) == 1 else None
