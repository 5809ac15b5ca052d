"""Index files are compared with their recorded hashes before a native library opens them."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from encoders import WordEncoder

from retrievers import BM25Retriever, IndexMismatchError
from retrievers import check_index as check
from retrievers.build_index import Args, build
from retrievers.dense import DenseRetriever
from retrievers.digests import check_files, file_digest


@pytest.fixture
def args(tmp_path: Path) -> Args:
    """Options over a corpus of 120 passages, shards of 50."""
    words = np.random.default_rng(0).choice([f"word{i}" for i in range(300)], (120, 12)).tolist()
    rows = [json.dumps({"id": str(i), "contents": f"{text[0]}\n{' '.join(text)}"}) for i, text in enumerate(words)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return Args(corpus=tmp_path / "corpus.jsonl", output=tmp_path / "index", shard_size=50)


@pytest.mark.parametrize("kind", ["bm25", "Flat", "hnswlib", "IVF4,SQ8"])
def test_no_damaged_index_is_opened(kind: str, args: Args) -> None:
    args = replace(args, index=kind)
    build(args, WordEncoder())

    def load() -> None:
        if kind == "bm25":
            BM25Retriever.load(args.output).close()
        else:
            DenseRetriever.load(args.output, encoder=WordEncoder()).close()

    load()
    rng = np.random.default_rng(0)
    files = [path for path in args.output.rglob("*") if path.is_file() and "offsets" not in path.name]
    used = [path for path in files if "vectors" not in path.parts and path.stat().st_size]
    for number in range(24):
        path = used[number % len(used)]
        good = path.read_bytes()
        place = int(rng.integers(len(good)))
        damaged = {
            0: good[:place],
            1: good[:place] + bytes([good[place] ^ (1 << int(rng.integers(8)))]) + good[place + 1 :],
            2: good + b"x",
        }[number % 3]
        path.write_bytes(damaged)
        if path.name == "manifest.json" and number % 3 == 1:
            with suppress(IndexMismatchError):  # a name or a date may have changed
                load()
        else:
            with pytest.raises(IndexMismatchError) as error:
                load()
            assert str(args.output) in str(error.value)
            assert "\n" not in str(error.value)
        path.write_bytes(good)
    load()


def test_every_byte_is_checked_on_request_and_an_earlier_index_is_recorded(args: Args, tmp_path: Path) -> None:
    build(args, WordEncoder())
    check.main(check.Args(args.output))
    shard = next((args.output / "vectors").iterdir())
    good = shard.read_bytes()
    shard.write_bytes(good[:-1] + b"?")
    DenseRetriever.load(args.output, encoder=WordEncoder()).close()  # vectors are not read by searches
    with pytest.raises(IndexMismatchError, match=r"vectors/.* is not what was written"):
        check.main(check.Args(args.output))
    with pytest.raises(IndexMismatchError, match=r"vectors/.* is not what was written"):
        build(replace(args, output=tmp_path / "other", vectors=args.output), WordEncoder())
    shard.write_bytes(good)
    (args.output / "vectors" / "shard-000009.npy").write_bytes(good)
    with pytest.raises(IndexMismatchError, match=r"shard-000009\.npy is not a file of the index"):
        check.main(check.Args(args.output))
    (args.output / "vectors" / "shard-000009.npy").unlink()
    manifest = json.loads((args.output / "manifest.json").read_text())
    del manifest["files"]
    (args.output / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(IndexMismatchError, match=r"records no hashes.*retrievers\.check_index .* --record"):
        DenseRetriever.load(args.output, encoder=WordEncoder())
    check.main(check.Args(args.output, record=True))
    DenseRetriever.load(args.output, encoder=WordEncoder()).close()


def test_an_adopted_file_is_compared_with_its_published_hash(args: Args, tmp_path: Path) -> None:
    build(args, WordEncoder())
    right = file_digest(args.output / "index")["sha256"]
    adopt = replace(args, output=tmp_path / "adopted", adopt=args.output / "index")
    with pytest.raises(IndexMismatchError, match=rf"its SHA-256 is {right}, --adopt-sha256 is 00"):
        build(replace(adopt, adopt_sha256="00"), WordEncoder())
    build(replace(adopt, adopt_sha256=right.upper()), WordEncoder())
    DenseRetriever.load(adopt.output, encoder=WordEncoder()).close()


def test_a_large_file_is_sampled_unless_all_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrievers.digests.SMALL", 1_000)
    monkeypatch.setattr("retrievers.digests.BLOCK", 16)
    content = bytearray(np.random.default_rng(0).bytes(100_000))
    (tmp_path / "x").write_bytes(content)
    recorded = {"x": file_digest(tmp_path / "x")}
    assert check_files(tmp_path, recorded) == check_files(tmp_path, recorded, whole=True) == ""
    for place in (0, 50_007, 99_999):
        damaged = content.copy()
        damaged[place] ^= 1
        (tmp_path / "x").write_bytes(damaged)
        assert "its hash differs" in check_files(tmp_path, recorded, whole=True)
        assert bool(check_files(tmp_path, recorded)) == (place != 50_007)
