"""Weights & Biases and trackio, played by modules with their signatures and their ways of dropping what is logged."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import pytest

from algorithms.common.config import TrainConfig
from algorithms.common.model.config import PolicyConfig
from algorithms.common.run import trackers
from algorithms.common.run.metrics_log import MetricsLog, read_metrics
from algorithms.common.run.run import Run
from algorithms.common.run.trackers import SERVICES, Tracker, open_trackers
from algorithms.grpo import GRPO, GRPOConfig
from igsearch_env.errors import ConfigurationError, literal_choices


class FakeWandb(ModuleType):
    """Keeps the runs of a server. As in wandb, the internal step continues where a resumed run stopped, and records
    below it are dropped."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.server: dict[str, list[dict[str, Any]]] = {}  # records by run id
        self.runs: list[FakeWandbRun] = []

    def init(
        self,
        entity: str | None = None,
        project: str | None = None,
        dir: str | None = None,
        id: str | None = None,
        name: str | None = None,
        config: dict[str, Any] | None = None,
        resume: str | None = None,
    ) -> FakeWandbRun:
        assert id is not None
        assert resume == "allow" or id not in self.server
        assert dir is not None
        assert Path(dir).is_dir()
        run = FakeWandbRun(self.server.setdefault(id, []), {"project": project, "name": name, "config": config})
        self.runs.append(run)
        return run


class FakeWandbRun:
    """An open run."""

    def __init__(self, records: list[dict[str, Any]], options: dict[str, Any]) -> None:
        self.records, self.options = records, options
        self.step = len(records)
        self.axes: dict[str, str | None] = {}
        self.exit_code: int | None = None
        self.broken = False

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.axes[name] = step_metric

    def log(self, data: dict[str, Any], step: int | None = None, commit: bool | None = None) -> None:
        if self.broken:
            raise ConnectionResetError("Connection lost")
        if step is not None and step < self.step:
            return
        self.step = self.step + 1 if step is None else step
        self.records.append(data)

    def finish(self, exit_code: int | None = None) -> None:
        if self.broken:
            raise TimeoutError("Timed out finishing run.")
        self.exit_code = exit_code


class FakeTrackio(ModuleType):
    """Keeps runs by name; a name that is not resumed begins another run."""

    RESERVED = ("project", "run", "timestamp", "step", "time", "metrics")

    def __init__(self) -> None:
        super().__init__("trackio")
        self.runs: dict[tuple[str, int], list[tuple[int | None, dict[str, Any]]]] = {}
        self.configs: list[dict[str, Any] | None] = []
        self.current: list[tuple[int | None, dict[str, Any]]] | None = None

    def init(
        self,
        project: str,
        name: str | None = None,
        group: str | None = None,
        space_id: str | None = None,
        config: dict[str, Any] | None = None,
        resume: str = "never",
    ) -> FakeTrackio:
        assert name is not None
        assert self.current is None
        number = sum(known == name for known, _ in self.runs)
        if resume == "allow" and number:
            number -= 1
        self.current = self.runs.setdefault((name, number), [])
        self.configs.append(config)
        return self

    def log(self, metrics: dict[str, Any], step: int | None = None) -> None:
        if self.current is None:
            raise RuntimeError("Call trackio.init() before trackio.log().")
        assert not any(name in self.RESERVED for name in metrics)
        self.current.append((step, metrics))

    def finish(self) -> None:
        if self.current is None:
            raise RuntimeError("Call trackio.init() before trackio.finish().")
        self.current = None


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    """A wandb to import."""
    module = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr(os, "environ", dict(os.environ))  # opening sets a variable of wandb's
    return module


@pytest.fixture
def trackio(monkeypatch: pytest.MonkeyPatch) -> FakeTrackio:
    """A trackio to import."""
    module = FakeTrackio()
    monkeypatch.setitem(sys.modules, "trackio", module)
    return module


def opened(run_dir: Path, *names: str, config: dict[str, Any] | None = None) -> list[Tracker]:
    """Trackers of the run in a folder."""
    return open_trackers(names, project="search", run_dir=run_dir, config=config or {}, run_name="grpo-seed0")


def logged(trackers: Sequence[Tracker], steps: Sequence[int]) -> None:
    """Log a training record and an evaluation at each step."""
    for step in steps:
        for tracker in trackers:
            tracker.write(step, {"reward": step / 10})
            tracker.write(step, {"test/em": step / 20})


def both(steps: Sequence[int]) -> list[tuple[int, dict[str, float]]]:
    """What `logged` should have left."""
    return [(step, values) for step in steps for values in ({"reward": step / 10}, {"test/em": step / 20})]


def test_every_tracker_of_the_configuration_can_be_opened() -> None:
    assert tuple(SERVICES) == literal_choices(get_type_hints(TrainConfig)["report_to"])


