"""Which architectures of transformers this project trains right: a table of every causal language model.

    python -m benchmarks.architectures [--only qwen2 phi3 ...] [--markdown]

Each architecture is built small with random weights, with windows, chunks and original context lengths shorter than
the texts, also with scaled rotary embeddings. If the project accepts the model, every way in which it reads is compared
with the model as transformers made it, each text alone: packed, continued after a stored prefix, decoded token by
token, padded beside other texts, with gradient checkpointing (log-probs of two identical calls, and gradients), and
read back after saving. Exits with 1 if an accepted model is off by more than `LIMIT` anywhere.
"""

from __future__ import annotations

import argparse
import copy
import gc
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from algorithms.common.model.config import PolicyConfig
from algorithms.common.model.kv_cache import KVCache
from algorithms.common.model.kv_spans import Span
from algorithms.common.model.packing import Block, pack, pack_slots
from algorithms.common.model.policy import Policy, PolicyModule
from algorithms.common.model.text_parameters import freeze_parameters_without_text
from algorithms.common.model.verification import verify
from benchmarks.small_architectures import CONTEXT, ORIGINAL, WINDOW, small_model
from igsearch_env.errors import ConfigurationError
from retrievers.random_streams import stream_seed

LIMIT = 1e-4  # nats
NEWLINE = "\n"
LENGTHS = (44, 13, 5, 44, 29)  # tokens of the texts: longer than windows and original lengths, and shorter
PAST = (9, 3, 1, 37, 20)  # tokens of their stored prefixes
ROPES: dict[str, dict[str, Any]] = {
    "longrope": {
        "rope_type": "longrope",
        "short_factor": [1.0 + 0.1 * place for place in range(4)],
        "long_factor": [2.0 + 0.5 * place for place in range(4)],
        "original_max_position_embeddings": ORIGINAL,
        "factor": CONTEXT / ORIGINAL,
    },
    "dynamic": {"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": ORIGINAL},
    "yarn": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": ORIGINAL},
    "llama3": {
        **{"rope_type": "llama3", "factor": 2.0, "original_max_position_embeddings": ORIGINAL},
        **{"low_freq_factor": 1.0, "high_freq_factor": 4.0},
    },
    "linear": {"rope_type": "linear", "factor": 2.0},
}
SCALED = {"llama": tuple(ROPES), "mistral": tuple(ROPES), "qwen2": tuple(ROPES), "phi3": ("longrope",)}


def texts(policy: Policy) -> list[list[int]]:
    """Random texts that fit into the policy's context."""
    random = torch.Generator().manual_seed(stream_seed("texts for every architecture", 0))
    vocabulary = len(policy.tokenizer.hf_tokenizer)
    lengths = [min(length, policy.context_length) for length in LENGTHS]
    return [torch.randint(3, vocabulary, (length,), generator=random).tolist() for length in lengths]


def alone(model: Any, ids: list[int]) -> Tensor:
    """Log-probs [T - 1] of one text by the model of transformers itself."""
    row = torch.tensor([ids])
    logits = model(input_ids=row, use_cache=False).logits[0].float()
    chosen: Tensor = logits[:-1].log_softmax(-1).gather(-1, row[0, 1:, None])[:, 0]
    return chosen


def packed(policy: Policy, rows: list[list[int]]) -> list[Tensor]:
    """All texts in one pass."""
    blocks = [Block(row) for row in rows]
    one = pack(blocks, policy.device)
    hidden_n = policy.forward_packed(one)
    starts = zip(one.first, rows, strict=True)
    return [of(policy, hidden_n[first : first + len(row)], row) for first, row in starts]


def continued(policy: Policy, rows: list[list[int]]) -> list[Tensor]:
    """After stored prefixes; log-probs of what follows them."""
    store = KVCache()
    store.reserve(len(rows) * CONTEXT)
    pasts = [min(past, len(row) - 2) for past, row in zip(PAST, rows, strict=True)]
    pairs = list(zip(rows, pasts, strict=True))
    begin = [Block(row[:past], 0, slot * CONTEXT) for slot, (row, past) in enumerate(pairs)]
    policy.forward_packed(pack(begin, policy.device, store=store, keep=True))
    rest = [Block(row[past:], past, slot * CONTEXT) for slot, (row, past) in enumerate(pairs)]
    one = pack(rest, policy.device, store=store)
    hidden_n = policy.forward_packed(one)
    starts = zip(one.first, rest, strict=True)
    return [of(policy, hidden_n[first : first + len(block.ids)], list(block.ids)) for first, block in starts]


def decoded(policy: Policy, rows: list[list[int]]) -> list[Tensor]:
    """Token by token from short prefixes on, all texts at once while they last."""
    store = KVCache()
    grid = Span(0, CONTEXT).grid
    spans = [Span(slot * grid, grid) for slot in range(len(rows))]
    store.reserve(len(rows) * grid)
    begin = [Block(row[:2], 0, span.start) for row, span in zip(rows, spans, strict=True)]
    policy.forward_packed(pack(begin, policy.device, store=store, keep=True))
    states: list[list[Tensor]] = [[] for _ in rows]
    for place in range(2, max(map(len, rows))):
        slots = [slot for slot, row in enumerate(rows) if place < len(row)]
        new = [rows[slot][place] for slot in slots]
        here = [spans[slot] for slot in slots]
        one = pack_slots(new, here, [place] * len(slots), policy.device, store=store)
        hidden = policy.forward_packed(one)[one.first]
        for slot, state in zip(slots, hidden, strict=True):
            states[slot].append(state)
    return [of(policy, torch.stack(hidden), row[2:]) for hidden, row in zip(states, rows, strict=True)]


def of(policy: Policy, hidden: Tensor, ids: list[int]) -> Tensor:
    """Log-probs of tokens after the first, given the states before them."""
    return policy.logprobs_of(hidden[:-1], torch.tensor(ids[1:]))[0]


def batch(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Ids and mask [B, T] of texts padded on the right."""
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(row)) for row in rows], batch_first=True).bool()
    mask[:, 0] = False
    return ids, mask


def apart(found: list[Tensor], expected: list[Tensor]) -> float:
    """Largest difference of the last log-probs of each text, nats; infinite if any is not a number."""
    pairs = zip(found, expected, strict=True)
    return max(float(torch.nan_to_num(a - b[len(b) - len(a) :], torch.inf).abs().max()) for a, b in pairs)


def measure(model: Any, tokenizer: Any) -> Iterator[tuple[str, float]]:
    """Name and size of each difference. Raises `ConfigurationError` if the project rejects the model."""
    original = copy.deepcopy(model)
    freeze_parameters_without_text(model)
    policy = Policy(model, tokenizer)
    verify(policy)
    rows = texts(policy)
    ids, mask = batch(rows)
    sizes = [len(row) - 1 for row in rows]
    with torch.no_grad():
        expected = [alone(original, row) for row in rows]
        yield "packed", apart(packed(policy, rows), expected)
        yield "continued", apart(continued(policy, rows), expected)
        yield "decoded", apart(decoded(policy, rows), expected)
        yield "padded", apart(list(torch.split(policy.token_logprobs(ids, mask)[0], sizes)), expected)

    trained = Policy(copy.deepcopy(original), tokenizer, gradient_checkpointing=True)
    freeze_parameters_without_text(trained.model)
    module = PolicyModule(trained)
    calls = [module(ids, mask)[0] for _ in range(2)]
    yield "checkpointed", apart(list(torch.split(calls[0], sizes)), expected)
    yield "two calls", float((calls[0] - calls[1]).abs().max())
    calls[0].sum().backward()
    original.eval()
    sum(alone(original, row).sum() for row in rows).backward()  # type: ignore[union-attr] # a tensor
    yield "gradients", gradients_apart(trained.model, original)
    with tempfile.TemporaryDirectory() as folder:
        trained.save(folder)
        again = Policy.load(PolicyConfig(path=folder, device="cpu"))
        with torch.no_grad():
            yield "read back", apart(list(torch.split(again.token_logprobs(ids, mask)[0], sizes)), expected)


def gradients_apart(found: Any, expected: Any) -> float:
    """Largest difference of two models' gradients, as a share of the largest gradient."""
    largest = max(float(p.grad.abs().max()) for p in expected.parameters() if p.grad is not None)
    worst = 0.0
    for mine, theirs in zip(found.parameters(), expected.parameters(), strict=True):
        if theirs.grad is None and mine.grad is None:
            continue
        one, other = (torch.zeros_like(p) if p.grad is None else p.grad for p in (mine, theirs))
        worst = max(worst, float(torch.nan_to_num(one - other, torch.inf).abs().max()) / largest)
    return worst


def check(kind: str, rope: str | None, tokenizer: Any) -> tuple[str, str, str]:
    """Architecture, verdict (right, refused, WRONG, not built) and the figures or the reason."""
    name = f"{kind} ({rope})" if rope else kind
    try:
        model = small_model(kind, len(tokenizer), rope=dict(ROPES[rope]) if rope else None)
        with torch.no_grad():
            alone(model, list(range(3, 3 + 2 * WINDOW)))
    except Exception as error:  # whatever a configuration of foreign sizes may raise
        return name, "not built", f"{type(error).__name__}: {str(error).partition(NEWLINE)[0][:100]}"
    try:
        figures = dict(measure(model, tokenizer))
    except ConfigurationError as error:
        return name, "refused", str(error).removeprefix("policy: ").partition("; train a model")[0]
    except Exception as error:  # an accepted model that can't be used is a fault, of whatever kind
        return name, "WRONG", f"{type(error).__name__}: {str(error).partition(NEWLINE)[0][:120]}"
    worst = max(figures, key=lambda what: figures[what])
    verdict = "right" if figures[worst] <= LIMIT else "WRONG"
    return name, verdict, f"{worst} {figures[worst]:.1e}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Check every causal architecture of transformers.")
    parser.add_argument("--only", nargs="*", default=[], help="architectures (model_type); default: all")
    parser.add_argument("--markdown", action="store_true", help="print a table for the documentation")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    from transformers import AutoTokenizer
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    from transformers.utils import logging

    from igsearch_env.world.bundled import POLICY_FOLDER

    logging.set_verbosity_error()
    tokenizer = AutoTokenizer.from_pretrained(POLICY_FOLDER)
    kinds = args.only or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    cases = [(kind, rope) for kind in kinds for rope in (None, *SCALED.get(kind, ()))]
    results = []
    for kind, rope in cases:
        results.append(check(kind, rope, tokenizer))
        if not args.markdown:
            print(f"{results[-1][0]:32} {results[-1][1]:10} {results[-1][2]}", flush=True)
        gc.collect()
    counts = {verdict: sum(found == verdict for _, found, _ in results) for verdict in ("right", "refused", "WRONG")}
    if args.markdown:
        print("| architecture | verdict | largest difference, or reason |\n|---|---|---|")
        for name, verdict, figure in results:
            print(f"| {Path(name).name} | {verdict} | {figure} |")
    print(counts, file=sys.stderr)
    sys.exit(1 if counts["WRONG"] else 0)


if __name__ == "__main__":
    main()
