"""TRL's side of `trl_peer`, in a separate virtual environment: `GRPOTrainer` on the bundled questions.

    python -m benchmarks.trl_driver SPEC.json

Each line on standard input starts one training step; the reply is a line of JSON on standard output with the seconds
taken, the number of generated tokens and the mean reward. When the trainer is ready, a first line has the versions.
The output of libraries goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from igsearch_env.protocols import Answer, make_protocol, parse
from igsearch_env.rewards import outcome_reward
from igsearch_env.world.bundled import bundled_retriever

# TRL keeps the sampled ids of a conversation and renders only tool messages, so this must mark where messages begin;
# the policy never sees how it renders a call.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.content }}{% for call in message.tool_calls or [] %}"
    "<{{ call.function.name }}>{% for key, value in call.function.arguments.items() %}{{ key }}={{ value }}"
    "{% endfor %}</{{ call.function.name }}>{% endfor %}{% endfor %}"
)
CLOSE = make_protocol().stop_strings[0]  # the tag after a query
# How TRL parses a turn: a search is a call of the tool `search`, the rest is content.
RESPONSE_TEMPLATE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "\n",
    "fields": {
        "tool_calls": {
            "open": CLOSE.replace("/", ""),
            "close": CLOSE,
            "repeats": True,
            "content": "text",
            "transform": {"type": "function", "function": {"name": "search", "arguments": {"query": "{content}"}}},
        },
        "content": {"close_pattern": "$", "content": "text"},
    },
}


class SearchTool:
    """The bundled search engine as a TRL environment, whose public methods are tools."""

    spec: dict[str, Any]

    def __init__(self) -> None:
        self._protocol = make_protocol("search_r1", "bare")
        self._searches = 0

    def reset(self, **example: Any) -> None:
        """Start a new episode."""
        self._searches = 0

    def search(self, query: str) -> str:
        """Find passages.

        Args:
            query: what to look for
        """
        self._searches += 1
        passages = bundled_retriever().search([query], self.spec["top_k"])[0]
        last = self._protocol.last_call() if self._searches == self.spec["searches"] else ""
        return self._protocol.observation(passages) + last


def exact_match(completions: list[Any], answers: list[list[str]], **rest: Any) -> list[float]:
    """1 for a correct answer, else 0."""
    rewards = []
    for completion, golden in zip(completions, answers, strict=True):
        action = parse(completion if isinstance(completion, str) else completion[-1]["content"])
        rewards.append(outcome_reward("em", action.text if isinstance(action, Answer) else None, golden))
    return rewards


class Conversation(TrainerCallback):  # type: ignore[misc]
    """Delays every step until it is requested."""

    def __init__(self, answers: Any) -> None:
        self.answers = answers
        self.trainer: Any = None
        self.start = 0.0

    def say(self, content: dict[str, Any]) -> None:
        """Print one line of JSON."""
        print(json.dumps(content), file=self.answers, flush=True)

    def on_step_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Wait for a request."""
        if not sys.stdin.readline():
            raise SystemExit  # the parent process has closed the pipe
        self.start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Report the step."""
        taken = time.perf_counter() - self.start
        metrics = self.trainer._metrics["train"]
        tokens = metrics["completions/mean_length"][-1] * self.trainer.args.generation_batch_size
        self.say({"seconds": taken, "tokens": round(tokens), "reward": metrics["reward"][-1]})


def main(spec: dict[str, Any], answers: Any) -> None:
    """Train until all prompts have been used."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(spec["threads"])
    SearchTool.spec = spec
    multi_turn = spec["searches"] > 0
    tokenizer = AutoTokenizer.from_pretrained(spec["policy"])
    model = AutoModelForCausalLM.from_pretrained(spec["policy"], dtype=torch.float32)
    rollout, optimizer = spec["rollout"], spec["optimizer"]
    generation = {"max_new_tokens": rollout["max_new_tokens"]}
    prompts: list[Any] = spec["prompts"]
    if multi_turn:
        tokenizer.chat_template, tokenizer.response_template = CHAT_TEMPLATE, RESPONSE_TEMPLATE
        model.generation_config.eos_token_id = [tokenizer.eos_token_id, *spec["stop_ids"]]
        prompts = [[{"role": "user", "content": prompt}] for prompt in prompts]
    else:
        generation["min_new_tokens"] = rollout["max_new_tokens"]
    config = GRPOConfig(
        output_dir=spec["folder"],
        max_steps=len(prompts) // rollout["questions_per_step"],
        per_device_train_batch_size=rollout["questions_per_step"] * rollout["group_size"] // spec["micro_batches"],
        gradient_accumulation_steps=spec["micro_batches"],
        num_generations=rollout["group_size"],
        max_completion_length=spec["max_completion"] if multi_turn else rollout["max_new_tokens"],
        max_tool_calling_iterations=spec["searches"],
        generation_kwargs=generation,
        temperature=rollout["temperature"],
        beta=0.0,
        learning_rate=optimizer["lr"],
        lr_scheduler_type="constant",
        adam_beta1=optimizer["beta1"],
        adam_beta2=optimizer["beta2"],
        weight_decay=optimizer["weight_decay"],
        max_grad_norm=optimizer["max_grad_norm"],
        shuffle_dataset=False,
        gradient_checkpointing=False,  # it would slow TRL down by about a fifth
        bf16=spec["bfloat16"],
        use_cpu=True,
        dataloader_pin_memory=False,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    conversation = Conversation(answers)
    conversation.trainer = GRPOTrainer(
        model=model,
        reward_funcs=exact_match,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": prompts, "answers": spec["answers"]}),
        processing_class=tokenizer,
        environment_factory=SearchTool if multi_turn else None,
        callbacks=[conversation],
    )
    conversation.say({name: version(name) for name in ("trl", "transformers", "torch")})
    conversation.trainer.train()


if __name__ == "__main__":
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keeps the output of libraries out of the replies
    main(json.loads(Path(sys.argv[1]).read_text()), lines)
