"""The memory of the built-in decoder, before it is there."""

from __future__ import annotations

from collections.abc import Iterator

from algorithms.common.base.memory_line import MemoryLine
from algorithms.common.rollout.config import EngineSettings
from algorithms.common.rollout.engines.base import GenerationSizes
from algorithms.common.rollout.kv_space import KVSpace, limited_rows

# Bytes per logit of one slot while a token is sampled: float32 rows, stacked, as log-probs and as probabilities.
DRAWING = 4 + 4 + 4 + 4


def decoder_memory(settings: EngineSettings, sizes: GenerationSizes) -> Iterator[MemoryLine]:
    """The memory of the built-in decoder, like `Engine.memory` of the engines: if all episodes are the longest."""
    rows = limited_rows(settings.kv_cache_tokens, sizes.context)
    space = KVSpace(rows, sizes.context, aligned=not sizes.by_length)
    episodes = range(sizes.episodes)
    fits = all(space.grow(episode, tokens) for tokens in sizes.turns for episode in episodes)
    detail = f"{sizes.episodes} episodes of up to {sizes.turns[-1]:,} tokens"
    if not fits:
        detail += f", as far as {rows:,} rows hold them"
    yield MemoryLine("keys and values", (space.high if fits else rows) * sizes.token_bytes, detail, "rollout")
    yield MemoryLine("logits", DRAWING * sizes.episodes * sizes.vocabulary, f"of {sizes.episodes} episodes", "rollout")
