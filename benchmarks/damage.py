"""Ways to damage a good file, and to replace it with a hostile one."""

from __future__ import annotations

import gzip
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HOSTILE_JSON = (
    *("[" * 100_000, '{"a":' * 50_000, "9" * 5_000, '{"id": ' + "9" * 5_000 + "}", '{"id": "\\ud800"}', "[]", "{}"),
    *("3", "null", '"text"', "[[1]]", "NaN", "1e999", '{"format": 1e999}', '{"a": 1, "a": 2}', ""),
    *("\0" * 64, "\ufeff{}"),
)
HOSTILE_YAML = (
    *("a: 2024-13-45", "a: [" * 2_000, "a: " + "9" * 5_000, 'a: "\\ud800"', "!!python/object/apply:os.getcwd []"),
    *("- 1", "a: &a [*a]", "a: !!timestamp x", "? [1]\n: 2", "x", "\t", "steps: .inf", "seed: -1", "!!binary x"),
    "a0: &a0 [1,1,1,1,1,1,1,1]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]\n" for i in range(1, 10)),
)
ODD: tuple[Any, ...] = (
    *(None, -1, 0, 10**30, 1.5, float("nan"), True, "x", "", "\ud800", "../x"),
    *([], {}, [[]], ["x"], {"a": 1}),
)


class _Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def damage(good: Path, folder: Path, mark: Path, rng: np.random.Generator) -> str:
    """Copy the folder `good` to `folder` with one damaged file; says what was done. A pickle in it creates `mark`."""
    shutil.copytree(good, folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = files[int(rng.integers(len(files)))]
    way = WAYS[int(rng.integers(len(WAYS)))]
    way(path, mark, rng)
    return f"{path.relative_to(folder)}, {way.__name__.strip('_')}"


def _cut(path: Path, mark: Path, rng: np.random.Generator) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(rng.integers(len(content) + 1))])


def _flip(path: Path, mark: Path, rng: np.random.Generator) -> None:
    content = bytearray(_unpacked(path))
    for _ in range(int(rng.integers(1, 4))):
        if content:
            content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
    _pack(path, bytes(content))


def _flip_packed(path: Path, mark: Path, rng: np.random.Generator) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(bytes(content))


def _noise(path: Path, mark: Path, rng: np.random.Generator) -> None:
    content = _unpacked(path)
    place = int(rng.integers(len(content) + 1))
    _pack(path, content[:place] + rng.bytes(int(rng.integers(1, 64))) + content[place + int(rng.integers(64)) :])


def _hostile(path: Path, mark: Path, rng: np.random.Generator) -> None:
    texts = HOSTILE_YAML if path.suffix in (".yaml", ".yml") else HOSTILE_JSON
    text = texts[int(rng.integers(len(texts)))]
    lines = _unpacked(path).splitlines(keepends=True)
    if rng.random() < 0.5 and lines:  # one line of the file
        lines[int(rng.integers(len(lines)))] = text.encode("utf-8", "surrogatepass") + b"\n"
        _pack(path, b"".join(lines))
    else:
        _pack(path, text.encode("utf-8", "surrogatepass"))


def _latin(path: Path, mark: Path, rng: np.random.Generator) -> None:
    _pack(path, _unpacked(path).replace(b"a", b"\xe4", int(rng.integers(1, 9))))


def _pickle(path: Path, mark: Path, rng: np.random.Generator) -> None:
    path.write_bytes(pickle.dumps(_Bomb(mark)))


def _folder(path: Path, mark: Path, rng: np.random.Generator) -> None:
    path.unlink()
    path.mkdir()


def _remove(path: Path, mark: Path, rng: np.random.Generator) -> None:
    path.unlink()


def _odd_value(path: Path, mark: Path, rng: np.random.Generator) -> None:
    """Replace or remove one value of the JSON in a file, or in one of its lines."""
    lines = _unpacked(path).splitlines()
    for place in rng.permutation(len(lines)) if len(lines) > 1 else [0]:
        whole = path.suffix == ".json"
        try:
            value = json.loads(b"\n".join(lines) if whole else lines[place])
        except (ValueError, IndexError):
            break
        text = json.dumps(_changed(value, rng)).encode()
        lines = [text] if whole else [*lines[:place], text, *lines[place + 1 :]]
        _pack(path, b"\n".join(lines) + b"\n")
        return
    _noise(path, mark, rng)


def _changed(value: Any, rng: np.random.Generator) -> Any:
    """A copy of plain data with one value, at any depth, replaced by an odd one or removed."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = keys[int(rng.integers(len(keys)))]
        copy: Any = value.copy()
        if rng.random() < 0.1:
            del copy[key]
        else:
            copy[key] = _changed(value[key], rng)
        return copy
    return ODD[int(rng.integers(len(ODD)))]


def _unpacked(path: Path) -> bytes:
    content = path.read_bytes()
    return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content


def _pack(path: Path, content: bytes) -> None:
    packed = path.read_bytes()[:2] == b"\x1f\x8b"
    path.write_bytes(gzip.compress(content) if packed else content)


Way = Callable[[Path, Path, np.random.Generator], None]
WAYS: tuple[Way, ...] = (
    *(_cut, _flip, _flip, _flip_packed, _noise, _hostile, _hostile, _hostile, _latin, _pickle, _folder, _remove),
    *(_odd_value, _odd_value, _odd_value, _odd_value),
)
