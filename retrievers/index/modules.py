"""What differs between the shapes of sentence-transformers models: a transformer, static embeddings, bags of words,
CLIP, or a router that encodes queries and passages by different modules.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil

# The route of passages is called by the first of these that a router has.
PASSAGE_TASKS = ("document", "passage", "corpus", "doc", "context")
QUERY_TASKS = ("query", "question")
NO_LIMIT = 1_000_000  # tokens; tokenizers and word embeddings write numbers from here on where there is no limit


def sequences(model: Any) -> list[list[Any]]:
    """The modules that a text passes through: one list, or one for each route of a router."""
    ways: list[list[Any]] = [[]]
    for module in model:
        routes = getattr(module, "sub_modules", None)
        ways = [[*way, *route] for way in ways for route in (routes.values() if routes is not None else [[module]])]
    return ways


def tasks(model: Any) -> tuple[str, str]:
    """The task of queries and of passages, which a router chooses a route by."""
    routes: set[str] = set()
    for module in model:
        routes |= set(getattr(module, "sub_modules", None) or ())
        routes |= {task for task, _ in getattr(module, "route_mappings", None) or () if task}
    query, passage = (next((t for t in names if t in routes), names[0]) for names in (QUERY_TASKS, PASSAGE_TASKS))
    return query, passage


def length_limit(model: Any) -> int | None:
    """The most tokens that a text may have, the most of all routes; None if there is no limit."""
    limits = [limit for first in _inputs(model) if (limit := _limit(first)) is not None]
    return max(limits, default=None)


def limit_length(model: Any, limit: int) -> None:
    """Truncate texts at `limit` tokens, in routes that have a smaller limit at their own."""
    for first in _inputs(model):
        own = _limit(first)
        if own is not None:
            first.max_seq_length = min(own, limit)


def _inputs(model: Any) -> Iterator[Any]:
    return (way[0] for way in sequences(model) if way)


def _limit(module: Any) -> int | None:
    limit = getattr(module, "max_seq_length", None)
    if limit is not None and 0 < limit < NO_LIMIT:
        return int(limit)
    # A tokenizer without a limit: the model itself has one, its number of positions.
    config = getattr(module, "config", None)
    if config is None:
        return None
    config = config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    # RoBERTa counts positions from the padding id on.
    return positions - int(config.pad_token_id or 0) - 1 if "roberta" in str(config.model_type) else positions


def fitting_batch(model: Any, max_length: int | None, dimension: int, *, cuda: bool) -> int:
    """Batch size whose activations take at most a quarter of the free memory; more than 1,024 is no faster."""
    from transformers import PreTrainedModel

    configs = [module.config.get_text_config() for module in model.modules() if isinstance(module, PreTrainedModel)]
    width = max((int(getattr(config, "hidden_size", dimension)) for config in configs), default=0)
    # Per token of a transformer, roughly: the widest layer (4 x hidden) and a few of the hidden size, in at most 4
    # bytes. Other models need little more than their vectors.
    per_text = (max_length or 512) * width * 12 * 4 + dimension * 16
    if not cuda:
        return int(np.clip(psutil.virtual_memory().available // 4 // per_text, 1, 64))  # fits into CPU caches
    import torch

    return int(np.clip(torch.cuda.mem_get_info()[0] // 4 // per_text, 1, 1024))


def description(model: Any) -> list[str]:
    """The kinds of modules on each way through the model, with those settings that the weights do not show."""
    return [", ".join(map(_described, way)) for way in sequences(model)]


def _described(module: Any) -> str:
    pooling = getattr(module, "pooling_mode", None)
    if pooling is None:
        return type(module).__name__
    modes = [pooling] if isinstance(pooling, str) else sorted(pooling)
    left_out = "" if getattr(module, "include_prompt", True) else " without prompt"
    return f"{type(module).__name__} {'+'.join(modes)}{left_out}"


def vocabulary(model: Any) -> bytes:
    """The words and weights of bags of words, which have no tensors; b"" for other models."""
    bags = [
        [module.vocab, module.weights]
        for way in sequences(model)
        for module in way
        if hasattr(module, "vocab") and hasattr(module, "weights")
    ]
    return json.dumps(bags).encode() if bags else b""
