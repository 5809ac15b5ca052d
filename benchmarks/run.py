"""Measure the numbers in the README and docs/performance.md, and report missed targets: `make bench`, or

python benchmarks/run.py                                 all sections: 30+ minutes on two cores
python benchmarks/run.py --only step rollout             some sections
python benchmarks/run.py --output bench.json --plot docs/performance.png

Each comparison alternates between its sides and reports the median of the ratios. Sections: environment (compared with
skyrl-gym and gem-llm), concurrent_episodes, retrieval, service, information_gain, rollout, async_rollouts, update,
step, growth, estimators, trl (compared with TRL's GRPOTrainer), processes, killed, crowded, memory, training, pages.
Peers are installed in separate virtual environments under benchmarks/.peers; if that fails, they are skipped and the
reason is printed.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent.parent))  # the sections are modules of this folder's package

from algorithms.common.base.command_line import parse_options
from benchmarks import (
    async_rollouts,
    concurrent_episodes,
    crowded,
    environment,
    estimators,
    growth,
    information_gain,
    killed,
    memory,
    processes,
    retrieval,
    rollout,
    service,
    step_model,
    training,
    trajectory_page,
    trl_peer,
    update,
)
from benchmarks.measure import Line, print_section
from benchmarks.policies import matrix_rate
from retrievers.program import REFUSED, end

PEERS = Path(__file__).parent / ".peers"
SECTIONS: dict[str, Callable[[int], list[Line]]] = {
    "environment": lambda repeats: environment.lines(repeats, PEERS),
    "concurrent_episodes": concurrent_episodes.lines,
    "retrieval": retrieval.lines,
    "service": service.lines,
    "information_gain": information_gain.lines,
    "rollout": rollout.lines,
    "async_rollouts": async_rollouts.lines,
    "update": update.lines,
    "step": step_model.lines,
    "growth": growth.lines,
    "estimators": estimators.lines,
    "trl": lambda repeats: trl_peer.lines(repeats, PEERS),
    "processes": processes.lines,
    "killed": lambda repeats: killed.lines(),
    "crowded": crowded.lines,
    "memory": lambda repeats: memory.lines(),
    "training": training.lines,
    "pages": trajectory_page.lines,
}


@dataclass(frozen=True)
class Args:
    """Options of this script."""

    only: tuple[str, ...] = ()
    """Sections to run; default: all."""
    repeats: int = 3
    """Rounds of each measurement; the median is reported."""
    output: Path | None = None
    """JSON file for the results, written after each section; other sections in an existing file are kept."""
    plot: Path | None = None
    """PNG file for a plot of the results relative to their targets."""


def main(args: Args) -> None:
    """Measure, print each section when it is complete, and list missed targets."""
    console = Console()
    unknown = [name for name in args.only if name not in SECTIONS]
    if unknown:
        end(f"error: --only {unknown[0]}: no such section; choose from {', '.join(SECTIONS)}", REFUSED)
    done: dict[str, list[Line]] = {}
    if args.output is not None and args.output.is_file():
        saved = json.loads(args.output.read_text(encoding="utf-8"))
        done = {name: [Line(**line) for line in lines] for name, lines in saved["sections"].items()}
    console.print(f"{hardware()}", highlight=False)
    for name in args.only or SECTIONS:
        start = time.perf_counter()
        done[name] = SECTIONS[name](args.repeats)
        print_section(console, name, done[name], time.perf_counter() - start)
        if args.output is not None:
            content = {"hardware": hardware(), "sections": {n: [asdict(x) for x in ls] for n, ls in done.items()}}
            args.output.write_text(json.dumps(content, indent=1), encoding="utf-8")
    if args.plot is not None:
        plot(done, args.plot)
    short = [line for lines in done.values() for line in lines if not line.ok]
    console.print(f"{len(short)} targets missed" + "".join(f"\n  {line.name}" for line in short), highlight=False)


def hardware() -> str:
    """One line that describes the machine."""
    import torch  # after the sections, whose package sets how its threads wait

    return (
        f"{platform.machine()}, {os.cpu_count()} cores, {matrix_rate() / 1e9:.0f} GFLOP/s of float32 matrix products, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def plot(sections: dict[str, list[Line]], path: Path) -> None:
    """Plot every line with a target, as measured / target (or target / measured if lower is better)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    judged = [line for lines in sections.values() for line in lines if line.target and line.unit != "nats"]
    scores = [line.target / line.value if line.at_most else line.value / line.target for line in judged if line.target]
    figure, axes = plt.subplots(figsize=(10, 0.32 * len(judged) + 1.2), layout="constrained")
    colors = ["tab:blue" if line.ok else "tab:red" for line in judged]
    axes.set_xscale("log")
    axes.barh([line.name for line in judged], [score - 1 for score in scores], left=1, color=colors)
    axes.axvline(1, color="black", linewidth=1)
    axes.invert_yaxis()
    axes.set_xlabel("times the target (right of the line: met)")
    axes.tick_params(axis="y", labelsize=7)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(parse_options(Args, description=__doc__))
