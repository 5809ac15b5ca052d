"""Errors that several parts of training raise."""

from __future__ import annotations

from igsearch_env.errors import IGSearchError


class TrainingError(IGSearchError, RuntimeError):
    """Training cannot continue; the message gives the reason. The last checkpoint and the metrics stay readable."""
