"""Build an index of a corpus: `igsearch index --corpus FILE --encoder MODEL --output FOLDER`.

    --index bm25 | Flat | SQfp16 | HNSW32 | IVF4096,SQ8 | ... | hnswlib

Prints an estimate of time, memory and disk first and rejects what won't fit. Stop it with Ctrl-C: the same command
resumes with the passages that have no vector yet. The output folder appears only when it is complete.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from retrievers.base import IndexMismatchError
from retrievers.bm25 import BM25Retriever, BM25Settings, plan_bm25
from retrievers.corpus import DiskCorpus, Survey, has_random_access, survey_corpus
from retrievers.extras import require
from retrievers.index.adopt import adopt
from retrievers.index.encoder import Encoder
from retrievers.index.manifest import write_manifest
from retrievers.index.plan import Plan, plan_dense
from retrievers.index.recall import title_recall
from retrievers.index.remote_encoder import close_encoder, open_encoder
from retrievers.index.shards import encode_shards, encoded, kept_vectors, open_shards
from retrievers.index.vector_index import VectorIndex, check_spec, engine_of, is_exact
from retrievers.lock import ProcessLock
from retrievers.log_lines import show_log_lines
from retrievers.open import check_source
from retrievers.processors import let_waiting_threads_sleep
from retrievers.program import ends_in_one_line
from retrievers.service.wire import is_address

INTERRUPTED = "interrupted: run the same command to resume with the passages that have no vector yet"


@dataclass(frozen=True)
class Args:
    """Options of the builder."""

    corpus: Path
    """Corpus: a file or folder of any form in `retrievers.passage_rows`."""
    output: Path
    """Folder to write; must not exist."""
    index: str = "Flat"
    """bm25, hnswlib, or a faiss factory string (Flat, SQfp16, HNSW32, IVF4096,SQ8, IVF65536_HNSW32,PQ48, ...)."""
    parameters: str = ""
    """Search parameters of an approximate index: nprobe=N or efSearch=N; "": the default of its type."""
    encoder: str = "intfloat/e5-base-v2"
    """sentence-transformers model, name or folder, or the address of an embedding server (not for bm25)."""
    bm25: BM25Settings = field(default_factory=BM25Settings)
    """Settings of `--index bm25`."""
    dtype: str = "auto"
    """Data type of the encoder's weights: float32, bfloat16, float16; auto: float16 on a GPU, float32 elsewhere."""
    max_length: int | None = None
    """Maximum tokens per passage; None: the encoder's limit."""
    query_prefix: str | None = None
    """Prefix of every query ("" for none); None: the encoder's own prompt, else that of its model card."""
    passage_prefix: str | None = None
    """Prefix of every passage ("" for none); None: the encoder's own prompt, else that of its model card."""
    batch_size: int | None = None
    """Passages per encoder batch; None: chosen by free memory."""
    shard_size: int = 20_000
    """Passages per saved shard of vectors."""
    vectors: Path | None = None
    """An index folder of the same corpus and encoder, whose saved vectors are used instead of encoding."""
    keep_vectors: bool = True
    """Keep the vectors (2 bytes per dimension) beside the index, for `--vectors`."""
    adopt: Path | None = None
    """An index file of faiss or hnswlib of this corpus and encoder: checked with some passages, then linked."""
    adopt_sha256: str = ""
    """SHA-256 of the adopted file, as published with it: checked before the file is opened."""
    recall_queries: int = 500
    """Number of titles used as queries to measure the recall of an approximate index."""
    estimate_only: bool = False
    """Print the estimate and stop."""
    force: bool = False
    """Build even if it won't fit according to the estimate."""


def build(args: Args, encoder: Encoder | None = None) -> bool:
    """Build an index; False if only the estimate was printed. `encoder`: used instead of loading `args.encoder`.

    Raises `CorpusError` for an invalid corpus, `WontFitError`, and `IndexMismatchError` if vectors or an adopted
    index belong to another corpus or encoder. Encoded vectors are kept for the next run.
    """
    if args.output.exists():
        raise IndexMismatchError(f"{args.output} exists: remove it or choose another folder")
    check_source(str(args.corpus))
    if args.index != "bm25":  # before the corpus is read, which may take minutes
        check_spec(args.index)
        if encoder is None and not is_address(args.encoder):
            require("sentence_transformers", f"encoder={args.encoder!r}")
    work = args.output.with_name(args.output.name + ".partial")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with ProcessLock(args.output, file=True), Progress(*columns) as progress:
        work.mkdir(exist_ok=True)
        builder = Builder(args, work, progress)
        return builder.bm25() if args.index == "bm25" else builder.dense(encoder)


