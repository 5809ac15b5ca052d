"""The hardware of a run."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import time
from contextlib import suppress
from pathlib import Path

import psutil
import torch

UNUSED = 2**28  # bytes of unused heap that are kept
FASTER = 1.5  # times as fast as float32: bfloat16 is then preferred to it


def hardware() -> str:
    """CPU, GPU and torch version, in one line."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")),
        platform.processor(),
    )
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{len(os.sched_getaffinity(0))} cores of {model}, {device}, torch {torch.__version__}"


def bfloat16_speedup() -> float:
    """How many times as fast as float32 this processor multiplies matrices in bfloat16, measured in about 0.3 s.

    Processors with AMX are several times as fast; others may be slower. Shapes are those of a small language model.
    """
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        left, right = torch.ones(1024, 768, dtype=dtype), torch.ones(768, 2048, dtype=dtype)
        times = []
        for _ in range(8):
            start = time.perf_counter()
            left @ right
            times.append(time.perf_counter() - start)
        seconds[dtype] = min(times)  # the first ones prepare, and others may be interrupted
    return seconds[torch.float32] / seconds[torch.bfloat16]


def prefers_bfloat16() -> bool:
    """Whether the GPU supports bfloat16 or, without one, whether the processor multiplies much faster in it."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bfloat16_speedup() >= FASTER


def free_memory(device: torch.device, cgroup: Path = Path("/sys/fs/cgroup")) -> tuple[int, int]:
    """Free bytes of a device, for this process, and its total bytes.

    On a CPU the cgroup may allow less than the machine has, and the processes of a machine share it equally.
    """
    if device.type == "cuda":
        free, whole = torch.cuda.mem_get_info(device)
        return int(free), int(whole)
    memory = psutil.virtual_memory()
    free, whole = memory.available, memory.total
    try:
        limit = (cgroup / "memory.max").read_text(encoding="ascii").strip()
        if limit != "max":
            used = int((cgroup / "memory.current").read_text(encoding="ascii"))
            # The page cache counts as used, but is reclaimed when memory is short.
            statistics = dict(
                line.split() for line in (cgroup / "memory.stat").read_text(encoding="ascii").splitlines()
            )
            used -= int(statistics["inactive_file"])
            free, whole = min(free, int(limit) - used), min(whole, int(limit))
    except (OSError, ValueError, KeyError):  # not in a cgroup, or in one of another version
        pass
    return free // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), whole


def free_processors(samples: int = 4, seconds: float = 0.25) -> float:
    """Processors that this process may use and that other work leaves free.

    A processor counts as taken as far as it was busy both over the last minute (the load average) and just now (the
    least of `samples` of `seconds` each, in which this process sleeps), so that neither work that has ended nor a short
    burst counts.
    """
    usable = os.sched_getaffinity(0)
    load = os.getloadavg()[0]
    if load < 0.5:  # of one processor: nothing to measure
        return float(len(usable))
    psutil.cpu_percent(percpu=True)  # measures from here
    busy = []
    for _ in range(samples):
        time.sleep(seconds)
        shares = psutil.cpu_percent(percpu=True)
        busy.append(sum(shares[number] for number in usable if number < len(shares)) / 100)
    return max(0.0, len(usable) - min(load, *busy))


class _HeapStatistics(ctypes.Structure):
    """`struct mallinfo2` of glibc; `fordblks` is the bytes that it holds and no one uses."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    )


def release_memory() -> None:
    """Return memory that is no longer used to the system, if there is more than 256 MiB and the C library can (glibc).

    It keeps what tensors of changing sizes leave between others, so that a process grows from update to update. Takes
    about 0.2 s for a few gigabytes.
    """
    with suppress(OSError, AttributeError):  # another C library
        library = ctypes.CDLL("libc.so.6")
        library.mallinfo2.restype = _HeapStatistics
        if library.mallinfo2().fordblks > UNUSED:
            gc.collect()
            library.malloc_trim(0)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []
