"""Weights & Biases and trackio: services that metrics may go to besides the run folder.

The run folder keeps an id (RUN_DIR/tracker_id), so that a resumed run goes on where it was logged before; without it,
as after `--overwrite`, it is a new run there. Neither service takes records back: steps that a crash made a run
repeat are there twice, at the same step and, where the run repeats exactly, with the same values but for times.
"""

from __future__ import annotations

import importlib
import os
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from algorithms.common.base.files import atomic_write
from igsearch_env.errors import ConfigurationError

FINISH_SECONDS = 300  # that wandb may take to upload the rest at the end; by default it waits for the network for ever


class Tracker:
    """A service with an open run. It never stops training: at its first failure it says so, and is left alone then."""

    name: str

    def __init__(self) -> None:
        self.lost = False

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Log one record; a step may have several."""
        self._attempt("write", lambda: self._write(step, values))

    def close(self, failed: bool) -> None:
        """Upload what is left and end the run there, as failed or as finished."""
        self._attempt("close", lambda: self._close(failed))

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        raise NotImplementedError

    def _close(self, failed: bool) -> None:
        raise NotImplementedError

    def _attempt(self, what: str, action: Callable[[], None]) -> None:
        if self.lost:
            return
        try:
            action()
        except Exception as error:  # whatever a service raises
            self.lost = True
            print(
                f"warning: {self.name} failed to {what} ({type(error).__name__}: {error}): left out from here on; "
                "metrics.jsonl and TensorBoard have everything",
                file=sys.stderr,
            )


@dataclass(frozen=True)
class TrackedRun:
    """What a service is told of a run."""

    project: str
    dir: Path
    config: dict[str, Any]
    name: str
    id: str


class WandbTracker(Tracker):
    """Weights & Biases, logged in or offline (WANDB_MODE=offline); its files are in RUN_DIR/wandb.

    Steps are a metric of ours and the x-axis of all others. wandb's own step only ever grows, and it drops what is
    logged below it: the steps that a resumed run repeats.
    """

    name = "wandb"

    def __init__(self, wandb: Any, run: TrackedRun) -> None:
        super().__init__()
        os.environ.setdefault("WANDB_FINISH_TIMEOUT", str(FINISH_SECONDS))  # versions that don't know it ignore it
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
    """trackio: on this machine, or wherever its environment variables say.

    It resumes runs by name, so theirs ends with the id.
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


# Each with what to do when it can't be opened.
SERVICES: dict[str, tuple[Callable[[Any, TrackedRun], Tracker], str]] = {
    "wandb": (WandbTracker, "run `wandb login`, or set WANDB_MODE=offline and upload later with `wandb sync`"),
    "trackio": (TrackioTracker, "look at its TRACKIO_ environment variables"),
}


def open_trackers(
    names: Sequence[str], *, project: str, run_dir: Path, config: dict[str, Any], run_name: str
) -> list[Tracker]:
    """The trackers of these names ("wandb", "trackio"), each with an open run; `config` is what they show of it.

    Raises `ConfigurationError` if a library is missing or a service can't be opened: a run that was to be watched stops
    before its first step rather than go unwatched.
    """
    modules = {name: _module(name) for name in names}  # all, before any run is opened
    trackers: list[Tracker] = []
    for name, module in modules.items():
        tracker, repair = SERVICES[name]
        try:
            trackers.append(tracker(module, TrackedRun(project, run_dir, config, run_name, _run_id(run_dir))))
        except Exception as error:
            for opened in trackers:
                opened.close(failed=True)
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
    """The id of the run in this folder, written when it is first asked for."""
    path = run_dir / "tracker_id"
    if not path.is_file():
        with atomic_write(path) as partial:
            partial.write_text(uuid.uuid4().hex[:12] + "\n", encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()
