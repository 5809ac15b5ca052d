"""Experiment trackers that receive the metrics in addition to the run folder: those of accelerate, by its names.

The run folder stores an id (RUN_DIR/tracker_id), so that a resumed run continues its run in the tracker; without the
id, as after `--overwrite`, a new run is created. No tracker can delete records: steps that were repeated after a crash
appear twice, at the same step and, if the run is exactly reproducible, with the same values except times.
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
from algorithms.common.base.flat import flat
from igsearch_env.errors import ConfigurationError
from retrievers.credentials import mask
from retrievers.service.deadline import within

OPEN_SECONDS, WRITE_SECONDS = 180, 60  # limits of opening a tracker and of logging one record
FINISH_SECONDS = 300  # limit of wandb's upload at the end; by default it waits for the network without limit
CLOSE_SECONDS = FINISH_SECONDS + 60
RUN_ID, MLFLOW_ID = "tracker_id", "tracker_id_mlflow"  # files in the run folder


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


@dataclass(frozen=True)
class Service:
    """A tracker of accelerate: the arguments of the function that opens a run, and what to do if it can't."""

    module: str
    options: Callable[[TrackedRun], dict[str, Any]]
    repair: str


LOGIN = "log in to it, or set its environment variables for use without a network"
SERVICES: dict[str, Service] = {
    "wandb": Service(
        "wandb",
        lambda run: {"name": run.name, "dir": str(run.dir), "config": run.config, "id": run.id, "resume": "allow"},
        "run `wandb login`, or set WANDB_MODE=offline and upload later with `wandb sync`",
    ),
    # It resumes runs by name, so the name ends with the id.
    "trackio": Service(
        "trackio",
        lambda run: {"name": f"{run.name}-{run.id}", "config": run.config, "resume": "allow"},
        "check its TRACKIO_ environment variables",
    ),
    # It chooses the ids of its runs itself.
    "mlflow": Service(
        "mlflow",
        lambda run: {"run_name": run.name, "run_id": _saved(run.dir / MLFLOW_ID)},
        "check MLFLOW_TRACKING_URI; without it, runs are stored in this folder",
    ),
    "swanlab": Service(
        "swanlab",
        lambda run: {
            **{"experiment_name": run.name, "logdir": str(run.dir / "swanlog"), "config": run.config},
            **{"id": f"{run.id}{run.id}"[:21], "resume": "allow"},  # its ids have 21 characters
        },
        LOGIN,
    ),
    "comet_ml": Service(
        "comet_ml",
        lambda run: {"experiment_key": run.id * 3, "mode": "get_or_create"},  # keys have at least 32 characters
        LOGIN,
    ),
}


class AccelerateTracker(Tracker):
    """A tracker of accelerate (`accelerate.tracking`), by its name there.

    wandb's own step must not decrease: it would drop the steps that a resumed run repeats. There, the step is logged as
    a metric and is the x-axis of all others. MLflow's run is open in one thread only, so it is named in every call.
    """

    def __init__(self, name: str, run: TrackedRun) -> None:
        super().__init__()
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState(cpu=True)  # which its trackers need; that of several processes stays
        self.name = name
        if name == "wandb":
            os.environ.setdefault("WANDB_FINISH_TIMEOUT", str(FINISH_SECONDS))  # ignored by older versions
        options = SERVICES[name].options(run)
        self.tracker: Any = LOGGER_TYPE_TO_CLASS[name](run.project, **options)
        self.tracker.start()
        self.extra: dict[str, Any] = {}
        if name == "wandb":
            self.tracker.tracker.define_metric("step")
            self.tracker.tracker.define_metric("*", step_metric="step")
        if name == "mlflow":
            self.extra["run_id"] = self.tracker.tracker.info.run_id
            _save(run.dir / MLFLOW_ID, self.extra["run_id"])
        if "config" not in options and not options.get("run_id"):  # the settings of a run of MLflow can't be changed
            self.tracker.store_init_configuration(flat(run.config))

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        if self.name == "wandb":
            self.tracker.log({"step": step, **values})
        else:
            self.tracker.log(dict(values), step=step, **self.extra)

    def _close(self, failed: bool) -> None:
        if self.name == "wandb":
            self.tracker.tracker.finish(exit_code=int(failed))
        elif self.name == "mlflow":
            from mlflow import MlflowClient

            MlflowClient().set_terminated(self.extra["run_id"], "FAILED" if failed else "FINISHED")
        else:
            self.tracker.finish()


def open_trackers(
    names: Sequence[str], *, project: str, run_dir: Path, config: dict[str, Any], run_name: str
) -> list[Tracker]:
    """Open the trackers of these names, keys of `SERVICES`, each with a run; they show `config` as its settings.

    Raises `ConfigurationError` if a library is missing or a tracker can't be opened, so that a run which should be
    tracked stops before its first step.
    """
    for name in names:  # before any run is opened
        _check_installed(name)
    trackers: list[Tracker] = []
    for name in names:
        context = copy_context()
        try:
            run = TrackedRun(project, run_dir, config, run_name, _run_id(run_dir))
            opened = within(OPEN_SECONDS, partial(context.run, AccelerateTracker, name, run))
            opened.context = context
            trackers.append(opened)
        except Exception as error:
            for other in trackers:
                other.close(failed=True)
            raise ConfigurationError(
                f"report_to: {name} can't be opened ({type(error).__name__}: {error}); {SERVICES[name].repair}, "
                "or leave it out"
            ) from error
    return trackers


def _check_installed(name: str) -> None:
    try:
        importlib.import_module(SERVICES[name].module)
    except ImportError as error:
        raise ConfigurationError(
            f'report_to: {name} can\'t be imported ({error}); pip install "igsearch[{name}]", or leave it out'
        ) from error


def _run_id(run_dir: Path) -> str:
    """The id of the run in this folder, created on first use."""
    known = _saved(run_dir / RUN_ID)
    if known is None:
        known = uuid.uuid4().hex[:12]
        _save(run_dir / RUN_ID, known)
    return known


def _saved(path: Path) -> str | None:
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


def _save(path: Path, name: str) -> None:
    with atomic_write(path) as partial:
        partial.write_text(f"{name}\n", encoding="utf-8")
