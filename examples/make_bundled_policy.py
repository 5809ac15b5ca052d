"""Make the bundled policy: a small Qwen2-architecture model that reads well and searches poorly.

    python examples/make_bundled_policy.py                                      about 25 minutes on two cores
    python examples/make_bundled_policy.py --manner cold --output runs/cold     a colder start: still vaguer queries

Supervised training on demonstrations in freshly generated worlds (never the bundled one, whose facts it can't
know), in three phases: it learns to copy names; then the protocol, to read evidence and to write queries of every
quality; then a short phase sets its manner: mostly vague queries, early guesses. See docs/architecture.md.
"""

from __future__ import annotations

import itertools
import math
import multiprocessing as mp
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from tokenizers import AddedToken, pre_tokenizers
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from igsearch_env.protocol import FAMILIES as PROTOCOLS
from igsearch_env.protocol import Protocol
from igsearch_env.questions import Question
from igsearch_env.world import World, generate_world, names
from igsearch_env.world.generator import CHAINS, NICKNAMED, RENAMED, WORDINGS, Hop
from retrievers import BM25Retriever, Passage

POLICY_FOLDER = Path(__file__).parent.parent / "igsearch_env" / "world" / "policy"
TAGS = [
    f"<{slash}{tag}>"
    for tag in ["think", "search", "information", "documents", "refine", "answer"]
    for slash in ("", "/")
]
KEYWORDS = {
    "born": ("born", "birthplace", "born birthplace"),
    "occupation": ("worked", "profession", "worked profession", "occupation"),
    "author": ("novel", "written", "author"),
    "founder": ("founded", "founder", "company founded"),
    "country": ("city in", "country", "city country"),
}
VAGUE = {
    "born": ("born city", "birthplace", "where born"),
    "occupation": ("worked", "occupation profession", "work as"),
    "author": ("novel author", "who wrote", "author"),
    "founder": ("founder company", "founder", "who founded"),
    "country": ("country", "which country", "born country"),
}
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Manner:
    """How the demonstrator behaves. Shares of queries by quality (the rest is vague), and when it stops."""

    # Loss weight of what the policy only reads. A passage repeats its title, which teaches a small model to copy;
    # but in the end it must not write what the environment writes.
    observations: float
    drill: float  # share of copying drills
    given: float  # share of the rest that shows all the evidence at once: reading practice
    precise: float  # entity and relation
    name: float  # the entity alone
    part: float  # one word of the entity and a keyword
    wrong_entity: float  # a later hop asked about the entity of the question
    later_hops: float  # factor on `precise` and `name` from the second hop on
    give_up: float  # chance to guess after each search that brought nothing


COPYING = Manner(
    observations=0.0, drill=1.0, given=0, precise=0, name=0, part=0, wrong_entity=0, later_hops=1, give_up=0
)
READING = Manner(
    observations=0.5,
    drill=0.15,
    given=0.4,
    precise=0.30,
    name=0.15,
    part=0.15,
    wrong_entity=0.10,
    later_hops=1.0,
    give_up=0.35,
)
BUNDLED = Manner(
    observations=0.0,
    drill=0.05,
    given=0.50,
    precise=0.17,
    name=0.11,
    part=0.12,
    wrong_entity=0.10,
    later_hops=1.0,
    give_up=0.45,
)
COLD = Manner(
    observations=0.0,
    drill=0.0,
    given=0.45,
    precise=0.03,
    name=0.03,
    part=0.14,
    wrong_entity=0.15,
    later_hops=0.8,
    give_up=0.6,
)


# ---------------------------------------------------------------- tokenizer


def build_tokenizer() -> Qwen2Tokenizer:
    """One token a word of the world, bytes for everything else, so that any text can be read and written.

    A byte-level BPE without merges, of the class that transformers loads for this architecture, whose words are
    added tokens, each with the space before it.
    """
    words: set[str] = set()
    texts = [t for ws in WORDINGS.values() for t in ws] + [t for _, ws in CHAINS.values() for t in ws]
    texts += [NICKNAMED, RENAMED, UNKNOWN, "of", Protocol().last_call(), "Doc 1 2 3 4 5 6 7 8 9 0"]
    texts += [t for table in (KEYWORDS, VAGUE) for ts in table.values() for t in ts]
    for value in vars(names).values():
        if isinstance(value, tuple):
            texts += value
    for text in texts:
        words.update(w.strip(".,?") for w in text.split() if "{" not in w)
    starts = {"Doc", "No"} | {wording.split()[0] for _, wordings in CHAINS.values() for wording in wordings}
    pieces = [*TAGS, "\n\n", "(Title:", *sorted(f" {w}" for w in words), *sorted(starts)]
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


# ---------------------------------------------------------------- demonstrations


