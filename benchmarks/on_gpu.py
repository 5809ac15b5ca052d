"""Measurements on one GPU, in two halves of at most five minutes each.

    python -m benchmarks.on_gpu --half 1 --output gpu.jsonl     versions and kernels, parity, decoder, information gain
    python -m benchmarks.on_gpu --half 2 --output gpu.jsonl     update, FSDP2 on one rank, a whole step with short turns
    python -m benchmarks.on_gpu --half 1 --dry-run              tiny sizes on a CPU

Each part runs in a process of its own and appends its figures to the output, a JSON object per line, as it makes them.
A part that fails is recorded and the next one runs; one that takes longer than its budget is stopped. What a machine
needs besides torch and transformers is in `benchmarks/gpu/wheels.txt`. Qwen2.5-3B's shape needs a card of 80 GB.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from algorithms.common.base.command_line import parse_options
from retrievers.program import REFUSED, end

ROOT = Path(__file__).parent.parent
HALF = 290.0  # seconds of a half
BUDGETS = {
    1: {"versions": 45.0, "parity": 45.0, "decoder": 130.0, "gain": 70.0},
    2: {"training": 85.0, "sharded": 55.0, "whole": 150.0},
}


@dataclass(frozen=True)
class Args:
    """Options of this script."""

    half: int = 1
    """Which half: 1 or 2."""
    output: Path = Path("gpu.jsonl")
    """File for the figures, which is appended to."""
    only: tuple[str, ...] = ()
    """Parts to run; default: all of the half."""
    dry_run: bool = False
    """Tiny sizes on a CPU."""
    part: str | None = None
    """Run this part in this process, without a budget."""


def main(args: Args) -> None:
    """Run a half, or one part."""
    if args.part is not None:
        run_part(args.part, args.output, dry_run=args.dry_run)
        return
    if args.half not in BUDGETS:
        end(f"error: --half {args.half}: must be 1 or 2", REFUSED)
    budgets = {name: most for name, most in BUDGETS[args.half].items() if not args.only or name in args.only}
    if unknown := set(args.only) - BUDGETS[args.half].keys():
        end(f"error: --only {min(unknown)}: half {args.half} has {', '.join(BUDGETS[args.half])}", REFUSED)
    own = [sys.executable, "-m", "benchmarks.on_gpu", "--output", str(args.output.absolute())]
    own += ["--dry-run"] if args.dry_run else []
    run_parts(((name, [*own, "--part", name], most) for name, most in budgets.items()), args.output)


def run_parts(parts: Iterable[tuple[str, list[str], float]], output: Path, whole: float = HALF) -> None:
    """Run commands (name, command, seconds) one after another and record how each ended; `whole`: seconds of all."""
    begun = time.monotonic()
    for name, command, most in parts:
        start = time.monotonic()
        budget = min(most, whole - (start - begun))
        log = output.with_name(f"{output.stem}.{name}.log")
        if budget <= 0:
            append(output, {"part": name, "status": "left out", "reason": "the half is over"})
            continue
        with log.open("w") as errors:
            # A session of its own, so that whatever it starts can be stopped with it.
            process = subprocess.Popen(command, cwd=ROOT, stdout=errors, stderr=errors, start_new_session=True)
            try:
                code: int | None = process.wait(budget)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        row: dict[str, Any] = {"part": name, "seconds": round(time.monotonic() - start, 1), "budget": round(budget, 1)}
        if code is None:
            append(output, {**row, "status": "stopped"})
        elif code:
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            append(output, {**row, "status": "failed", "code": code, "reason": "".join(last)[:300]})
        else:
            append(output, {**row, "status": "done"})


def append(output: Path, figures: dict[str, Any]) -> None:
    """Write one line, at once."""
    with output.open("a", encoding="utf-8") as file:
        file.write(json.dumps(figures) + "\n")
    print(json.dumps(figures), flush=True)


def run_part(name: str, output: Path, *, dry_run: bool) -> None:
    """Run one part in this process."""
    from benchmarks.gpu import machine, parity, sampling, training
    from benchmarks.gpu.sizes import TINY, Sizes

    parts: dict[str, Callable[[Any, Any], None]] = {
        "versions": machine.versions,
        "parity": parity.parity,
        "decoder": sampling.decoder,
        "gain": sampling.gain,
        "training": training.training,
        "sharded": training.sharded,
        "whole": training.whole,
    }
    if name not in parts:
        end(f"error: --part {name}: choose from {', '.join(parts)}", REFUSED)
    report = partial(_report, name, output)
    parts[name](TINY if dry_run else Sizes(), report)


def _report(part: str, output: Path, figures: dict[str, Any]) -> None:
    append(output, {"part": part, **figures})


if __name__ == "__main__":
    main(parse_options(Args, description=__doc__))
