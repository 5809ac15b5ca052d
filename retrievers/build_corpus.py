"""Make a corpus and question files: `python -m retrievers.build_corpus --inputs FILE ... --output FOLDER`.

Each input is a file of HotpotQA, 2WikiMultiHopQA or MuSiQue as their authors publish it, one of their names
(`hotpotqa`, `2wikimultihopqa`, `musique`: downloaded from the Hugging Face Hub), files of another copy on the Hub
(hf:OWNER/REPO/PATH), or any published corpus: JSON, JSON lines, .tsv or Parquet with `id` and `contents`, or `title`
and `text`. The paragraphs of all inputs become one corpus in which each passage occurs once, beside SOURCES.md.

The split of a file is read from its name, the benchmark from its fields. Where that is not possible, write
NAME=FILE or NAME:SPLIT=FILE, e.g. hotpotqa:dev=sample.json. The output folder appears only when it is complete.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice, product, starmap
from pathlib import Path
from typing import Any

import tyro
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from retrievers.base import CorpusError
from retrievers.corpora import shapes
from retrievers.corpora.inputs import find_inputs
from retrievers.corpora.sources import COVERAGE_NOTE, PAGE, RECORD, coverage_table, write_sources
from retrievers.corpora.writer import CORPUS, SPLITS, CorpusWriter, Coverage, Input, question_file
from retrievers.lock import ProcessLock
from retrievers.passage_rows import corpus_rows
from retrievers.program import ends_in_one_line

_WRITTEN = {CORPUS, PAGE, RECORD, *starmap(question_file, product(shapes.DATASETS, SPLITS))}
_EVERY = 500  # rows between two updates of the progress bar


@dataclass(frozen=True)
class Args:
    """Options of this command."""

    inputs: tuple[str, ...]
    """Files, hotpotqa, 2wikimultihopqa or musique (from the Hub), hf:OWNER/REPO/PATH, NAME=FILE, NAME:SPLIT=FILE."""
    output: Path
    """Folder to write; must not exist, or be empty."""
    limit: int | None = None
    """At most this many rows of each file of questions or passages, from its beginning."""


def build(args: Args) -> dict[tuple[str, str], Coverage]:
    """Make the corpus; returns the coverage of each data set and split.

    Raises `CorpusError`, naming file and row, for input of another shape, and if no question finds its answer. Nothing
    is left of a corpus that was not completed.
    """
    if not args.inputs:
        raise CorpusError("--inputs names nothing; pass files, or hotpotqa, 2wikimultihopqa, musique")
    if args.limit is not None and args.limit < 1:
        raise CorpusError(f"--limit {args.limit}: must be at least 1")
    if args.output.exists() and (not args.output.is_dir() or any(args.output.iterdir())):
        raise CorpusError(f"--output {args.output}: exists and is not an empty folder; choose another one")
    inputs = find_inputs(args.inputs)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with ProcessLock(args.output, file=True), _work(args.output) as work, Progress(*columns) as progress:
        with CorpusWriter(work) as writer:
            _Builder(writer, progress, args.limit).read(inputs)
            coverage = writer.coverage()
        _check(writer, coverage)
        task = progress.add_task("hashes of the inputs", total=None)
        write_sources(work, inputs, coverage, writer.passages, writer.characters)
        progress.remove_task(task)
        for source in inputs:
            progress.console.print(_summary(source), soft_wrap=True, highlight=False, markup=False)
    return coverage


@contextmanager
def _work(output: Path) -> Iterator[Path]:
    """A folder beside `output` that gets its name when the block ends, and is removed if it raises."""
    work = output.with_name(output.name + ".partial")
    if work.exists():  # of a process that was killed
        if not work.is_dir() or not {path.name for path in work.iterdir()} <= _WRITTEN:
            raise CorpusError(f"{work}: in the way, and not written by this command; move it away")
        shutil.rmtree(work)
    work.mkdir()
    try:
        yield work
        os.replace(work, output)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


class _Builder:
    """Reads inputs into a writer."""

    def __init__(self, writer: CorpusWriter, progress: Progress, limit: int | None) -> None:
        self.writer = writer
        self.progress = progress
        self.limit = limit
        self.aliases: dict[str, list[str]] = {}

    def read(self, inputs: list[Input]) -> None:
        """Read all inputs, names of answers first."""
        for source in sorted(inputs, key=lambda source: source.shape != shapes.ALIASES):
            self._read(source)

    def _read(self, source: Input) -> None:
        task = self.progress.add_task(source.path.name, total=None)
        limit = None if source.shape == shapes.ALIASES else self.limit
        for where, row in islice(corpus_rows(source.path), limit):
            source.rows += 1
            row = shapes.plain(row)
            if (shape := shapes.shape_of(row, where)) != source.shape:
                raise CorpusError(f"{where}: a row of another shape ({shape}) than those before it ({source.shape})")
            self._row(row, source, where)
            if source.rows % _EVERY == 0:
                self.progress.update(task, completed=source.rows)
        self.progress.update(task, total=source.rows, completed=source.rows)
        if source.shape != shapes.ALIASES and source.paragraphs == source.empty:
            raise CorpusError(f"{source.path}: none of its {source.rows:,} rows has a paragraph with text")

    def _row(self, row: dict[str, Any], source: Input, where: str) -> None:
        if source.shape == shapes.ALIASES:
            name, others = shapes.read_aliases(row, where)
            self.aliases.setdefault(name, []).extend(others)
            return
        if source.shape == shapes.PASSAGES:
            self.writer.add(shapes.read_passage(row, where).paragraphs, source)
            return
        found = shapes.read_question(row, source.shape, where, self.aliases)
        self.writer.add(found.paragraphs, source)
        source.without_paragraphs += not found.paragraphs
        if found.question is not None:
            self.writer.ask(found.question, found.paragraphs, source, where)
            return
        if found.answerable and source.split != "test":
            raise CorpusError(
                f"{where}: no answer; a row of the {source.split} split needs one (of a file of the test split, "
                f"{source.dataset}:test=FILE, only the paragraphs are used)"
            )
        source.without_answer += 1


def _check(writer: CorpusWriter, coverage: dict[tuple[str, str], Coverage]) -> None:
    """Raise `CorpusError` for a corpus that nothing can be learnt from."""
    if not writer.passages:
        raise CorpusError("the inputs have no passages; pass files with paragraphs, or a corpus")
    span, found = (sum(getattr(c, name) for c in coverage.values()) for name in ("with_span", "answers"))
    if span and not found:
        raise CorpusError(
            f"the answer of none of the {span:,} questions occurs in the paragraphs that came with it; check that "
            "questions and paragraphs belong together, and that the files are complete"
        )


def _summary(source: Input) -> str:
    """What an input gave, in one line."""
    parts = [f"{source.rows:,} rows"]
    for count, words in (
        (source.passages, "new passages"),
        (source.duplicates, "duplicates merged"),
        (source.empty, "empty paragraphs left out"),
        (source.questions, "questions"),
        (source.repeated_questions, "repeated questions merged"),
        (source.without_answer, "rows without an answer: only their paragraphs are used"),
        (source.without_paragraphs, "rows without paragraphs"),
    ):
        if count:
            parts.append(f"{count:,} {words}")
    return f"{source.name}: {', '.join(parts)}"


def main(args: Args) -> None:
    """Make the corpus and print what it covers."""
    coverage = build(args)
    if coverage:
        rows = [{"file": question_file(*key), **asdict(counts)} for key, counts in coverage.items()]
        print("\n".join(coverage_table(rows)))
        print(COVERAGE_NOTE)
    print(f"{args.output}: ready; search it with --corpus {args.output / CORPUS}")


if __name__ == "__main__":
    with ends_in_one_line(OSError, interrupted="interrupted: nothing was written"):
        main(tyro.cli(Args, description=__doc__))