def test_a_service_is_told_of_the_project_the_run_and_its_settings(
    tmp_path: Path, wandb: FakeWandb, trackio: FakeTrackio
) -> None:
    config = {"steps": 4, "env": {"top_k": 3}}
    first, second = opened(tmp_path, "wandb", "trackio", config=config)
    assert (first.name, second.name) == ("wandb", "trackio")
    assert wandb.runs[0].options == {"project": "search", "name": "grpo-seed0", "config": config}
    ((name, _),) = trackio.runs
    assert name.startswith("grpo-seed0-")
    assert trackio.configs == [config]


def test_a_run_that_crashed_goes_on_in_the_same_run_and_loses_no_record(
    tmp_path: Path, wandb: FakeWandb, trackio: FakeTrackio
) -> None:
    logged(opened(tmp_path, "wandb", "trackio"), [0, 1, 2, 3])  # steps 2 and 3 come again: the checkpoint was of step 1
    trackio.current = None  # the process died
    logged(opened(tmp_path, "wandb", "trackio"), [2, 3, 4])
    expected = both([0, 1, 2, 3, 2, 3, 4])
    (records,) = wandb.server.values()
    assert [(record.pop("step"), record) for record in records] == expected
    assert all(run.axes == {"step": None, "*": "step"} for run in wandb.runs)
    (entries,) = trackio.runs.values()
    assert entries == expected


def test_two_folders_are_two_runs(tmp_path: Path, wandb: FakeWandb, trackio: FakeTrackio) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        trackers = opened(tmp_path / name, "wandb", "trackio")
        logged(trackers, [0])
        for tracker in trackers:
            tracker.close(failed=False)
    assert len(wandb.server) == len(trackio.runs) == 2


@pytest.mark.parametrize("failed", [False, True])
def test_the_end_of_a_run_says_whether_it_failed(
    tmp_path: Path, wandb: FakeWandb, trackio: FakeTrackio, failed: bool
) -> None:
    for tracker in opened(tmp_path, "wandb", "trackio"):
        tracker.close(failed)
    assert wandb.runs[0].exit_code == int(failed)
    assert trackio.current is None


def test_a_tracker_that_fails_is_reported_once_and_the_others_go_on(
    tmp_path: Path, wandb: FakeWandb, trackio: FakeTrackio, capsys: pytest.CaptureFixture[str]
) -> None:
    trackers = opened(tmp_path, "wandb", "trackio")
    logged(trackers, [0])
    wandb.runs[0].broken = True
    logged(trackers, [1, 2])
    for tracker in trackers:
        tracker.close(failed=False)
    (line,) = capsys.readouterr().err.splitlines()
    assert "wandb" in line
    assert "Connection lost" in line
    (entries,) = trackio.runs.values()
    assert entries == both([0, 1, 2])


def test_a_tracker_that_can_not_close_does_not_spoil_the_end(
    tmp_path: Path, wandb: FakeWandb, capsys: pytest.CaptureFixture[str]
) -> None:
    (tracker,) = opened(tmp_path, "wandb")
    wandb.runs[0].broken = True
    tracker.close(failed=False)
    assert "Timed out finishing run." in capsys.readouterr().err


def test_a_tracker_that_hangs_is_given_up(
    tmp_path: Path, wandb: FakeWandb, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    held = threading.Event()
    try:
        (tracker,) = opened(tmp_path, "wandb")
        monkeypatch.setattr(trackers, "WRITE_SECONDS", 0.1)
        monkeypatch.setattr(FakeWandbRun, "log", lambda self, data, step=None: held.wait())
        tracker.write(0, {"reward": 0.0})
        assert "wandb failed to write (OverdueError: not complete within 0.1 s)" in capsys.readouterr().err
        monkeypatch.setattr(trackers, "OPEN_SECONDS", 0.1)
        monkeypatch.setattr(wandb, "init", lambda **options: held.wait())
        with pytest.raises(ConfigurationError, match=r"wandb can't be opened \(OverdueError: not complete"):
            opened(tmp_path, "wandb")
    finally:
        held.set()


def test_an_interruption_is_no_failure_of_the_tracker(
    tmp_path: Path, wandb: FakeWandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tracker,) = opened(tmp_path, "wandb")

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeWandbRun, "log", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tracker.write(0, {"reward": 0.0})


@pytest.mark.parametrize("name", SERVICES)
def test_a_missing_library_is_named_with_its_extra(
    tmp_path: Path, wandb: FakeWandb, trackio: FakeTrackio, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in SERVICES:
        monkeypatch.setitem(sys.modules, other, None if other == name else sys.modules.get(other) or ModuleType(other))
    with pytest.raises(ConfigurationError, match=rf'{name}.*pip install "igsearch\[{name}\]"'):
        opened(tmp_path, *SERVICES)
    assert not wandb.runs  # nothing was begun
    assert not trackio.runs


def test_a_service_that_can_not_be_opened_stops_the_run_before_it_begins(
    tmp_path: Path, wandb: FakeWandb, trackio: FakeTrackio, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(self: FakeWandb, **_: Any) -> None:
        raise RuntimeError("No API key configured")

    monkeypatch.setattr(FakeWandb, "init", refuses)
    with pytest.raises(ConfigurationError, match=r"No API key configured.*wandb login.*WANDB_MODE=offline"):
        opened(tmp_path, "trackio", "wandb")
    assert trackio.current is None  # the one that was open already is closed


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_run_opens_its_trackers_and_its_log_when_it_is_entered(
    tmp_path: Path, wandb: FakeWandb, trackio: FakeTrackio, name: str
) -> None:
    config = GRPOConfig(run_dir=tmp_path / "run", policy=PolicyConfig(device="cpu"), report_to=(name,))
    run = Run(GRPO(config), config)
    assert not wandb.runs
    assert not trackio.runs
    assert run.log is None
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"config.yaml", "run.lock", "owner.json"}
    with run:
        assert len(wandb.runs) + len(trackio.runs) == 1
        assert [tracker.name for tracker in run.log.trackers] == [name]
    assert trackio.current is None
    assert [opened.exit_code for opened in wandb.runs] == [0] * len(wandb.runs)


def test_no_tracker_leaves_no_trace(tmp_path: Path) -> None:
    assert opened(tmp_path) == []
    assert not any(tmp_path.iterdir())


def test_wandb_does_not_wait_for_the_network_for_ever_unless_the_user_says_so(tmp_path: Path, wandb: FakeWandb) -> None:
    opened(tmp_path, "wandb")
    assert float(os.environ["WANDB_FINISH_TIMEOUT"]) > 0
    os.environ["WANDB_FINISH_TIMEOUT"] = "7"
    opened(tmp_path, "wandb")
    assert os.environ["WANDB_FINISH_TIMEOUT"] == "7"


class Recorder(Tracker):
    """Keeps what it is given; fails from its `breaks`-th record on."""

    name = "recorder"

    def __init__(self, breaks: int | None = None) -> None:
        super().__init__()
        self.breaks = breaks
        self.records: list[tuple[int, dict[str, float]]] = []
        self.ended: bool | None = None

    def _write(self, step: int, values: Any) -> None:
        if len(self.records) == self.breaks:
            raise OSError("network gone")
        self.records.append((step, dict(values)))

    def _close(self, failed: bool) -> None:
        self.ended = failed


def test_the_metrics_log_sends_its_numbers_to_every_tracker(tmp_path: Path) -> None:
    trackers = [Recorder(), Recorder()]
    log = MetricsLog(tmp_path, 0, trackers)
    log.write(0, {"test/em": 0.1})
    log.write(1, {"reward": 0.5, "note": "text"})
    log.close(failed=True)
    for tracker in trackers:
        assert tracker.records == [(0, {"test/em": 0.1}), (1, {"reward": 0.5})]
        assert tracker.ended is True
    assert read_metrics(tmp_path / "metrics.jsonl")[1] == {"step": 1, "reward": 0.5, "note": "text"}


def test_a_lost_tracker_costs_the_run_folder_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tracker = Recorder(breaks=1)
    log = MetricsLog(tmp_path, 0, [tracker])
    for step in range(4):
        log.write(step, {"reward": float(step)})
    log.close()
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [0, 1, 2, 3]
    assert tracker.records == [(0, {"reward": 0.0})]
    assert tracker.ended is None
    assert capsys.readouterr().err.count("network gone") == 1


def test_a_log_without_trackers_is_as_before(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, 0)
    log.write(0, {"reward": 0.0})
    log.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 0, "reward": 0.0}]


@pytest.mark.parametrize("name", ["trackio", "mlflow", "swanlab"])
def test_the_library_itself_takes_the_records_of_a_run_that_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    pytest.importorskip(name, reason=f"{name} is not installed: pip install igsearch[{name}]")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("SWANLAB_MODE", "offline")
    for steps in ([0, 1], [1, 2]):
        trackers = opened(tmp_path, name, config={"steps": 3, "env": {"top_k": 3}})
        logged(trackers, steps)
        for tracker in trackers:
            tracker.close(failed=False)
        assert not any(tracker.lost for tracker in trackers)
    assert "warning:" not in capsys.readouterr().err
    if name == "mlflow":
        client = pytest.importorskip("mlflow").MlflowClient()
        (run,) = client.search_runs([found.experiment_id for found in client.search_experiments()])
        assert run.info.status == "FINISHED"
        assert run.data.params == {"steps": "3", "env.top_k": "3"}
        assert [row.step for row in client.get_metric_history(run.info.run_id, "reward")] == [0, 1, 1, 2]
