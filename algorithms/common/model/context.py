"""How long a model's sequences may be."""

from __future__ import annotations

import sys
from typing import Any

from igsearch_env.errors import ConfigurationError


def usable_context(config: Any, wanted: int | None) -> int:
    """The maximum sequence length: `wanted`, tokens, or the longest that the model supports.

    Rotary embeddings of type longrope and dynamic choose their frequencies by the longest sequence of a pass, so that
    beyond their original context length a sequence's log-probs would depend on what is beside it, and keys that are
    already stored would be of other frequencies. Such models are used within that length.

    Args:
        config: of transformers, of a whole model.

    Raises:
        ConfigurationError: `wanted` is longer than such an original context length.
    """
    text = config.get_text_config()
    longest, fixed = _limit(text), longest_context(config)
    if wanted is not None and fixed < min(wanted, longest):
        raise ConfigurationError(
            f"policy.context_length={wanted}: this model's rotary embeddings ({_scaling(text)}) change with the length "
            f"of the longest sequence beyond {fixed} tokens, which would make log-probs depend on other sequences; set "
            f"it to at most {fixed}"
        )
    if wanted is None and fixed < longest:
        print(
            f"policy: sequences of at most {fixed:,} tokens, of the {longest:,} that the model supports: beyond that "
            f"its rotary embeddings ({_scaling(text)}) depend on the longest sequence of a batch",
            file=sys.stderr,
        )
    return min(wanted or fixed, fixed)


def longest_context(config: Any) -> int:
    """The longest sequence that the model supports with the same frequencies of its rotary embeddings for any batch."""
    text = config.get_text_config()
    original = getattr(text, "original_max_position_embeddings", None) or _limit(text)
    return min([_limit(text), *(int(p.get("original_max_position_embeddings") or original) for p in _variable(text))])


def _limit(text: Any) -> int:
    """Positions that the configuration allows; models that name none (Bloom, MPT) are limited by memory alone."""
    named = int(getattr(text, "max_position_embeddings", None) or 0)
    return named if named > 0 else 1_000_000


def _variable(text: Any) -> list[dict[str, Any]]:
    """Parameters of the rotary embeddings, by layer type where they differ, whose frequencies depend on the length."""
    parameters = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}  # the latter: 4.x
    kinds = [parameters] if "rope_type" in parameters else [p for p in parameters.values() if isinstance(p, dict)]
    return [p for p in kinds if p.get("rope_type") == "longrope" or "dynamic" in str(p.get("rope_type"))]


def _scaling(text: Any) -> str:
    return ", ".join(sorted({str(parameters["rope_type"]) for parameters in _variable(text)}))