class Builder:
    """One build: its options, the folder it works in, and its progress bars."""

    def __init__(self, args: Args, work: Path, progress: Progress) -> None:
        self.args = args
        self.work = work
        self.progress = progress

    def bm25(self) -> bool:
        """Build a BM25 index."""
        path, survey = self._corpus()
        if not self._agreed(plan_bm25(survey.characters, survey.passages)):
            return False
        with closing(DiskCorpus(path, offsets=self.work / "offsets.npy")) as corpus:
            BM25Retriever(corpus, **asdict(self.args.bm25)).save(self.work / "bm25")
        os.replace(self.work / "bm25", self.args.output)
        shutil.rmtree(self.work)
        return True

    def dense(self, encoder: Encoder | None) -> bool:
        """Encode the remaining passages, build the index, measure recall, write the manifest, rename the folder."""
        args = self.args
        path, survey = self._corpus()
        opened = (
            open_encoder(
                args.encoder,
                query_prefix=args.query_prefix,
                passage_prefix=args.passage_prefix,
                max_length=args.max_length,
                dtype=args.dtype,
                batch_size=args.batch_size,
            )
            if encoder is None
            else None
        )
        used = encoder or opened
        assert used is not None
        try:
            engine_of(args.index).check(args.index, used.dimension)
            with closing(DiskCorpus(path, offsets=self.work / "offsets.npy")) as corpus:
                return self._dense(corpus, survey, used)
        finally:
            close_encoder(opened)

    def _dense(self, corpus: DiskCorpus, survey: Survey, encoder: Encoder) -> bool:
        args = self.args
        settings = {"corpus": survey.hash, "encoder": encoder.fingerprint(), "shard_size": args.shard_size}
        if args.adopt is not None:
            return self._adopt(args.adopt, corpus, survey, encoder)
        own = args.vectors is None  # this build encodes the vectors
        folder = self.work / "vectors" if args.vectors is None else kept_vectors(args.vectors, survey.hash, encoder)
        done = encoded(folder, settings, survey.passages) if own else survey.passages
        sample = [corpus[int(i)] for i in np.linspace(0, len(corpus) - 1, min(64, len(corpus)))]
        if not self._agreed(plan_dense(len(corpus), encoder, args.index, sample, encoded=done)):
            return False
        quality: dict[str, float] = {}
        if own:
            encode_shards(corpus, encoder, folder, settings, self._bar("encoding passages", len(corpus)))
        shards = open_shards(folder, len(corpus))
        index = VectorIndex.build(
            args.index, shards, parameters=args.parameters, progress=self._bar("indexing vectors", len(corpus))
        )
        index.save(self.work / "index")
        if not is_exact(args.index):
            queries, bar = min(args.recall_queries, len(corpus)), self._bar("exact search", len(corpus))
            quality = title_recall(index, shards, corpus, encoder, queries, bar)
            self.progress.console.print(f"compared with exact search, {queries} titles: {quality}")
        self._finish(corpus, survey, encoder, index, quality)
        return True

    def _corpus(self) -> tuple[Path, Survey]:
        """Check the corpus. Returns a file with random access to its passages: the corpus itself if it is one."""
        path, copy = self.args.corpus, self.work / "corpus.jsonl"
        plain = has_random_access(path)
        survey = self._survey(None if plain else copy)
        if plain and survey.empty:
            self._survey(copy)
        return (path if plain and not survey.empty else copy), survey

    def _survey(self, copy: Path | None) -> Survey:
        """Check every row of the corpus."""
        task = self.progress.add_task("reading the corpus", total=None)
        survey = survey_corpus(self.args.corpus, copy=copy, progress=lambda n: self.progress.update(task, completed=n))
        self.progress.update(task, total=survey.passages, completed=survey.passages)
        left_out = f"; {survey.empty} without title and text are left out" if survey.empty else ""
        self.progress.console.print(
            f"{self.args.corpus}: {survey.recognised}; {survey.passages} passages, "
            f"{survey.characters / 1e6:.1f} million characters{left_out}",
            soft_wrap=True,
        )
        return survey

    def _agreed(self, plan: Plan) -> bool:
        """Print the estimate and raise `WontFitError` if it won't fit; False if only the estimate is requested."""
        for line in plan.lines(self.args.output):
            self.progress.console.print(line)
        if not self.args.estimate_only and not self.args.force:
            plan.check(self.args.output)
        return not self.args.estimate_only

    def _adopt(self, path: Path, corpus: DiskCorpus, survey: Survey, encoder: Encoder) -> bool:
        """Take an existing index file into the folder."""
        args = self.args
        if args.estimate_only:
            self.progress.console.print(f"{path}: nothing is built; a few hundred passages are encoded to check it")
            return False
        index, quality = adopt(
            path,
            self.work / "index",
            args.index,
            args.parameters,
            corpus,
            encoder,
            args.adopt_sha256,
            lambda line: self.progress.console.print(line, soft_wrap=True, markup=False),
        )
        self._finish(corpus, survey, encoder, index, quality)
        return True

    def _finish(
        self, corpus: DiskCorpus, survey: Survey, encoder: Encoder, index: VectorIndex, quality: Mapping[str, Any]
    ) -> None:
        """Write the manifest, then rename the folder to its final name."""
        args, state = self.args, corpus.path.stat()
        inside = corpus.path.parent == self.work
        manifest = {
            "corpus": {
                "path": corpus.path.name if inside else str(corpus.path.resolve()),
                "passages": survey.passages,
                "hash": survey.hash,
                "bytes": state.st_size,
                "modified_ns": state.st_mtime_ns,
            },
            "encoder": {"name": getattr(encoder, "name", ""), "fingerprint": encoder.fingerprint()},
            "index": {
                "spec": index.spec,
                "parameters": index.parameters,
                "dimension": index.dimension,
                "bytes": (self.work / "index").stat().st_size,
                **quality,
            },
        }
        if not args.keep_vectors:
            shutil.rmtree(self.work / "vectors", ignore_errors=True)
        write_manifest(self.work, "dense", manifest)
        os.replace(self.work, args.output)

    def _bar(self, description: str, total: int) -> Callable[[int], None]:
        """A progress bar, as a function of the number of completed items."""
        task = self.progress.add_task(description, total=total)
        return lambda done: self.progress.update(task, completed=done)


def main(args: Args) -> None:
    """Build the index and print its location."""
    let_waiting_threads_sleep()
    show_log_lines()
    if build(args):
        print(f"{args.output}: ready; search it with --corpus {args.output}")


def command() -> None:
    """Build an index from the command line."""
    with ends_in_one_line(OSError, interrupted=INTERRUPTED):
        main(tyro.cli(Args, description=__doc__))


if __name__ == "__main__":
    command()
