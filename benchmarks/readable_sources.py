"""The corpora, questions and indexes of `readable.py`."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from igsearch_env.questions import load_questions
from retrievers import BM25Retriever, Passage, build_corpus
from retrievers.build_index import Args, build
from retrievers.corpus import DiskCorpus, load_corpus, survey_corpus, write_corpus
from retrievers.dense import DenseRetriever
from retrievers.random_streams import random_stream
from retrievers.replay import RecordingRetriever, ReplayRetriever

PASSAGES = [Passage(str(i), f"Title {i}", f"Passage {i} about word{i} and word{i % 7}.") for i in range(40)]
QUESTIONS = [
    {"id": f"test_{i}", "question": f"What is {i}?", "golden_answers": [f"{i}"], "facts": {"n": i}} for i in range(8)
]


class _Encoder:
    """Fixed random vectors of texts."""

    dimension = 16

    def encode_queries(self, queries: Sequence[str]) -> Any:
        rows = [random_stream("vectors of words", 0, query).standard_normal(16) for query in queries]
        vectors = np.array(rows, np.float32).reshape(len(queries), 16)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def encode_passages(self, passages: Sequence[Passage]) -> Any:
        return self.encode_queries([p.text for p in passages])

    def fingerprint(self) -> dict[str, Any]:
        return {"model": "random", "dimension": 16}


def _make_corpus(folder: Path, name: str = "corpus.jsonl") -> None:
    write_corpus(PASSAGES, folder / "plain")
    content = (folder / "plain").read_bytes()
    (folder / "plain").unlink()
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)


def _read_corpus(folder: Path, name: str = "corpus.jsonl") -> None:
    load_corpus(folder / name)
    survey_corpus(folder / name)


def _make_disk_corpus(folder: Path) -> None:
    _make_corpus(folder)
    DiskCorpus(folder / "corpus.jsonl").close()


def _read_disk_corpus(folder: Path) -> None:
    corpus = DiskCorpus(folder / "corpus.jsonl")
    try:
        list(corpus)
    finally:
        corpus.close()


def _make_questions(folder: Path) -> None:
    (folder / "nq.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))


def _make_parquet(folder: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(QUESTIONS), folder / "nq.parquet")


def _make_saved(folder: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_list(QUESTIONS).save_to_disk(str(folder / "nq"))


def _read_questions(folder: Path, name: str = "nq.jsonl") -> None:
    for question in load_questions(folder / name):
        json.dumps([question.id, question.text, dict(question.metadata)]).encode()


def _published(parquet: bool) -> list[dict[str, Any]]:
    """Questions in HotpotQA's shape, as lists of pairs or as the Hub has them."""
    rows = []
    for i in range(4):
        titles, texts = [f"Title {i}", f"Title {i + 1}"], [["It is.", f" It is {i}."], ["Other."]]
        facts = [[titles[0], 1], [titles[1], 0]]
        context: Any = list(zip(titles, texts, strict=True))
        if parquet:
            context = {"title": titles, "sentences": texts}
        row = {"_id": f"q{i}", "question": f"What is {i}?", "answer": f"{i}", "level": "hard", "type": "bridge"}
        rows.append({**row, "context": context, **({} if parquet else {"supporting_facts": facts})})
    return rows


def _make_published(folder: Path) -> None:
    steps = [{"paragraph_support_idx": 1, "answer": "x"}, {"paragraph_support_idx": 0, "answer": "It"}]
    paragraphs = [{"idx": i, "title": f"Title {i}", "paragraph_text": "It is.", "is_supporting": True} for i in (0, 1)]
    row = {"question": "What?", "answer": "It", "answer_aliases": ["Is"], "answerable": True}
    musique = [{"id": f"m{i}", "paragraphs": paragraphs, "question_decomposition": steps, **row} for i in range(4)]
    (folder / "hotpot_dev.json").write_text(json.dumps(_published(False)))
    lines = "".join(json.dumps(row) + "\n" for row in musique)
    (folder / "musique_dev.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "table.tsv").write_text('id\ttext\ttitle\n1\t"A ""town""."\tKarith\n2\tA sea.\tLurm\n')


def _make_published_parquet(folder: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(_published(True)), folder / "hotpot-dev.parquet")


def _read_published(folder: Path) -> None:
    inputs = tuple(str(path) for path in sorted(folder.iterdir()))
    with contextlib.redirect_stdout(io.StringIO()):
        build_corpus.build(build_corpus.Args(inputs, folder / "made"))
    load_corpus(folder / "made" / "corpus.jsonl")
    for path in (folder / "made").glob("*.dev.jsonl"):
        _read_questions(folder / "made", path.name)


def _draws() -> np.random.Generator:
    return random_stream("recorded samples", 0)


def _make_replay(folder: Path) -> None:
    recorder = RecordingRetriever(BM25Retriever(PASSAGES), folder / "record.jsonl", "corpus")
    recorder.search(["word1", "word2"], 3)
    recorder.sample(2, _draws())
    recorder.close()


def _read_replay(folder: Path) -> None:
    replay = ReplayRetriever(folder / "record.jsonl")
    replay.search(["word1", "word2"], 3)
    replay.sample(2, _draws())


def _make_index(folder: Path, kind: str) -> None:
    write_corpus(PASSAGES, folder / "corpus.jsonl")
    with contextlib.redirect_stdout(io.StringIO()):
        build(Args(folder / "corpus.jsonl", folder / "index", index=kind), _Encoder())


def _read_index(folder: Path, kind: str) -> None:
    if kind == "bm25":
        bm25 = BM25Retriever.load(folder / "index")
        bm25.search(["word1 passage"], 5)
        bm25.close()
    else:  # its manifest names the corpus of the good folder, whose text is the same
        dense = DenseRetriever.load(folder / "index", encoder=_Encoder(), passages=PASSAGES)
        dense.search(["word1 passage"], 5)


SOURCES: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any]]] = {
    "corpus": (_make_corpus, _read_corpus),
    "corpus.gz": (partial(_make_corpus, name="c.jsonl.gz"), partial(_read_corpus, name="c.jsonl.gz")),
    "corpus on disk": (_make_disk_corpus, _read_disk_corpus),
    "questions": (_make_questions, _read_questions),
    "questions in parquet": (_make_parquet, partial(_read_questions, name="nq.parquet")),
    "questions in a saved data set": (_make_saved, partial(_read_questions, name="nq")),
    "published files": (_make_published, _read_published),
    "published files in parquet": (_make_published_parquet, _read_published),
    "record of searches": (_make_replay, _read_replay),
    **{
        f"index {kind}": (partial(_make_index, kind=kind), partial(_read_index, kind=kind))
        for kind in ("bm25", "Flat", "hnswlib", "IVF2,SQ8")
    },
}
