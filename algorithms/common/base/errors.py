"""Errors that several parts of training raise."""

from __future__ import annotations

from igsearch_env.errors import IGSearchError


class TrainingError(IGSearchError, RuntimeError):
    """Training cannot continue; the message gives the reason. The last checkpoint and the metrics stay readable."""

    exit_status = 1


class CheckpointError(IGSearchError, ValueError):
    """The folder of a run or a checkpoint can't be used; the message gives the reason and what to do."""


class CheckpointWriteError(CheckpointError):
    """A checkpoint could not be written, for example because the disk is full."""

    exit_status = 1
