"""Memory of a training run, item by item: what is always allocated, and what is allocated in one phase of a step:

    always           weights, gradients (kept until the next update), optimizer states, copies
    loading          full weights, before they are sharded
    evaluation       keys and values, logits
    rollout          keys and values, prefill passes, logits for sampling
    update           activations for the backward pass of a micro-batch

In bytes per process; `plan.py` turns the items into a plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from algorithms.common.base.memory_line import MemoryLine
from algorithms.common.config import TrainConfig
from algorithms.common.memory.footprint import footprint, kept
from algorithms.common.model.logprobs import max_logits
from algorithms.common.model.packing import MAX_COLUMNS
from algorithms.common.model.pretrained import DTYPES
from algorithms.common.model.variable_length import MAX_ROWS, Padded, attention_for
from algorithms.common.rollout.config import BUILTIN
from algorithms.common.rollout.decoder_memory import decoder_memory
from algorithms.common.rollout.engines.base import GenerationSizes, engine_class
from algorithms.common.rollout.sampler import EVAL_SLOTS, samples_from_copy
from igsearch_env.protocols import make_protocol
from igsearch_env.world.bundled import is_world
from igsearch_env.world.options import WorldName

PHASES = ("loading", "evaluation", "rollout", "update")
QUESTION_TOKENS, CHARACTERS = 64, 3  # of a question with what a chat template adds; of a token of the prompt's template
# Of a passage, where env.max_observation_tokens sets no limit: of Wikipedia's, and of a fact of a generated world.
PASSAGE_TOKENS, FACT_TOKENS = 200, 20
LOGITS = 3 * 4  # bytes per logit in an update: float32 logits, log-probs and their gradient
# On a CPU: modules that are imported with the first model, and an entry of a tokenizer; measured on SmolLM2 (49,152).
LOADED, TOKEN = 48 * 2**20, 1_024
# glibc keeps freed blocks below 32 MiB: overhead as a share of activations, fitted to models of 100 M weights. With
# adapters or checkpointed activations, blocks that stay lie between those that are freed, and much less is reused.
HEAP, HEAP_BETWEEN = 0.4, 1.5


def memory_lines(
    config: TrainConfig,
    reference: bool,
    critic: bool,
    processes: int,
    device: torch.device,
    device_bytes: int,
    eval_questions: int,
) -> Iterator[MemoryLine]:
    """The items of one process of a run, weights first.

    Args:
        reference, critic: whether the run has these models, too.
        processes: of the whole run.
        device_bytes: memory of the device, of which vLLM takes a share.
        eval_questions: of the largest evaluation.
    """
    sizes = _Sizes(config, processes, device)
    yield from _models(sizes, reference, critic)
    if not sizes.cuda:
        yield MemoryLine("tokenizer and modules", LOADED + TOKEN * sizes.model.vocabulary, "loaded with the policy")
    rollout = _rollout(sizes, critic, device_bytes, -(-eval_questions // processes))
    if config.rollout.max_staleness:  # rollouts run during updates
        rollout = (replace(line, phase="update") if line.phase == "rollout" else line for line in rollout)
    yield from rollout
    yield from _update(sizes)


class _Sizes:
    """What the items are computed from."""

    def __init__(self, config: TrainConfig, processes: int, device: torch.device) -> None:
        rollout = config.rollout
        self.config = config
        self.policy = replace(config.policy, gradient_checkpointing=False)  # `kept_of_layers` accounts for it
        self.cuda = device.type == "cuda"
        self.model = footprint(self.policy, self.cuda)
        self.processes = processes
        self.sharded = config.distributed.sharding == "fsdp2" and processes > 1
        self.parts = processes if self.sharded else 1
        self.sampler_dtype = rollout.dtype or self.policy.compute_dtype or self.policy.dtype
        # A copy of the weights samples.
        self.replica = self.sharded or rollout.dtype is not None or samples_from_copy(rollout)
        self.by_length = not isinstance(attention_for(device.type, DTYPES[self.sampler_dtype]), Padded)
        self.value = DTYPES[self.sampler_dtype].itemsize  # bytes of an element of keys and values
        self.row = self.model.keys * 2 * self.value  # bytes of a token's keys and values in a layer
        self.trajectories = -(-rollout.questions_per_step // processes) * rollout.group_size
        self.turns = _turns(config, self.model.context)
        self.episode = self.turns[-1]


def _models(sizes: _Sizes, reference: bool, critic: bool) -> Iterator[MemoryLine]:
    """Weights, gradients and optimizer states of every model."""
    model, policy, parts = sizes.model, sizes.policy, sizes.parts
    nth = f", one shard of {parts}" if sizes.sharded else ""
    yield MemoryLine("weights", model.weights // parts, f"{model.count / 1e6:,.0f} M in {policy.dtype}{nth}")
    yield MemoryLine("gradients", model.trained // parts, f"of {model.trained / model.weights:.0%} of the weights{nth}")
    yield MemoryLine("optimizer states", 2 * model.trained // parts, f"two moments of AdamW{nth}")
    if sizes.processes > 1 and not sizes.sharded:
        yield MemoryLine("gradient buckets", model.trained * (1 + critic), "of DistributedDataParallel")
    if reference and (sizes.sharded or not policy.lora.rank):  # else it is the policy with its adapter disabled
        dtype = sizes.config.rollout.dtype or policy.dtype
        yield MemoryLine("reference policy", model.count * DTYPES[dtype].itemsize, f"for the KL term, in {dtype}")
    if critic:
        yield MemoryLine("critic", (model.weights + 3 * model.trained) // parts, "weights, gradients, optimizer states")
    if sizes.replica:
        dtype = sizes.sampler_dtype
        yield MemoryLine("sampling weights", model.count * DTYPES[dtype].itemsize, f"a copy in {dtype}")
    elif model.casts and sizes.config.rollout.engine == BUILTIN:
        copied = model.casts + model.vocabulary * model.hidden * model.compute
        yield MemoryLine("sampling weights", copied, f"of linear layers, a copy in {sizes.sampler_dtype}")


def _rollout(sizes: _Sizes, critic: bool, device_bytes: int, eval_questions: int) -> Iterator[MemoryLine]:
    """Generation and scoring."""
    model, rollout = sizes.model, sizes.config.rollout
    settings = rollout.engine_settings(sizes.sampler_dtype)
    generation = GenerationSizes(
        sizes.trajectories,
        model.context,
        model.layers * sizes.row,
        model.vocabulary,
        device_bytes,
        sizes.turns,
        sizes.cuda,
        sizes.by_length,
    )
    stored = 0  # tokens in the KV cache of the built-in decoder
    if rollout.engine == BUILTIN:
        lines = list(decoder_memory(settings, generation))
        stored = lines[0].bytes // generation.token_bytes
        yield from lines
        evaluated = replace(generation, episodes=min(EVAL_SLOTS, eval_questions))
        for line in decoder_memory(settings, evaluated):
            yield replace(line, phase="evaluation")
    else:
        yield from engine_class(rollout.engine).memory(settings, generation)
    if sizes.sharded:
        # Gradients and optimizer states are allocated later, in the memory that is free by then.
        later = (1 + critic) * (model.weights + 3 * model.trained) // sizes.parts
        whole_weights = max(0, (1 + critic) * model.weights - later)
        yield MemoryLine("full weights", whole_weights, "before they are sharded", "loading")
    if sizes.by_length:  # prefixes that branches of information gain share are copied, others are read in place
        passes = model.temporaries(rollout.token_budget, sizes.value) + MAX_ROWS * sizes.row
    else:
        # Attention copies the keys and values that it reads: in a prefill pass those of whole blocks, on a GPU expanded
        # to every query head; in a decoding pass those of less than half of the slots.
        expanded = 2 * model.queries * sizes.value if sizes.cuda and model.queries > model.keys else 0
        copied = min(MAX_COLUMNS, stored) * (2 * sizes.row + expanded)
        passes = max(model.temporaries(rollout.token_budget, sizes.value) + copied, stored // 2 * sizes.row)
    yield MemoryLine("forward passes", passes, f"{rollout.token_budget:,} tokens", "rollout")
    if model.casts and not sizes.replica and rollout.engine != BUILTIN:
        yield MemoryLine("cast weights", model.casts, f"to {sizes.policy.compute_dtype}, for a pass", "rollout")


def _update(sizes: _Sizes) -> Iterator[MemoryLine]:
    """Forward and backward pass of a micro-batch."""
    model, config = sizes.model, sizes.config
    tokens = min(max(config.optimizer.token_budget, sizes.episode), sizes.trajectories * sizes.episode)
    rows = max(1, tokens // sizes.episode)
    activations, how = kept(sizes.policy, sizes.cuda, rows, tokens // rows), "of a micro-batch"
    if config.policy.gradient_checkpointing:
        activations, how = model.kept_of_layers(activations, tokens), "of a micro-batch, checkpointed"
    activations += model.temporaries(tokens, model.compute)
    yield MemoryLine("activations", activations, f"{tokens:,} tokens {how}", "update")
    if not sizes.cuda:
        between = config.policy.lora.rank or config.policy.gradient_checkpointing
        share = HEAP_BETWEEN if between else HEAP
        yield MemoryLine("heap", int(share * activations), "freed, but not returned to the system", "update")
    chunk = min(tokens, max(1, max_logits("cuda" if sizes.cuda else "cpu") // model.vocabulary))
    yield MemoryLine("logits", LOGITS * chunk * model.vocabulary, f"of {chunk:,} tokens", "update")
    if model.head:
        # Both gradients of a tied matrix exist at once; those of chunks are accumulated in float32.
        gradients = model.head * (model.element * (1 + model.tied) + (0 if model.element == 4 else 4))
        if model.compute != 4:  # the product of a chunk, before it is added in float32
            gradients += model.head * model.compute
        if model.compute != model.element:  # the weights of the layer, cast
            gradients += model.head * model.compute
        yield MemoryLine("gradient of the output layer", gradients, "before it is accumulated", "update")
    if sizes.sharded:
        layers = 2 * model.compute * (2 * model.count // model.layers + model.head)
        yield MemoryLine("full layers", layers, "gathered for a pass, with their gradients", "update")


def _turns(config: TrainConfig, context: int) -> list[int]:
    """Tokens of the longest episode that the settings allow, at the end of each of its turns."""
    env = config.env
    passage = PASSAGE_TOKENS
    if is_world(env.corpus):
        passage = FACT_TOKENS * WorldName.read(env.corpus).options.facts_per_passage
    observation = env.max_observation_tokens or env.top_k * passage
    protocol = make_protocol(env.protocol, env.prompt, system=env.system_prompt)
    prompt = QUESTION_TOKENS + (len(protocol.template) + len(protocol.system)) // CHARACTERS
    turn = config.rollout.max_new_tokens
    ends = []
    written = prompt
    for _ in range(env.attempts):
        for _ in range(env.max_searches):
            ends.append(written + turn)
            written += turn + observation
        ends.append(written + turn)
        written += turn + prompt  # which asks to reflect
    return [min(context, end) for end in ends]
