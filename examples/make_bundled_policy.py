"""Train the bundled policy: a small Qwen2-architecture model that reads evidence well and searches poorly.

    python examples/make_bundled_policy.py                                      about 25 minutes on two cores
    python examples/make_bundled_policy.py --manner cold --output runs/cold     a colder start: even vaguer queries
    python examples/make_bundled_policy.py --world hard --output runs/hard      for world:hard (docs/worlds.md)

Supervised training on demonstrations in newly generated worlds (never the bundled one, whose facts it must not
know), in three phases: first it learns to copy names; then the protocol, reading evidence and writing queries of all
qualities; the last, short phase sets its manner: mostly vague queries and early guesses. The demonstrations come from
igsearch_env/world/demonstrations.py; see also docs/architecture.md.
"""

from __future__ import annotations

import itertools
import math
import multiprocessing as mp
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import AddedToken, pre_tokenizers
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from algorithms.common.base.command_line import parse_options
from algorithms.common.model.policy import Policy, PolicyModule
from algorithms.common.training.supervised import weighted_cross_entropy
from igsearch_env.errors import ConfigurationError
from igsearch_env.protocols import make_protocol
from igsearch_env.protocols.autorefine import AutoRefine
from igsearch_env.protocols.search_r1 import SearchR1
from igsearch_env.questions import UNKNOWN
from igsearch_env.world import names
from igsearch_env.world.bundled import POLICY_FOLDER
from igsearch_env.world.demonstrations import (
    BUNDLED,
    COLD,
    COPYING,
    KEYWORDS,
    READING,
    VAGUE,
    Demonstration,
    Manner,
    demonstrations,
)
from igsearch_env.world.hard_wordings import hard_questions, hard_texts
from igsearch_env.world.options import HARD, PLAIN
from igsearch_env.world.wordings import CHAINS, NICKNAMED, RENAMED, WORDINGS
from retrievers.random_streams import stream_seed

World = Literal["bundled", "hard"]

# The order of the shipped vocabulary.
TAGS = list(dict.fromkeys((*SearchR1.markers[:-2], *AutoRefine.markers)))

# ---------------------------------------------------------------- tokenizer


