"""`PolicyScorer` of a model by name: what `scorer="OWNER/NAME"` of an environment opens (`named_scorers.py` there)."""

from __future__ import annotations

from algorithms.common.model.config import PolicyConfig
from algorithms.common.model.policy import Policy
from algorithms.common.rollout.answer_scorer import PolicyScorer
from igsearch_env.errors import ConfigurationError


def open_model_scorer(name: str) -> PolicyScorer:
    """A scorer with the model of this name, in float32, on a GPU if there is one.

    For other precisions and devices, or one model for several environments, make a `PolicyScorer` and pass that.
    Raises `ConfigurationError` if the model can't be loaded.
    """
    try:
        return PolicyScorer(Policy.load(PolicyConfig(path=name)))
    except ConfigurationError as error:
        raise ConfigurationError(f"scorer={name!r}: {error}") from error