def query(rng: random.Random, manner: Manner, question: Question, hop_number: int) -> str:
    """One query towards a hop, of a quality drawn by the manner."""
    hops: tuple[Hop, ...] = question.metadata["hops"]
    hop = hops[hop_number]
    entity = question.metadata["named"] if hop_number == 0 else hop.entity
    factor = 1.0 if hop_number == 0 else manner.later_hops
    keyword = rng.choice(KEYWORDS[hop.relation])
    draw = rng.random()
    for share, text in (
        (manner.precise * factor, f"{entity} {keyword}"),
        (manner.name * factor, entity),
        (manner.part, f"{rng.choice([w for w in entity.split() if w not in ('The', 'of')])} {keyword}"),
        (manner.wrong_entity * (hop_number > 0), f"{question.metadata['named']} {keyword}"),
    ):
        draw -= share
        if draw < 0:
            return text
    # Mostly the same vague query, so that the single most likely query is a bad one.
    vague = VAGUE[hops[rng.randrange(len(hops))].relation]
    return vague[0] if rng.random() < 0.8 else rng.choice(vague)


def guess(rng: random.Random, world: World, question: Question, shown: list[Passage]) -> str:
    """An answer of the right kind from what was shown, or the admission that nothing was found."""
    relation = question.metadata["hops"][-1].relation
    kind = {"born": ("born", "residence")}.get(relation, (relation,))
    candidates = [world.facts[p.id].answer for p in shown if world.facts[p.id].relation in kind]
    candidates = [c for c in candidates if c not in question.golden_answers]
    return rng.choice(candidates) if candidates and rng.random() < 0.2 else UNKNOWN


def demonstrate(
    rng: random.Random, manner: Manner, world: World, retriever: BM25Retriever, question: Question, family: str
) -> list[tuple[str, bool]]:
    """One episode as (text, written by the policy) segments."""
    protocol = Protocol(family, "bare")
    hops: tuple[Hop, ...] = question.metadata["hops"]
    segments = [(protocol.question_prompt(question.text), False)]
    if rng.random() < manner.given:
        passages = world.evidence(question) + rng.sample(world.passages, rng.randint(0, 5 - len(hops)))
        rng.shuffle(passages)
        text = query(rng, manner, question, rng.randrange(len(hops)))
        segments += [(f"<search> {text}</search>", True), (protocol.observation(passages), False)]
        return [*segments, (_refine(family, [world.by_id[hops[-1].passage_id]]) + _answer(hops[-1].answer), True)]
    done, shown, pending = 0, list[Passage](), ""
    limit, top_k = rng.randint(1, 5), rng.choice((2, 3, 3, 3, 4))
    for searches in range(1, limit + 1):
        text = query(rng, manner, question, done)
        segments.append((f"{pending}<search> {text}</search>", True))
        passages = retriever.search([text], top_k)[0]
        shown += passages
        observation = protocol.observation(passages) + (protocol.last_call() if searches == limit else "")
        segments.append((observation, False))
        before = done
        ids = {p.id for p in shown}
        while done < len(hops) and hops[done].passage_id in ids:
            done += 1
        found = [world.by_id[h.passage_id] for h in hops[before:done]]
        pending = _refine(family, found)
        if done == len(hops):
            segments.append((pending + _answer(hops[-1].answer), True))
            return segments
        if searches == limit or (done == before and rng.random() < manner.give_up):
            break
    segments.append((pending + _answer(guess(rng, world, question, shown)), True))
    return segments


def _refine(family: str, found: list[Passage]) -> str:
    if family != "autorefine":
        return ""
    return f"<refine> {' '.join(p.text for p in found) if found else UNKNOWN}</refine>\n"


def _answer(text: str) -> str:
    return f"<answer> {text}</answer>"


def drill(rng: random.Random) -> list[tuple[str, bool]]:
    """Twelve pairs of names, then the same pairs in another order; only second names can be known, and count."""
    words = rng.sample([*names.FIRST_NAMES, *names.LAST_NAMES, *names.PLACES], 24)
    pairs = list(zip(words[::2], words[1::2], strict=True))
    segments = [("".join(f" {first} {second}" for first, second in pairs), False)]
    for first, second in rng.sample(pairs, len(pairs)):
        segments += [(f" {first}", False), (f" {second}", True)]
    return segments


def encode(tokenizer: Any, segments: list[tuple[str, bool]], manner: Manner) -> tuple[list[int], list[float]]:
    """Token ids and loss weights; segments are tokenised apart, as a rollout does."""
    ids: list[int] = []
    weights: list[float] = []
    for text, written in segments:
        tokens = tokenizer.encode(text, add_special_tokens=False)
        ids += tokens
        weights += [1.0 if written else manner.observations] * len(tokens)
    return ids, weights


def demonstrations(manner: Manner, seed: int) -> Iterator[tuple[list[int], list[float]]]:
    """Endless demonstrations; a new world every few thousand."""
    rng = random.Random(seed)
    tokenizer = build_tokenizer()
    while True:
        world = generate_world(rng.randrange(10**6, 10**9), rng.choice((800, 1500, 3000)))
        retriever = BM25Retriever(world.passages)
        questions = list(itertools.chain(*world.questions.values()))
        for _ in range(6 * len(questions)):
            if rng.random() < manner.drill:
                yield encode(tokenizer, drill(rng), manner)
                continue
            family = PROTOCOLS[rng.random() < 0.2]
            segments = demonstrate(rng, manner, world, retriever, rng.choice(questions), family)
            yield encode(tokenizer, segments, manner)