def build_tokenizer(world: World = "bundled") -> Qwen2Tokenizer:
    """One token per word of the world and bytes for everything else, so that any text can be encoded.

    A byte-level BPE without merges, of the class that transformers loads for this architecture. Words are added tokens,
    each with the preceding space. Those of `hard`, the words of all options of worlds, follow those of the bundled
    world, so that its policy can learn them.
    """
    texts = [t for ws in WORDINGS.values() for t in ws] + [t for _, ws in CHAINS.values() for t in ws]
    texts += [NICKNAMED, RENAMED, UNKNOWN, "of", make_protocol().last_call(), "Doc 1 2 3 4 5 6 7 8 9 0"]
    texts += [t for table in (KEYWORDS, VAGUE) for ts in table.values() for t in ts]
    for value in vars(names).values():
        if isinstance(value, tuple):
            texts += value
    starts = {"Doc", "No"} | {wording.split()[0] for _, wordings in CHAINS.values() for wording in wordings}
    pieces = [*TAGS, "\n\n", "(Title:", *_words(texts), *sorted(starts)]
    if world == "hard":
        first = sorted({wording.split()[0] for wording in hard_questions()})
        pieces = list(dict.fromkeys([*pieces, *_words([*hard_questions(), *hard_texts()]), *first]))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Qwen2Tokenizer(
        vocab={token: i for i, token in enumerate([*alphabet, "<|endoftext|>", "<|pad|>"])},
        merges=[],
        unk_token=None,
        eos_token="<|endoftext|>",
        pad_token="<|pad|>",
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_tokens([AddedToken(piece, special=False, normalized=False) for piece in pieces])
    return tokenizer


def _words(texts: Iterable[str]) -> list[str]:
    return sorted({" " + word.strip(".,?") for text in texts for word in text.split() if "{" not in word})


# ---------------------------------------------------------------- model


def make_model(tokenizer: Any) -> Any:
    """A newly initialized model of about one million parameters."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    install_previous_token_head(model)
    return model


def with_words(tokenizer: Any) -> Any:
    """The bundled policy with embeddings for the words of `hard`, initialized near the mean of its own."""
    model = Qwen2ForCausalLM.from_pretrained(POLICY_FOLDER)
    model.resize_token_embeddings(len(tokenizer))
    return model


@torch.no_grad()
def install_previous_token_head(model: Any, strength: float = 6.0, pairs: int = 4) -> None:
    """Make head 0 of layer 0 attend to the previous token, using only its biases.

    Rotary attention scores a distance d by sum_i |q_i||k_i| cos(phase_q - phase_k + d w_i); constant queries and keys
    whose phases differ by -w_i peak at d = 1. With this initialization a model of this size learns to copy names within
    250 training steps; from random weights it had not after 3,000.
    """
    attention = model.model.layers[0].self_attn
    width = attention.head_dim
    theta = model.config.rope_parameters["rope_theta"]
    for projection in (attention.q_proj, attention.k_proj):
        projection.weight[:width].zero_()
        projection.bias[:width].zero_()
    for i in range(pairs):
        frequency = theta ** (-2 * i / width)
        attention.k_proj.bias[i] = strength
        attention.q_proj.bias[i] = strength * math.cos(frequency)
        attention.q_proj.bias[i + width // 2] = -strength * math.sin(frequency)


# ---------------------------------------------------------------- training


def encode(tokenizer: Any, demonstration: Demonstration, manner: Manner) -> tuple[list[int], list[float]]:
    """Token ids and loss weights; segments are tokenised separately, as in a rollout."""
    ids: list[int] = []
    weights: list[float] = []
    for text, written in demonstration:
        tokens = tokenizer.encode(text, add_special_tokens=False)
        ids += tokens
        weights += [1.0 if written else manner.observations] * len(tokens)
    return ids, weights


def _produce(queue: Any, manner: Manner, seed: int, batch_size: int, world: World) -> None:
    tokenizer = build_tokenizer(world)
    rng = random.Random(stream_seed("order of the batches of demonstrations", seed))
    found = demonstrations(manner, seed, HARD if world == "hard" else PLAIN)
    stream = (encode(tokenizer, demonstration, manner) for demonstration in found)
    while True:
        # Sorted by length within a pool of batches, to reduce padding; then the batches are shuffled.
        pool = sorted(itertools.islice(stream, 8 * batch_size), key=lambda example: len(example[0]))
        batches = [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
        rng.shuffle(batches)
        for batch in batches:
            queue.put(batch)


def padded(batch: list[tuple[list[int], list[float]]], pad: int) -> tuple[Tensor, Tensor]:
    """Token ids and loss weights [B, T], padded on the right."""
    length = max(len(ids) for ids, _ in batch)
    ids_BT = torch.full((len(batch), length), pad)
    weights_BT = torch.zeros(len(batch), length)
    for row, (ids, weights) in enumerate(batch):
        ids_BT[row, : len(ids)] = torch.tensor(ids)
        weights_BT[row, : len(ids)] = torch.tensor(weights)
    weights_BT[:, 0] = 0  # nothing predicts the first token
    return ids_BT, weights_BT


def train(
    model: Any, tokenizer: Any, manner: Manner, *, steps: int, batch_size: int, lr: float, seed: int, world: World
) -> None:
    """Supervised training on demonstrations of one manner; cosine schedule with warm-up."""
    module = PolicyModule(Policy(model, tokenizer))
    context = mp.get_context("spawn")
    queue = context.Queue(maxsize=32)
    producer = context.Process(target=_produce, args=(queue, manner, seed, batch_size, world), daemon=True)
    producer.start()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01, betas=(0.9, 0.98))
    warmup = min(100, steps // 10 + 1)
    start, running = time.time(), 0.0
    for step in range(steps):
        decay = 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * decay)
        batch = queue.get(timeout=120)
        ids_BT, weights_BT = padded(batch, tokenizer.pad_token_id)
        loss, losses = weighted_cross_entropy(module, ids_BT, weights_BT / weights_BT.sum())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        running = 0.98 * running + 0.02 * float(losses[weights_BT[weights_BT != 0] == 1.0].mean())
        if (step + 1) % 50 == 0 or step == steps - 1:
            mean = running / (1 - 0.98 ** (step + 1))
            print(f"step {step + 1}/{steps}  policy-token loss {mean:.3f}  {time.time() - start:.0f} s", flush=True)
    producer.terminate()


@dataclass(frozen=True)
class Args:
    """Options of this script."""

    output: Path = POLICY_FOLDER
    """Folder to write the model and tokenizer to."""
    manner: Literal["bundled", "cold"] = "bundled"
    """Starting policy to train."""
    world: World = "bundled"
    """Worlds that it is for: `bundled`, or `hard`: the bundled policy learns the words of all options of worlds, from
    demonstrations in such worlds. It can copy: there is no copying phase, and fewer reading steps are enough."""
    reader: Path | None = None
    """Model after the reading phase: loaded if the folder exists (only the last phase runs), else saved here."""
    copying_steps: int = 400
    """Training steps of the copying phase."""
    reading_steps: int = 2000
    """Training steps of the reading phase."""
    manner_steps: int = 600
    """Training steps of the last phase, which sets the manner."""
    batch_size: int = 32
    """Demonstrations per step; the copying phase uses twice as many."""
    lr: float = 2e-3
    """Peak learning rate; the last phase uses half of it."""
    seed: int = 0
    """Seed of the weights and of the demonstrations."""


def main(args: Args) -> None:
    """Train and save the policy."""
    if args.world == "hard" and args.output == POLICY_FOLDER:
        raise ConfigurationError("--world hard without --output would replace the bundled policy; give --output FOLDER")
    torch.manual_seed(stream_seed("weights of the bundled policy", args.seed))
    tokenizer = build_tokenizer(args.world)
    if args.reader is not None and (args.reader / "config.json").is_file():
        model = Qwen2ForCausalLM.from_pretrained(args.reader)
    else:
        model = make_model(tokenizer) if args.world == "bundled" else with_words(tokenizer)
        print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens", flush=True)
        phases = [(COPYING, args.copying_steps)] if args.world == "bundled" else []
        for number, (manner, steps) in enumerate([*phases, (READING, args.reading_steps)]):
            seed = stream_seed("phase of the bundled policy", args.seed, number)
            batch_size = (2 if manner is COPYING else 1) * args.batch_size
            train(model, tokenizer, manner, steps=steps, batch_size=batch_size, lr=args.lr, seed=seed, world=args.world)
        if args.reader is not None:
            model.save_pretrained(args.reader)
            tokenizer.save_pretrained(args.reader)
    manner = {"bundled": BUNDLED, "cold": COLD}[args.manner]
    seed = stream_seed("last phase of the bundled policy", args.seed)
    steps, lr = args.manner_steps, args.lr / 2
    train(model, tokenizer, manner, steps=steps, batch_size=args.batch_size, lr=lr, seed=seed, world=args.world)
    model.save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)
    print(f"saved to {args.output}")


if __name__ == "__main__":
    main(parse_options(Args, description=__doc__))
