"""`WeightFiles`: weights on their way to a server, as safetensors in a folder that both can read."""

from __future__ import annotations

import ipaddress
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from filelock import BaseFileLock, FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from algorithms.common.rollout.engines.base import EngineError

MEMORY = Path("/dev/shm")  # a file system in memory, on Linux
PREFIX = "igsearch-weights-"
FILE_BYTES = 2**30  # of one file, so that not all weights are in memory a second time


class WeightFiles:
    """A folder with a subfolder for each update, of which the newest are kept.

    Beside it is a file that this process has locked. A folder whose process was killed is removed by the next one.

    Args:
        parent: where to make it; None: the system's folder for temporary files. Raises `EngineError` if it can't.
    """

    def __init__(self, parent: Path | None) -> None:
        try:
            parent = parent or Path(tempfile.gettempdir())
            _remove_abandoned(parent)
            self.folder, self._lock = _new_folder(parent)
        except (OSError, NotImplementedError) as error:  # the second: a file system without locks
            raise _not_written(parent or "a temporary folder", error) from error
        self._updates = 0

    def write(self, weights: Iterable[tuple[str, Tensor]], dtype: torch.dtype | None) -> Path:
        """The folder of all weights of a model; those of the update before are removed first.

        Matrices that are wider than `dtype` are rounded to it, as the server would do. Raises `EngineError`.
        """
        return self._new(1, lambda folder: _save(weights, folder, dtype))

    def write_adapter(self, weights: Iterable[tuple[str, Tensor]], settings: Callable[[Path], None]) -> Path:
        """The folder of an adapter in peft's form, `settings` writes its configuration. Raises `EngineError`.

        That of the update before is kept: requests that still run may read it again.
        """

        def save(folder: Path) -> None:
            settings(folder)
            save_file({name: _plain(tensor) for name, tensor in weights}, folder / "adapter_model.safetensors")

        return self._new(2, save)

    def close(self) -> None:
        """Remove the folder."""
        _remove(self.folder, self._lock)

    def _new(self, kept: int, save: Callable[[Path], None]) -> Path:
        """A folder that gets its name once it is complete."""
        self._updates += 1
        if self._updates > kept:
            shutil.rmtree(self._path(self._updates - kept), ignore_errors=True)
        path = self._path(self._updates)
        partial = path.with_suffix(".partial")
        try:
            partial.mkdir()
            save(partial)
            return partial.rename(path)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise _not_written(partial, error) from error

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}"


def _not_written(place: Path | str, error: Exception) -> EngineError:
    return EngineError(
        f"weights for the server can't be written to {place} ({error}); free some space there, or set TMPDIR to "
        "another folder that the server can read"
    )


def _new_folder(parent: Path) -> tuple[Path, BaseFileLock]:
    """A new folder, whose lock this process has had since before the folder existed."""
    while True:
        folder = parent / f"{PREFIX}{uuid.uuid4().hex}"
        lock = _lock_of(folder)
        with suppress(Timeout):  # another process looks whether the new file is abandoned
            lock.acquire(blocking=False)
            if Path(lock.lock_file).exists():  # it may have removed the file before this process had the lock
                folder.mkdir(mode=0o700)
                return folder, lock
            lock.release()


def _lock_of(folder: Path) -> BaseFileLock:
    return FileLock(folder.with_suffix(".lock"), thread_local=False)


def _remove(folder: Path, lock: BaseFileLock) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def _remove_abandoned(parent: Path) -> None:
    """Remove the folders of processes that have ended; memory is not freed otherwise until the machine restarts."""
    for file in parent.glob(f"{PREFIX}*.lock"):
        lock = _lock_of(file.with_suffix(""))
        # In use, of another user, removed by another process in the meantime, or a file system without locks.
        with suppress(Timeout, OSError, NotImplementedError):
            lock.acquire(blocking=False)
            _remove(file.with_suffix(""), lock)


def handover_folder(hosts: Sequence[str], needed: int) -> Path | None:
    """Where to hand weights over: memory, if all servers are on this machine and it has room for `needed` bytes.

    None otherwise, or if the environment names a folder (TMPDIR): that for temporary files.
    """
    if "TMPDIR" in os.environ or not all(map(_is_this_machine, hosts)) or not os.access(MEMORY, os.W_OK):
        return None
    return MEMORY if shutil.disk_usage(MEMORY).free > 1.25 * needed else None


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _save(weights: Iterable[tuple[str, Tensor]], folder: Path, dtype: torch.dtype | None) -> None:
    """Write files of at most about `FILE_BYTES`, or one tensor."""
    tensors: dict[str, Tensor] = {}
    places: set[int] = set()  # of the storages in a file
    size = files = 0
    for name, tensor in weights:
        kept = _plain(_rounded(tensor, dtype))
        if size + kept.nbytes > FILE_BYTES and tensors:
            files += 1
            save_file(tensors, folder / f"model-{files:05d}.safetensors")
            tensors, places, size = {}, set(), 0
        place = kept.untyped_storage().data_ptr()
        # Tied weights share memory, which safetensors refuses; the server needs both names (`with_tied_head`).
        tensors[name] = kept.clone() if place in places else kept
        places.add(place)
        size += kept.nbytes
    save_file(tensors, folder / f"model-{files + 1:05d}.safetensors")


def _rounded(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A matrix in `dtype`, if that is narrower. Vectors are small, and some are in float32 in any server."""
    narrower = dtype is not None and tensor.is_floating_point() and tensor.element_size() > dtype.itemsize
    return tensor.detach().to(dtype) if narrower and tensor.ndim > 1 else tensor


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()
