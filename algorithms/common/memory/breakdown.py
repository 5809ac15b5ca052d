"""Memory of a training run, item by item: what is always allocated, and what is allocated in one phase of a step:

    always           weights, gradients (kept until the next update), optimizer states, copies, keys and values
    loading          full weights, before they are sharded
    rollout          prefill passes, logits for sampling
    update           activations for the backward pass of a micro-batch
    optimizer step   temporaries of AdamW

In bytes per process; `plan.py` turns the items into a plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from algorithms.common.base.memory_line import MemoryLine
from algorithms.common.config import TrainConfig
from algorithms.common.memory.footprint import footprint, kept
from algorithms.common.model.packing import MAX_COLUMNS
from algorithms.common.model.policy import MAX_LOGITS
from algorithms.common.model.pretrained import DTYPES
from algorithms.common.rollout.decoder import decoder_memory, slots_within
from algorithms.common.rollout.engines import ENGINES
from algorithms.common.rollout.engines.base import GenerationSizes
from algorithms.common.rollout.sampler import BUILTIN, EVAL_SLOTS

PHASES = ("loading", "rollout", "update", "optimizer step")
# Of the longest episode: its prompt, and each passage where env.max_observation_tokens sets no limit.
PROMPT_TOKENS, PASSAGE_TOKENS = 256, 200
LOGITS = 3 * 4  # bytes per logit in an update: float32 logits, log-probs and their gradient
# glibc keeps freed blocks below 32 MiB: overhead as a share of activations, measured on models of 100 M weights.
HEAP = 0.4


def memory_lines(
    config: TrainConfig, reference: bool, critic: bool, processes: int, device: torch.device, whole: int
) -> Iterator[MemoryLine]:
    """The items of one process of a run, weights first. `whole`: memory of the device, of which vLLM takes a share."""
    rollout, policy = config.rollout, replace(config.policy, gradient_checkpointing=False)
    model = footprint(policy)
    sharded = config.distributed.sharding == "fsdp2" and processes > 1
    parts = processes if sharded else 1
    nth = f", one shard of {parts}" if sharded else ""
    cuda = device.type == "cuda"

    yield MemoryLine("weights", model.weights // parts, f"{model.count / 1e6:,.0f} M in {policy.dtype}{nth}")
    yield MemoryLine("gradients", model.trained // parts, f"of {model.trained / model.weights:.0%} of the weights{nth}")
    yield MemoryLine("optimizer states", 2 * model.trained // parts, f"two moments of AdamW{nth}")
    if processes > 1 and not sharded:
        yield MemoryLine("gradient buckets", model.trained * (1 + critic), "of DistributedDataParallel")
    if reference and (sharded or not policy.lora.rank):  # else it is the policy with its adapter disabled
        kept_in = rollout.dtype or policy.dtype
        size = model.count * DTYPES[kept_in].itemsize
        yield MemoryLine("reference policy", size, f"for the KL term, in {kept_in}")
    if critic:
        yield MemoryLine("critic", (model.weights + 3 * model.trained) // parts, "weights, gradients, optimizer states")
    sampler = rollout.dtype or policy.compute_dtype or policy.dtype
    replica = sharded or rollout.dtype is not None
    if replica:
        yield MemoryLine("sampling weights", model.count * DTYPES[sampler].itemsize, f"a copy in {sampler}")

    # Under autocast, keys keep the precision of the weights, since rotary embeddings are applied in it.
    sizes = (DTYPES[sampler].itemsize,) * 2 if replica else (model.element, model.compute)
    row = model.keys * sum(sizes)  # bytes of a token's keys and values in a layer
    episode = _longest_episode(config, model.context)
    trajectories = -(-rollout.questions_per_step // processes) * rollout.group_size
    generation = GenerationSizes(
        max(trajectories, EVAL_SLOTS), model.context, model.layers * row, model.vocabulary, whole
    )
    settings = rollout.engine_settings(sampler)
    stored = 0  # tokens in the KV cache of the built-in decoder
    if rollout.engine == BUILTIN:
        stored = slots_within(settings.kv_cache_tokens, generation.episodes, model.context) * model.context
        yield from decoder_memory(settings, generation)
    else:
        yield from ENGINES[rollout.engine].memory(settings, generation)
    if sharded:
        # Gradients, optimizer states, keys and values are allocated later, in the memory that is free by then.
        later = (1 + critic) * (model.weights + 3 * model.trained) // parts + stored * model.layers * row
        whole_weights = max(0, (1 + critic) * model.weights - later)
        yield MemoryLine("full weights", whole_weights, "before they are sharded", "loading")
    # Attention copies the keys and values that it reads: in a prefill pass those of whole blocks, on a GPU expanded to
    # every query head; in a decoding pass those of less than half of the slots.
    expanded = 2 * model.queries * sizes[1] if cuda and model.queries > model.keys else 0
    reading = model.temporaries(rollout.token_budget, sizes[1]) + min(MAX_COLUMNS, stored) * (2 * row + expanded)
    yield MemoryLine("forward passes", max(reading, stored // 2 * row), f"{rollout.token_budget:,} tokens", "rollout")
    if model.casts and not replica:
        yield MemoryLine("cast weights", model.casts, f"to {policy.compute_dtype}, for a pass", "rollout")

    tokens = min(max(config.optimizer.token_budget, episode), trajectories * episode)
    rows = max(1, tokens // episode)
    size, how = kept(policy, rows, tokens // rows), "of a micro-batch"
    if config.policy.gradient_checkpointing:
        size, how = model.kept_of_layers(size, tokens), "of a micro-batch, checkpointed"
    size += model.temporaries(tokens, model.compute)
    yield MemoryLine("activations", size, f"{tokens:,} tokens {how}", "update")
    if not cuda:
        yield MemoryLine("heap", int(HEAP * size), "freed, but not returned to the system", "update")
    chunk = min(tokens, max(1, MAX_LOGITS // model.vocabulary))
    yield MemoryLine("logits", LOGITS * chunk * model.vocabulary, f"of {chunk:,} tokens", "update")
    if model.head:
        # Both gradients of a tied matrix exist at once; those of chunks are accumulated in float32.
        size = model.head * (model.element * (1 + model.tied) + (0 if model.element == 4 else 4))
        yield MemoryLine("gradient of the output layer", size, "before it is accumulated", "update")
    if sharded:
        size = 2 * model.compute * (2 * model.count // model.layers + model.head)
        yield MemoryLine("full layers", size, "gathered for a pass, with their gradients", "update")
    step = model.trained // parts if cuda else 2 * model.largest
    yield MemoryLine("temporaries", step, "of AdamW", "optimizer step")


def _longest_episode(config: TrainConfig, context: int) -> int:
    """Tokens of the longest episode that the settings allow."""
    env = config.env
    observation = env.max_observation_tokens or env.top_k * PASSAGE_TOKENS
    attempt = (env.max_searches + 1) * config.rollout.max_new_tokens + env.max_searches * observation
    return min(context, PROMPT_TOKENS + env.attempts * attempt)
