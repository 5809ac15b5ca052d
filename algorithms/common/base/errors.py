"""Errors of training that no other file is the natural home of."""

from __future__ import annotations

from igsearch_env.errors import IGSearchError


class TrainingError(IGSearchError, RuntimeError):
    """Training can't go on; the message says why. The last checkpoint and the metrics stay readable."""
