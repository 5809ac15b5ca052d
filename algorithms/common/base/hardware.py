"""What a run runs on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil
import torch


def hardware() -> str:
    """What ran it, in a line."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")),
        platform.processor(),
    )
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{len(os.sched_getaffinity(0))} cores of {model}, {device}, torch {torch.__version__}"


def free_memory(device: torch.device, cgroup: Path = Path("/sys/fs/cgroup")) -> tuple[int, int]:
    """Bytes that are free on a device, for this process, and bytes that the device has.

    On a CPU the smaller of what the machine has and what its cgroup allows, divided among the processes of the machine.
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
            # The page cache is counted as used, and given up when memory is short.
            statistics = dict(
                line.split() for line in (cgroup / "memory.stat").read_text(encoding="ascii").splitlines()
            )
            used -= int(statistics["inactive_file"])
            free, whole = min(free, int(limit) - used), min(whole, int(limit))
    except (OSError, ValueError, KeyError):  # not in a cgroup, or of another version
        pass
    return free // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), whole


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []
