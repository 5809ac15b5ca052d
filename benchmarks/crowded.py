"""Steps of the bundled run beside busy processes, against the same steps alone.

    python -m benchmarks.crowded

Twenty processes that never wait leave a run on two cores 2/22 of the time, so its steps take 11 times as long at best.
What the share explains is taken from the processor time that one of them got. Each side is a process of its own that
imports everything first; then the busy processes start, and the run begins after `SETTLE` seconds. The busy processes
are ended whatever happens. Run it on a machine that does nothing else: other work lengthens the steps alone.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import tyro

from benchmarks.measure import Line

BUSY = 20
SETTLE = 10.0  # seconds of busy processes before the run begins
QUESTIONS = 8  # of a step
LIMIT = 300  # seconds after which a busy process ends by itself, should this one be killed


def lines(repeats: int = 3) -> list[Line]:
    """Median over `repeats` steps of each side."""
    alone, processors, all_threads, _ = _measured(0, repeats)
    beside, theirs, threads, share = _measured(BUSY, repeats)
    slower, explained = beside / alone, 1 / share
    detail = (
        f"{alone:.2f} s with {all_threads} threads -> {beside:.1f} s with {threads}; {slower:.1f} times as long, of "
        f"which {explained:.1f} by its share of the processors"
    )
    return [
        Line(
            f"step beside {BUSY} busy processes, over its share of the processors",
            slower / explained,
            target=1.5,
            at_most=True,
            detail=detail,
        ),
        Line(
            "  processor time of a step, beside them over alone",
            theirs / processors,
            detail=f"{processors:.2f} -> {theirs:.2f} s",
        ),
    ]


def _measured(busy: int, repeats: int) -> tuple[float, float, int, float]:
    """Of a run beside `busy` processes: seconds and processor seconds of a step, threads, and the share of a processor
    that one of the busy processes got meanwhile (1 without any)."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # else the run takes them as the choice of the user
        os.environ.pop(name, None)
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_steps, args=(there, repeats), daemon=True)
    process.start()
    try:
        here.recv()  # it has imported everything
        with _busy(busy) as processes:
            time.sleep(SETTLE if busy else 0)
            start, used = time.perf_counter(), _processor_seconds(processes)
            here.send("begin")
            taken, threads = here.recv()
            share = 1.0
            if processes:
                each = (_processor_seconds(processes) - used) / len(processes)
                share = each / (time.perf_counter() - start)
    finally:
        process.terminate()
        process.join()
    walls, cpus = zip(*taken, strict=True)
    return statistics.median(walls), statistics.median(cpus), threads, share


def _processor_seconds(processes: Iterable[subprocess.Popen[bytes]]) -> float:
    return sum(sum(psutil.Process(process.pid).cpu_times()[:2]) for process in processes)


@contextmanager
def _busy(count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """`count` processes that never wait."""
    code = f"import time\nend = time.monotonic() + {LIMIT}\nwhile time.monotonic() < end: pass"
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(count)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def _steps(pipe: Connection, repeats: int) -> None:
    """Train `repeats` steps after a warm-up; sends (seconds, processor seconds) of each and the threads of the run."""
    import torch

    from algorithms.common.rollout.answer_scorer import measure_information_gain
    from algorithms.common.rollout.config import RolloutConfig
    from algorithms.common.run.run import Run
    from algorithms.common.run.setup import make_torch_deterministic
    from algorithms.common.trainer import collect_batch
    from algorithms.ig_grpo import IGGRPO, IGGRPOConfig
    from benchmarks.training_step import update_policy

    pipe.send("ready")
    pipe.recv()
    taken = []
    with tempfile.TemporaryDirectory() as folder:
        config = IGGRPOConfig(run_dir=Path(folder) / "run", rollout=RolloutConfig(questions_per_step=QUESTIONS))
        algorithm = IGGRPO(config)
        make_torch_deterministic(config.seed)
        run = Run(algorithm, config)
        for step in range(1, repeats + 2):
            start, used = time.perf_counter(), time.process_time()
            buffer = collect_batch(run, algorithm, step)
            measure_information_gain(buffer, run.information_gain(step, buffer.prefixes))
            update_policy(run, buffer, algorithm.advantages(buffer), step)
            taken.append((time.perf_counter() - start, time.process_time() - used))
        run.close()
    pipe.send((taken[1:], torch.get_num_threads()))


if __name__ == "__main__":
    for measured in tyro.cli(lines, description=__doc__):
        print(f"{measured.name}: {measured.value:,.3g} {measured.unit} {measured.detail}")
