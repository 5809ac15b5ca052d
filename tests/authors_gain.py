"""Information gain as the released code of IG-Search computes it, after `../shared/reference/ig_search.md`, 1.4.

Re-implemented for the tests: a text is read by its tags, each branch is one text, each text one pass of the model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch

MARK = "<|im_start|>assistant\n"


@dataclass(frozen=True)
class Step:
    """A block of documents, its refinement, and where the documents end in the text."""

    documents: str
    refine: str
    end: int


def start_of(text: str) -> int:
    """Where the assistant begins; 0 without a mark of the chat template."""
    return text.index(MARK) + len(MARK) if MARK in text else 0


def steps_of(text: str) -> list[Step]:
    """Each block of documents with the first refinement before the next block."""
    blocks = [m for m in re.finditer(r"<documents>.*?</documents>", text, re.S) if m.start() >= start_of(text)]
    steps = []
    for block, following in zip(blocks, [*(b.start() for b in blocks[1:]), len(text)], strict=True):
        begun = re.compile("<refine>").search(text, block.end(), following)
        steps.append(Step(block[0], refinement(text, begun.end()) if begun else "", block.end()))
    return steps


def refinement(text: str, start: int) -> str:
    """The refinement whose content begins at `start`, closed where it is not."""
    rest = text[start:]
    ends = [m.end() for m in [re.search("</refine>", rest)] if m]
    ends += [m.start() for tag in ("search", "answer") if (m := re.search(rf"\n\s*<{tag}>", rest))]
    content = rest[: min(ends, default=len(rest))]
    return f"<refine>{content}" if content.rstrip().endswith("</refine>") else f"<refine>{content.strip()}</refine>"


def has_gain(step: Step) -> bool:
    """Whether there are at least ten characters of documents."""
    return len(step.documents.removeprefix("<documents>").removesuffix("</documents>").strip()) >= 10


def before_evidence(text: str, number: int) -> str:
    """The context up to the query of step `number`: the opening, then the blocks of the earlier steps."""
    start = start_of(text)
    queries = re.findall(r"<search>.*?</search>", text[start:], re.S)
    parts = [text[: start + text[start:].index("<search>")].rstrip()]
    for place, step in enumerate(steps_of(text)[: number + 1]):
        parts.append(queries[place] if place < len(queries) else "<search>query</search>")
        if place < number:
            parts += [step.documents, *([step.refine] if step.refine else [])]
    return "\n".join(parts)


def score(model: Any, tokenizer: Any, context: str, gold: str, longest: int, head_weight: float) -> float:
    """Weighted mean log-prob of the answer after one context, in nats."""
    context_ids = tokenizer.encode(context + "\n<answer> ", add_special_tokens=False)[-longest:]
    gold_ids = tokenizer.encode(gold, add_special_tokens=False)
    with torch.no_grad():
        logits = model(torch.tensor([context_ids + gold_ids], device=model.device)).logits[0].float()
    logprobs = torch.log_softmax(logits[len(context_ids) - 1 : -1], dim=-1).cpu()
    found = logprobs[range(len(gold_ids)), gold_ids].double()
    weights = torch.ones(len(gold_ids), dtype=torch.double)
    weights[:3] = head_weight
    return float((found * weights / weights.mean()).sum() / len(gold_ids))
