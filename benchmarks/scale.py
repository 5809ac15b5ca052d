"""Vector indexes with 10^5 to 10^7 vectors: build time, size, time to open, queries per second, recall.

    python -m benchmarks.scale --sizes 100000 1000000 10000000 --output docs/results/scale.json --plot docs/scale.png

The vectors are synthetic: 384 dimensions with 48 latent dimensions, clustered, unit length, similar to embeddings of
text. Queries are perturbed copies of vectors. The vectors are on disk (float16) while an index is built; the index is
then memory-mapped in a new process, as a server does.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from algorithms.common.base.command_line import parse_options
from retrievers.index.recall import exact_search, recall
from retrievers.index.vector_index import VectorIndex
from retrievers.random_streams import random_stream

DIMENSION, LATENT, CLUSTERS = 384, 48, 2_000
SHARD = 500_000
QUERIES, TOP_K = 500, 10
# Indexes by number of vectors; exact search at 10^7 needs 15 GB, more than a laptop has.
SPECS = {
    100_000: ("Flat", "hnswlib", "HNSW32", "IVF1024,SQ8"),
    1_000_000: ("Flat", "SQfp16", "HNSW32,SQ8", "IVF4096,SQ8", "IVF4096,PQ48"),
    10_000_000: ("IVF4096_HNSW32,SQ8", "IVF4096_HNSW32,PQ48"),
}


@dataclass(frozen=True)
class Args:
    """Options of this script."""

    sizes: tuple[int, ...] = (100_000,)
    """Numbers of vectors."""
    specs: tuple[str, ...] = ()
    """Indexes to measure at every size; default: a selection that depends on the size."""
    output: Path | None = None
    """JSON lines file for the results; sizes and indexes that it already has are not measured again."""
    plot: Path | None = None
    """PNG file for a plot of queries per second over the number of vectors."""


@dataclass(frozen=True)
class Row:
    """Measurements of one index."""

    vectors: int
    spec: str
    parameters: str
    build_seconds: float
    bytes_per_vector: float
    open_seconds: float
    single: float  # queries/s, one at a time
    batched: float  # queries/s, 64 at a time
    recall: float


def made_up_vectors(count: int, seed: int = 0) -> Iterator[NDArray[np.float16]]:
    """Unit vectors [at most SHARD, DIMENSION] in clusters on a curved surface of LATENT dimensions."""
    rng = random_stream("vectors of the scale benchmark", seed)
    lift = rng.standard_normal((LATENT, DIMENSION), dtype=np.float32) / np.sqrt(LATENT)
    centres = rng.standard_normal((CLUSTERS, LATENT), dtype=np.float32)
    for start in range(0, count, SHARD):
        rows = min(SHARD, count - start)
        latent = centres[rng.integers(0, CLUSTERS, rows)] + 0.7 * rng.standard_normal((rows, LATENT), dtype=np.float32)
        vectors = np.tanh(latent @ lift)
        vectors += 0.05 * rng.standard_normal(vectors.shape, dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        yield vectors.astype(np.float16)


def measure(size: int, specs: tuple[str, ...], console: Console) -> Iterator[Row]:
    """Build and search every index over one set of vectors."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = []
        for number, shard in enumerate(made_up_vectors(size)):
            np.save(folder / f"{number:03d}.npy", shard)
            shards.append(np.load(folder / f"{number:03d}.npy", mmap_mode="r"))
        rng = random_stream("queries of the scale benchmark", 0)
        near = np.asarray(shards[-1][np.sort(rng.choice(len(shards[-1]), QUERIES, replace=False))], np.float32)
        queries = near + 0.02 * rng.standard_normal(near.shape, dtype=np.float32)
        np.save(folder / "queries.npy", queries)
        truth = exact_search(shards, queries, TOP_K)
        for spec in specs:
            console.print(f"{size:,} vectors: {spec}")
            start = time.perf_counter()
            index = VectorIndex.build(spec, shards)
            taken = time.perf_counter() - start
            path = folder / "index"
            index.save(path)
            parameters, found = index.parameters, index.search(queries, TOP_K)[1]
            del index
            figures = _in_fresh_process(path, spec, folder / "queries.npy")
            yield Row(
                size,
                spec,
                parameters,
                round(taken, 1),
                round(path.stat().st_size / size, 1),
                recall=round(recall(found, truth), 4),
                **figures,
            )
            path.unlink()
        shutil.rmtree(folder, ignore_errors=True)


