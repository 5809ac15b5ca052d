"""Weights & Biases and trackio: experiment trackers that receive the metrics in addition to the run folder.

The run folder stores an id (RUN_DIR/tracker_id), so that a resumed run continues its run in the tracker; without the
id, as after `--overwrite`, a new run is created. Neither tracker can delete records: steps that were repeated after a
crash appear twice, at the same step and, if the run is exactly reproducible, with the same values except times.
"""

from __future__ import annotations

import importlib
import os
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from algorithms.common.base.files import atomic_write
from igsearch_env.errors import ConfigurationError
from retrievers.credentials import mask
from retrievers.service.deadline import within

OPEN_SECONDS, WRITE_SECONDS = 180, 60  # limits of opening a tracker and of logging one record
FINISH_SECONDS = 300  # limit of wandb's upload at the end; by default it waits for the network without limit
CLOSE_SECONDS = FINISH_SECONDS + 60


class Tracker:
    """A tracker with an open run. It never stops training: after its first failure it warns and is not used again.

    A call that takes too long is a failure. All calls share a context, in which trackio keeps its run.
    """

    name: str

    def __init__(self) -> None:
        self.lost = False
        self.context = Context()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Log one record; a step may have several records."""
        self._attempt("write", WRITE_SECONDS, lambda: self._write(step, values))

    def close(self, failed: bool) -> None:
        """Upload remaining data and mark the tracker's run as failed or finished."""
        self._attempt("close", CLOSE_SECONDS, lambda: self._close(failed))

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        raise NotImplementedError

    def _close(self, failed: bool) -> None:
        raise NotImplementedError

    def _attempt(self, what: str, seconds: float, action: Callable[[], None]) -> None:
        if self.lost:
            return
        try:
            within(seconds, partial(self.context.run, action))
        except Exception as error:  # trackers raise arbitrary errors
            self.lost = True
            print(
                f"warning: {self.name} failed to {what} ({type(error).__name__}: {mask(str(error))}): it is disabled "
                "from now on; metrics.jsonl and TensorBoard are complete",
                file=sys.stderr,
            )


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker receives about a run."""

    project: str
    dir: Path
    config: dict[str, Any]
    name: str
    id: str


class WandbTracker(Tracker):
    """Weights & Biases, logged in or offline (WANDB_MODE=offline); its files are in RUN_DIR/wandb.

    The step is logged as a metric and is the x-axis of all others. wandb's own step must not decrease: it would drop
    the steps that a resumed run repeats.
    """

    name = "wandb"

    def __init__(self, wandb: Any, run: TrackedRun) -> None:
        super().__init__()
        os.environ.setdefault("WANDB_FINISH_TIMEOUT", str(FINISH_SECONDS))  # ignored by older versions
        self.run = wandb.init(
            project=run.project, name=run.name, dir=str(run.dir), config=run.config, id=run.id, resume="allow"
        )
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log({"step": step, **values})

    def _close(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


class TrackioTracker(Tracker):
    """trackio: on this machine, or where its environment variables point.

    It resumes runs by name, so the name ends with the id.
    """

    name = "trackio"

    def __init__(self, trackio: Any, run: TrackedRun) -> None:
        super().__init__()
        self.trackio = trackio
        trackio.init(project=run.project, name=f"{run.name}-{run.id}", config=run.config, resume="allow")

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        self.trackio.log(dict(values), step=step)

    def _close(self, failed: bool) -> None:
        self.trackio.finish()  # it has no failed runs


# Each tracker with what to do if it can't be opened.
SERVICES: dict[str, tuple[Callable[[Any, TrackedRun], Tracker], str]] = {
    "wandb": (WandbTracker, "run `wandb login`, or set WANDB_MODE=offline and upload later with `wandb sync`"),
    "trackio": (TrackioTracker, "check its TRACKIO_ environment variables"),
}


def open_trackers(
    names: Sequence[str], *, project: str, run_dir: Path, config: dict[str, Any], run_name: str
) -> list[Tracker]:
    """Open the trackers of these names ("wandb", "trackio"), each with a run; they show `config` as its settings.

    Raises `ConfigurationError` if a library is missing or a tracker can't be opened, so that a run which should be
    tracked stops before its first step.
    """
    modules = {name: _module(name) for name in names}  # import all of them before any run is opened
    trackers: list[Tracker] = []
    for name, module in modules.items():
        tracker, repair = SERVICES[name]
        context = copy_context()
        try:
            run = TrackedRun(project, run_dir, config, run_name, _run_id(run_dir))
            opened = within(OPEN_SECONDS, partial(context.run, tracker, module, run))
            opened.context = context
            trackers.append(opened)
        except Exception as error:
            for other in trackers:
                other.close(failed=True)
            raise ConfigurationError(
                f"report_to: {name} can't be opened ({type(error).__name__}: {error}); {repair}, or leave it out"
            ) from error
    return trackers


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigurationError(
            f'report_to: {name} can\'t be imported ({error}); pip install "igsearch[{name}]", or leave it out'
        ) from error


def _run_id(run_dir: Path) -> str:
    """The id of the run in this folder, created on first use."""
    path = run_dir / "tracker_id"
    if not path.is_file():
        with atomic_write(path) as partial:
            partial.write_text(uuid.uuid4().hex[:12] + "\n", encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()
