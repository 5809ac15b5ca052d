"""Tensors of one or several processes on disk, without pickles: a safetensors file per process and an index in JSON.

    FOLDER/00000.safetensors, 00001.safetensors, ...   what each process holds
    FOLDER/index.json                                  {"format", "tensors": {name: {"shape", "dtype", "pieces"}}}

A piece is [file, first row, last row + 1]; the pieces of a tensor follow each other. Any number of processes can read
what any other number wrote: each takes the rows that it holds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from algorithms.common.distributed.processes import Processes
from igsearch_env.errors import IGSearchError
from retrievers.reading import FileError, one_line, read_json_object

FORMAT = 1
INDEX = "index.json"
_FILE = re.compile(r"\d{5}\.safetensors")


class TensorFileError(IGSearchError, ValueError):
    """A folder of tensors that can't be read, or holds other tensors."""

    exit_status = 1


def save_tensors(folder: Path, tensors: Mapping[str, Tensor], processes: Processes) -> None:
    """Write tensors, whole or sharded by rows over the processes, to a folder. Every process must call it.

    A tensor that every process holds whole is written by rank 0.
    """
    name = f"{processes.rank:05d}.safetensors"
    rows = {key: _rows(tensor) for key, tensor in tensors.items()}
    # Exchanged first: a process whose disk is full must not leave the others waiting.
    held = processes.gather(
        {key: (name, *rows[key]) for key, tensor in tensors.items() if _sharded(tensor) or processes.is_main}
    )
    mine = {key: tensors[key] for key, (_, start, stop) in held[processes.rank].items() if stop > start}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_in_memory(mine), folder / name)
    if not processes.is_main:
        return
    pieces = {key: sorted((part[key] for part in held if key in part), key=lambda piece: piece[1]) for key in tensors}
    content = {
        key: {
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "pieces": [piece for piece in pieces[key] if piece[2] > piece[1]],
        }
        for key, tensor in tensors.items()
    }
    (folder / INDEX).write_text(json.dumps({"format": FORMAT, "tensors": content}), encoding="utf-8")


def saved_names(folder: Path) -> set[str]:
    """The names of the tensors in a folder."""
    return set(_read_index(folder))


def load_tensors(folder: Path, into: Mapping[str, Tensor]) -> None:
    """Copy the rows that this process holds of each tensor from a folder of `save_tensors`.

    Raises `TensorFileError` for a damaged folder and for a tensor that is missing or has another shape or type.
    """
    index = _read_index(folder)
    with ExitStack() as stack, torch.no_grad():
        files: dict[str, Any] = {}
        for name, tensor in into.items():
            pieces = _pieces(folder, name, index.get(name), tensor)
            first, last = _rows(tensor)
            local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
            for file, start, stop in pieces:
                if max(first, start) >= min(last, stop):
                    continue
                try:
                    if file not in files:
                        files[file] = stack.enter_context(safe_open(folder / file, "pt"))
                    _copy(files[file], name, local, first, last, start, stop)
                except (SafetensorError, OSError, RuntimeError, IndexError) as error:
                    raise TensorFileError(f"{folder / file}: can't be read ({one_line(error)})") from error


def _copy(file: Any, name: str, local: Tensor, first: int, last: int, start: int, stop: int) -> None:
    """Copy the rows of one piece into the rows [first, last) that this process holds."""
    if local.ndim == 0:
        local.copy_(file.get_tensor(name))
        return
    piece = file.get_slice(name)
    if list(piece.get_shape()) != [stop - start, *local.shape[1:]]:
        raise RuntimeError(f"{name} has shape {piece.get_shape()}, {INDEX} names rows {start} to {stop}")
    low, high = max(first, start), min(last, stop)
    local[low - first : high - first].copy_(piece[low - start : high - start])


def _sharded(tensor: Tensor) -> bool:
    return isinstance(tensor, DTensor) and any(placement.is_shard() for placement in tensor.placements)


def _rows(tensor: Tensor) -> tuple[int, int]:
    """The rows [first, last) of the whole tensor that this process holds; a scalar has one."""
    whole = tensor.shape[0] if tensor.ndim else 1
    if not isinstance(tensor, DTensor) or not _sharded(tensor):
        return 0, whole
    (placement,) = tensor.placements
    assert isinstance(placement, Shard)  # as `fully_shard` divides them
    assert placement.dim == 0
    size = -(-whole // tensor.device_mesh.size())  # as torch.chunk divides them
    first = min(tensor.device_mesh.get_local_rank() * size, whole)
    return first, min(first + size, whole)


def _in_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What this process holds, in the CPU's memory; safetensors refuses tensors that share memory."""
    found: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in tensors.items():
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        kept = local.detach().cpu().contiguous()
        found[name] = kept.clone() if kept.data_ptr() in places else kept
        places.add(kept.data_ptr())
    return found


def _read_index(folder: Path) -> dict[str, Any]:
    try:
        content = read_json_object(folder / INDEX)
    except FileError as error:
        raise TensorFileError(str(error)) from error
    tensors = content.get("tensors")
    if content.get("format") != FORMAT or not isinstance(tensors, dict):
        raise TensorFileError(f"{folder / INDEX}: not an index of format {FORMAT}")
    return tensors


def _pieces(folder: Path, name: str, entry: Any, tensor: Tensor) -> list[tuple[str, int, int]]:
    """The pieces of a tensor, checked: they must be of this shape and type, and leave no row out."""
    where = f"{folder / INDEX}: {name}"
    if not isinstance(entry, dict):
        raise TensorFileError(f"{where} is missing")
    wanted = (list(tensor.shape), str(tensor.dtype).removeprefix("torch."))
    if (entry.get("shape"), entry.get("dtype")) != wanted:
        raise TensorFileError(f"{where} has shape {entry.get('shape')} and type {entry.get('dtype')}, not {wanted}")
    pieces, end = entry.get("pieces"), 0
    if not isinstance(pieces, list):
        raise TensorFileError(f"{where} has no pieces")
    checked: list[tuple[str, int, int]] = []
    for piece in pieces:
        match piece:
            case [str(file), int(start), int(stop)] if _FILE.fullmatch(file) and start == end < stop:
                checked.append((file, start, stop))
                end = stop
            case _:
                raise TensorFileError(f"{where}: {piece!r} does not follow the piece before it")
    if end != (tensor.shape[0] if tensor.ndim else 1):
        raise TensorFileError(f"{where}: its pieces end at row {end}")
    return checked
