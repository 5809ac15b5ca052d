"""Where a run keeps its files, and what a command would resume; without torch, which takes seconds to import."""

from __future__ import annotations

import re
from pathlib import Path

from algorithms.common.config import TrainConfig

STATE = "state.json"  # of a checkpoint; written last
PAGES = ("report.html", "trajectories.html")


def run_folder(algorithm: str, config: TrainConfig) -> Path:
    """The folder of a run: `run_dir`, or one named after algorithm and seed."""
    return config.run_dir or Path("runs") / f"{algorithm}-seed{config.seed}"


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first; they may have been damaged since (`latest_intact`)."""
    return [path for path in step_folders(folder) if (path / STATE).is_file()]


def step_folders(folder: Path) -> list[Path]:
    """Folders that are named as checkpoints are, oldest first."""
    return sorted(path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{6,}", path.name) and path.is_dir())


def saved_step(run_dir: Path) -> int:
    """The step of the last checkpoint of a run; 0 if there is none."""
    saved = checkpoints(run_dir / "checkpoints")
    return int(saved[-1].name.removeprefix("step-")) if saved else 0


def resumption(run_dir: Path, *, overwrite: bool = False) -> str:
    """What the command that was stopped does when it is given again, and the pages of the run that can be read.

    `overwrite`: the command deletes what is there.
    """
    step = saved_step(run_dir)
    command = "the same command without --overwrite" if overwrite else "the same command"
    said = f"{command} resumes after step {step}" if step else "no step is saved, the same command starts again"
    pages = [str(run_dir / name) for name in PAGES if (run_dir / name).is_file()]
    return f"{said}; see {' and '.join(pages)}" if pages else said