def _in_fresh_process(path: Path, spec: str, queries: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.scale", "--probe", str(path), spec, str(queries)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=1800)
    figures: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def probe(path: Path, spec: str, queries: Path) -> dict[str, float]:
    """Open an index and search it; runs in a separate process."""
    asked = np.load(queries)
    import faiss  # noqa: F401  (so that opening does not count its import)

    start = time.perf_counter()
    index = VectorIndex.load(path, spec, DIMENSION)
    opened = time.perf_counter() - start
    index.search(asked, TOP_K)  # loads the pages into memory
    rates = {}
    for name, batch in (("single", 1), ("batched", 64)):
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < 3:
            at = done % (QUERIES - batch)
            index.search(asked[at : at + batch], TOP_K)
            done += batch
        rates[name] = round(done / (time.perf_counter() - start), 1)
    return {"open_seconds": round(opened, 3), **rates}


def table(rows: list[Row]) -> str:
    """The results as a Markdown table."""
    head = "| vectors | index | searched with | build | bytes a vector | open | queries/s | by 64 | recall@10 |"
    return "\n".join(
        [head, "|---:|---|---|---:|---:|---:|---:|---:|---:|"]
        + [
            f"| {r.vectors:,} | {r.spec} | {r.parameters} | {r.build_seconds:,.0f} s | {r.bytes_per_vector:,.0f} | "
            f"{r.open_seconds:.2f} s | {r.single:,.0f} | {r.batched:,.0f} | {r.recall:.3f} |"
            for r in rows
        ]
    )


def plot(rows: list[Row], path: Path) -> None:
    """Plot queries per second, one at a time, over the number of vectors; points are labelled with the recall."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for kind, color in (("Flat", "black"), ("SQfp16", "gray"), ("hnsw", "tab:blue"), ("IVF", "tab:orange")):
        points = [row for row in rows if row.spec.lower().startswith(kind.lower())]
        axes.plot([r.vectors for r in points], [r.single for r in points], "o", color=color, label=kind)
        for row in points:
            label = f"{row.spec}, recall {row.recall:.2f}, {row.bytes_per_vector:,.0f} B"
            axes.annotate(label, (row.vectors, row.single), (6, 4), textcoords="offset points", fontsize=7)
    axes.set(xscale="log", yscale="log", xlabel="vectors (384 dimensions)", ylabel="queries/s, one at a time")
    axes.set_xlim(5e4, 3e8)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main(args: Args) -> None:
    """Measure missing combinations, print the table and write the plot."""
    console = Console()
    rows: list[Row] = []
    if args.output is not None and args.output.is_file():
        rows = [Row(**json.loads(line)) for line in args.output.read_text(encoding="utf-8").splitlines()]
    for size in args.sizes:
        known = {row.spec for row in rows if row.vectors == size}
        wanted = args.specs or SPECS.get(size, ("IVF4096,SQ8",))
        for row in measure(size, tuple(spec for spec in wanted if spec not in known), console):
            rows.append(row)
            if args.output is not None:
                with args.output.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(row)) + "\n")
    rows.sort(key=lambda row: row.vectors)
    print(table(rows))
    if args.plot is not None:
        plot(rows, args.plot)


def _command_line(arguments: list[str]) -> Any:
    if arguments[:1] == ["--probe"]:
        return print(json.dumps(probe(Path(arguments[1]), arguments[2], Path(arguments[3]))))
    return main(parse_options(Args, description=__doc__))


if __name__ == "__main__":
    _command_line(sys.argv[1:])
