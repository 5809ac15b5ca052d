"""Memory that a saved BM25 index takes to open and search, beside the files that it maps.

    python -m benchmarks.bm25_memory --passages 21000000 --folder /tmp/bm25

The corpus is made up: titles of two words and texts of ten, drawn from a vocabulary of millions with Zipf's
frequencies. A new process opens the index and searches; its anonymous memory is what mapped files do not account for.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from algorithms.common.base.command_line import parse_options
from retrievers.bm25 import BM25Retriever
from retrievers.build_index import Args as IndexArgs
from retrievers.build_index import build
from retrievers.random_streams import random_stream

BLOCK = 100_000
TITLE, TEXT = 2, 10  # words
QUERIES, TOP_K = 200, 10


@dataclass(frozen=True)
class Args:
    """Options of this script."""

    folder: Path
    """Folder for the corpus and the index, which stay there: about 100 and 250 bytes per passage."""
    passages: int = 1_000_000
    """Passages of the corpus."""
    vocabulary: int = 5_000_000
    """Different words that a text may have."""
    search_only: bool = False
    """Open the index of an earlier call and search it; the other process of this script."""


def main(args: Args) -> None:
    """Make the corpus and the index unless they are there, then measure in a new process."""
    if args.search_only:
        print(json.dumps(search(args)))
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    corpus, index = args.folder / "corpus.jsonl", args.folder / "index"
    if not corpus.exists():
        write_made_up_corpus(corpus, args.passages, args.vocabulary)
    if not index.exists():
        start = time.perf_counter()
        build(IndexArgs(corpus, index, index="bm25", force=True))
        print(f"built in {time.perf_counter() - start:.0f} s")
    command = [sys.executable, "-m", "benchmarks.bm25_memory", "--folder", str(args.folder), "--search-only"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    size = sum(path.stat().st_size for path in index.rglob("*") if path.is_file())
    found = json.loads(done.stdout)
    print(
        f"{found['passages']:,} passages, index of {size / 1e9:.1f} GB: opened in {found['open']:.1f} s, "
        f"{found['anonymous'] / 1e9:.2f} GB beside the index after {QUERIES} searches "
        f"({found['opened'] / 1e9:.2f} GB when opened), {found['per_second']:.1f} queries/s"
    )


def write_made_up_corpus(path: Path, passages: int, vocabulary: int) -> None:
    """Write passages of made-up words, w0 the most frequent."""
    rng = random_stream("made-up corpus", 0, passages)
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        for start in range(0, passages, BLOCK):
            count = min(BLOCK, passages - start)
            # A uniform logarithm of the rank gives frequencies in inverse proportion to the rank.
            ranks = np.exp(rng.random((count, TITLE + TEXT)) * np.log(vocabulary)).astype(np.int64) - 1
            for number, row in enumerate(ranks.tolist(), start=start):
                words = [f"w{rank}" for rank in row]
                contents = f'"{" ".join(words[:TITLE])}"\\n{" ".join(words[TITLE:])}'
                file.write(f'{{"id": "{number}", "contents": "{contents.replace(chr(34), chr(92) + chr(34))}"}}\n')
    partial.rename(path)


def search(args: Args) -> dict[str, float]:
    """Open the index, search, draw random passages; returns sizes in bytes and speeds."""
    before = anonymous_bytes()
    start = time.perf_counter()
    engine = BM25Retriever.load(args.folder / "index")
    opened = time.perf_counter() - start
    after_opening = anonymous_bytes() - before
    rng = random_stream("queries of made-up words", 0)
    ranks = np.exp(rng.random((QUERIES, 8)) * np.log(args.vocabulary)).astype(np.int64)
    start = time.perf_counter()
    peak = 0
    for row in ranks.tolist():
        engine.search([" ".join(f"w{rank}" for rank in row)], TOP_K)
        peak = max(peak, anonymous_bytes() - before)
    per_second = QUERIES / (time.perf_counter() - start)
    engine.sample(3, rng)
    found = {
        "passages": len(engine),
        "open": opened,
        "opened": after_opening,
        "anonymous": peak,
        "per_second": per_second,
    }
    engine.close()
    return found


def anonymous_bytes() -> int:
    """Memory of this process that is not of files (Linux)."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, "this system does not report RssAnon"
    return int(found[1]) * 1024


if __name__ == "__main__":
    main(parse_options(Args, description=__doc__))
