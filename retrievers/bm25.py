"""BM25 over the bm25s library: in memory, or saved to a folder and memory-mapped from it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bm25s
import numpy as np

from retrievers.base import CorpusError, CorpusRetriever, IndexMismatchError, Passage
from retrievers.corpus import DiskCorpus, corpus_hash, load_corpus, write_corpus
from retrievers.index.manifest import check_index, index_kind, read_manifest, write_manifest
from retrievers.index.plan import Plan
from retrievers.reading import one_line

# Measured on Wikipedia passages: bytes of memory while building, and on disk, per character of text.
MEMORY, DISK = 12.0, 2.6
CHARACTERS_PER_SECOND = 3e6


class BM25Retriever(CorpusRetriever):
    """Lexical search over title and text (Lucene's BM25, no stemming).

    Args:
        passages: the corpus, at least one passage with distinct ids.
        k1, b: term saturation and length normalisation; Anserini's Wikipedia values by default.
        stopwords: "en" to drop English function words from passages and queries, None to keep all.
    """

    def __init__(
        self, passages: Sequence[Passage], *, k1: float = 0.9, b: float = 0.4, stopwords: str | None = None
    ) -> None:
        if not passages:
            raise CorpusError("no passages: a BM25 index needs at least one")
        self.passages: Sequence[Passage] = passages
        self.stopwords = stopwords
        self._corpus_hash: str | None = None
        tokens = self._tokenize([f"{p.title} {p.text}" for p in passages])
        if not any(tokens.vocab):
            raise CorpusError("no word of two letters in any passage: BM25 has nothing to index; check the corpus")
        self.index = bm25s.BM25(k1=k1, b=b)
        self.index.index(tokens, show_progress=False)
        self._vocabulary: dict[str, int] = self.index.vocab_dict

    def _tokenize(self, texts: list[str]) -> bm25s.tokenization.Tokenized:
        return bm25s.tokenize(texts, stopwords=self.stopwords, show_progress=False, allow_empty=True)

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.check(queries, k)
        if not queries:
            return []
        words = bm25s.tokenize(
            list(queries), stopwords=self.stopwords, return_ids=False, show_progress=False, allow_empty=True
        )
        return [self._best([self._vocabulary[w] for w in query if w in self._vocabulary], k) for query in words]

    def _best(self, word_ids: list[int], k: int) -> list[Passage]:
        if not word_ids:
            return []  # no word in common with the corpus: no passages instead of arbitrary ones
        scores = self.index.get_scores_from_ids(word_ids)
        k = min(k, len(scores))
        # Ties are broken by position, also at rank k, so that a result never depends on k or the partition.
        best = np.flatnonzero(scores >= max(np.partition(scores, -k)[-k], np.finfo(scores.dtype).tiny))
        best = best[np.lexsort((best, -scores[best]))][:k]
        return [self.passages[int(i)].with_score(float(scores[i])) for i in best]

    def fingerprint(self) -> dict[str, Any]:
        if self._corpus_hash is None:
            self._corpus_hash = corpus_hash(self.passages)
        return {
            "engine": "bm25",
            "k1": self.index.k1,
            "b": self.index.b,
            "stopwords": self.stopwords,
            "passages": len(self),
            "corpus": self._corpus_hash,
        }

    def close(self) -> None:
        if isinstance(self.passages, DiskCorpus):
            self.passages.close()

    def save(self, folder: str | Path) -> None:
        """Write index, corpus and manifest to `folder` atomically."""
        folder = Path(folder)
        if folder.exists():
            raise FileExistsError(f"{folder} exists: remove it or choose another folder")
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        self.index.save(partial / "bm25s", show_progress=False)
        write_corpus(self.passages, partial / "corpus.jsonl")
        manifest = {
            "passages": len(self.passages),
            "corpus_hash": self.fingerprint()["corpus"],
            "stopwords": self.stopwords,
        }
        write_manifest(partial, "bm25", manifest)
        os.replace(partial, folder)

    @staticmethod
    def opens(source: str) -> bool:
        """Whether `open` accepts `source`: the word `bm25`, an index folder of this kind, a corpus file."""
        return source == "bm25" or index_kind(source) == "bm25" or Path(source).is_file()

    @classmethod
    def open(cls, source: str, corpus: str, passages: Sequence[Passage] | None) -> BM25Retriever:
        """For `open_retriever`. The word `bm25` indexes `passages`, or loads the index folder `corpus`."""
        if source == "bm25":
            return cls.load(corpus) if passages is None else cls(passages)
        return cls.load(source) if Path(source).is_dir() else cls(load_corpus(source))

    @classmethod
    def load(cls, folder: str | Path, *, mmap: bool = True) -> BM25Retriever:
        """Open a folder written by `save`. With `mmap`, neither index nor corpus is read into memory."""
        folder = Path(folder)
        manifest = read_manifest(folder, "bm25")
        for key, kind in (("passages", int), ("corpus_hash", str), ("stopwords", str | None)):
            if not isinstance(manifest.get(key), kind):
                raise IndexMismatchError(f"{folder}: its manifest has no {key}; build the index again")
        check_index(folder, manifest, "bm25s", "corpus.jsonl")
        self = cls.__new__(cls)
        self.passages = DiskCorpus(folder / "corpus.jsonl")
        if len(self.passages) != manifest["passages"]:
            self.passages.close()
            raise IndexMismatchError(
                f"{folder}: corpus.jsonl has {len(self.passages)} passages, "
                f"manifest.json records {manifest['passages']}; build the index again"
            )
        self.stopwords = manifest["stopwords"]
        self._corpus_hash = manifest["corpus_hash"]
        try:
            self.index = bm25s.BM25.load(folder / "bm25s", mmap=mmap, show_progress=False)
            self._tokenize(["words"])  # with the stop words of the manifest
        except Exception as error:  # numpy and json raise different errors for files of another form
            self.passages.close()
            raise IndexMismatchError(
                f"{folder}: bm25s can't be opened ({type(error).__name__}: {one_line(error)}); build the index again"
            ) from error
        self._vocabulary = self.index.vocab_dict
        return self


def plan_bm25(characters: int, passages: int) -> Plan:
    """Estimate the cost of an index of this much text."""
    return Plan(
        seconds=characters / CHARACTERS_PER_SECOND,
        memory=MEMORY * characters + 500.0 * passages,
        disk=DISK * characters,
        loaded=DISK * characters,
        advice="use a larger machine or a smaller corpus",
    )