def _produce(queue: Any, manner: Manner, seed: int, batch_size: int) -> None:
    stream = demonstrations(manner, seed)
    while True:
        # Sorted within a pool of batches, so that a batch pads little; then in random order.
        pool = sorted(itertools.islice(stream, 8 * batch_size), key=lambda example: len(example[0]))
        batches = [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
        random.Random(seed).shuffle(batches)
        for batch in batches:
            queue.put(batch)


# ---------------------------------------------------------------- training


@torch.no_grad()
def install_previous_token_head(model: Any, strength: float = 6.0, pairs: int = 4) -> None:
    """Make head 0 of layer 0 look at the previous token, by its biases alone.

    Rotary attention scores a distance d by sum_i |q_i||k_i| cos(phase_q - phase_k + d w_i); constant queries and keys
    whose phases differ by -w_i peak at d = 1. From there a model this small learns to copy names within 250 steps
    of drill; from random weights it had not after 3,000.
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


def train(model: Any, manner: Manner, *, steps: int, batch_size: int, lr: float, seed: int, pad: int) -> None:
    """Supervised training on demonstrations of one manner; cosine schedule with warm-up."""
    context = mp.get_context("spawn")
    queue = context.Queue(maxsize=32)
    producer = context.Process(target=_produce, args=(queue, manner, seed, batch_size), daemon=True)
    producer.start()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01, betas=(0.9, 0.98))
    warmup = min(100, steps // 10 + 1)
    start, running = time.time(), 0.0
    for step in range(steps):
        decay = 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * decay)
        batch = queue.get(timeout=120)
        length = max(len(ids) for ids, _ in batch)
        ids_BT = torch.full((len(batch), length), pad)
        weights_BT = torch.zeros(len(batch), length)
        for row, (ids, weights) in enumerate(batch):
            ids_BT[row, : len(ids)] = torch.tensor(ids)
            weights_BT[row, : len(ids)] = torch.tensor(weights)
        # Right padding under causal attention needs no mask: no real token ever sees a pad.
        logits_BTV = model(input_ids=ids_BT).logits[:, :-1]
        targets_BT = weights_BT[:, 1:]
        losses_BT = torch.nn.functional.cross_entropy(
            logits_BTV.flatten(0, 1), ids_BT[:, 1:].flatten(), reduction="none"
        ).view_as(targets_BT)
        loss = (losses_BT * targets_BT).sum() / targets_BT.sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        written = targets_BT == 1.0
        running = 0.98 * running + 0.02 * float((losses_BT * written).sum() / written.sum())
        if (step + 1) % 50 == 0 or step == steps - 1:
            mean = running / (1 - 0.98 ** (step + 1))
            print(f"step {step + 1}/{steps}  policy-token loss {mean:.3f}  {time.time() - start:.0f} s", flush=True)
    producer.terminate()


@dataclass
class Args:
    """Options of this script."""

    output: Path = POLICY_FOLDER
    """Folder to write the model and tokenizer to."""
    manner: Literal["bundled", "cold"] = "bundled"
    """Which start to make."""
    reader: Path | None = None
    """Result of the reading phase: read from here if it exists (only the last phase runs), else written here."""
    copying_steps: int = 400
    """Steps of drill."""
    reading_steps: int = 2000
    """Steps of learning to read and search."""
    manner_steps: int = 600
    """Steps that set the manner."""
    batch_size: int = 32
    """Demonstrations a step."""
    lr: float = 2e-3
    """Peak learning rate; the last phase has half of it."""
    seed: int = 0
    """Seed of the weights and of the demonstrations."""


def make_model(tokenizer: Any) -> Any:
    """A fresh model of about one million parameters."""
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


def main(args: Args) -> None:
    """Make and save the policy."""
    torch.manual_seed(args.seed)
    tokenizer = build_tokenizer()
    pad = tokenizer.pad_token_id
    if args.reader is not None and (args.reader / "config.json").is_file():
        model = Qwen2ForCausalLM.from_pretrained(args.reader)
    else:
        model = make_model(tokenizer)
        print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens", flush=True)
        for number, (manner, steps) in enumerate(((COPYING, args.copying_steps), (READING, args.reading_steps))):
            seed, batch_size = args.seed + 10 * number, (2 if manner is COPYING else 1) * args.batch_size
            train(model, manner, steps=steps, batch_size=batch_size, lr=args.lr, seed=seed, pad=pad)
        if args.reader is not None:
            model.save_pretrained(args.reader)
            tokenizer.save_pretrained(args.reader)
    manner = {"bundled": BUNDLED, "cold": COLD}[args.manner]
    seed = args.seed + 100
    train(model, manner, steps=args.manner_steps, batch_size=args.batch_size, lr=args.lr / 2, seed=seed, pad=pad)
    model.save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)
    print(f"saved to {args.output}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
