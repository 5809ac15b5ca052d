"""BM25 over the bm25s library: in memory, or saved to a folder and memory-mapped from it."""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retrievers.analysis import ENGLISH, NONE, Analyzer
from retrievers.base import CorpusError, CorpusRetriever, IndexMismatchError, Passage, RetrieverError
from retrievers.corpus import DiskCorpus, corpus_hash, load_corpus, write_corpus
from retrievers.formats.folders import has_parts, is_saved_dataset
from retrievers.index.manifest import check_index, index_kind, read_manifest, write_manifest
from retrievers.index.plan import Plan
from retrievers.reading import MissingPackageError, one_line

# Measured on Wikipedia passages: bytes of memory while building, and on disk, per character of text.
MEMORY, DISK = 12.0, 2.6
CHARACTERS_PER_SECOND = 3e6

ANALYSIS = 3  # version of the rules in `retrievers.analysis`, which must be the same for an index and its queries


class BM25Error(RetrieverError, ValueError):
    """A setting of BM25 outside its limits."""


@dataclass(frozen=True)
class BM25Settings:
    """Settings of BM25. The defaults found most supporting pages of five benchmarks (docs/retrieval.md)."""

    k1: float = 0.9
    """Saturation of the frequency of a term; at least 0."""
    b: float = 0.4
    """Normalisation by the length of a passage, from 0 (none) to 1."""
    title_weight: int = 3
    """How many times the words of a title count; at least 1."""
    stemmer: str = NONE
    """A Snowball algorithm of PyStemmer (english, german, ...), or none."""
    stopwords: str = ENGLISH
    """Words left out of questions: english or none."""
    min_length: int = 1
    """Characters of the shortest word that is indexed and searched; 2 is the rule of bm25s and scikit-learn."""

    def __post_init__(self) -> None:
        for name, types, least, most, rule in (
            ("k1", (int, float), 0, sys.float_info.max, "a number of at least 0"),
            ("b", (int, float), 0, 1, "a number from 0 to 1"),
            ("title_weight", int, 1, math.inf, "a whole number of at least 1"),
            ("min_length", int, 1, math.inf, "a whole number of at least 1"),
        ):
            value = getattr(self, name)
            if isinstance(value, np.generic):
                value = value.item()
                object.__setattr__(self, name, value)
            if isinstance(value, bool) or not isinstance(value, types) or not least <= value <= most:
                raise BM25Error(f"{name}={value!r}: must be {rule}")

    def analyzer(self) -> Analyzer:
        """What turns passages and queries into terms."""
        return Analyzer(self.stemmer, self.stopwords, self.min_length)


class BM25Retriever(CorpusRetriever):
    """Lexical search over title and text with Lucene's BM25. How texts become terms: `retrievers.analysis`.

    The options after `passages` are those of `BM25Settings`.

    Args:
        passages: the corpus, at least one passage with distinct ids.
    """

    def __init__(
        self,
        passages: Sequence[Passage],
        *,
        k1: float = BM25Settings.k1,
        b: float = BM25Settings.b,
        title_weight: int = BM25Settings.title_weight,
        stemmer: str = BM25Settings.stemmer,
        stopwords: str = BM25Settings.stopwords,
        min_length: int = BM25Settings.min_length,
    ) -> None:
        if not passages:
            raise CorpusError("no passages: a BM25 index needs at least one")
        self.passages: Sequence[Passage] = passages
        self.settings = BM25Settings(k1, b, title_weight, stemmer, stopwords, min_length)
        self.analyzer = self.settings.analyzer()
        self._corpus_hash: str | None = None
        weight, find, vocabulary = self.settings.title_weight, self.analyzer.words, dict[str, int]()
        documents = [
            [vocabulary.setdefault(word, len(vocabulary)) for word in find(p.title) * weight + find(p.text)]
            for p in passages
        ]
        if not vocabulary:
            raise CorpusError("no word in any passage: BM25 has nothing to index; check the corpus")
        stems: dict[str, int] = {}
        table = [stems.setdefault(stem, len(stems)) for stem in self.analyzer.stems(list(vocabulary))]
        if len(stems) < len(vocabulary):
            documents = [[table[word] for word in document] for document in documents]
        import bm25s  # slow where scipy is installed: it imports it

        self.index = bm25s.BM25(k1=self.settings.k1, b=self.settings.b)
        self.index.index((documents, stems), show_progress=False)
        self._set_vocabulary()

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.check(queries, k)
        terms = map(self.analyzer.query, queries)
        return [self._best([self._vocabulary[t] for t in query if t in self._vocabulary], k) for query in terms]

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
            "analysis": ANALYSIS,
            **asdict(self.settings),
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
            "analysis": ANALYSIS,
            "settings": asdict(self.settings),
        }
        write_manifest(partial, "bm25", manifest)
        os.replace(partial, folder)

    @staticmethod
    def opens(source: str) -> bool:
        """Whether `open` accepts `source`: the word `bm25`, an index folder of this kind, a corpus file or folder."""
        return source == "bm25" or _is_corpus(source) or index_kind(source) == "bm25"

    @classmethod
    def open(cls, source: str, corpus: str, passages: Sequence[Passage] | None) -> BM25Retriever:
        """For `open_retriever`. The word `bm25` indexes `passages`, or loads the index folder `corpus`."""
        if source == "bm25":
            return cls.load(corpus) if passages is None else cls(passages)
        if _is_corpus(source):
            return cls(load_corpus(source))
        if passages is not None and read_manifest(source, "bm25").get("corpus_hash") != corpus_hash(passages):
            raise IndexMismatchError(
                f"{source}: built from another corpus than {corpus}; give {source} as the corpus, or build an index of "
                f"{corpus}"
            )
        return cls.load(source)

    @classmethod
    def load(cls, folder: str | Path, *, mmap: bool = True) -> BM25Retriever:
        """Open a folder written by `save`. With `mmap`, neither index nor corpus is read into memory."""
        folder = Path(folder)
        manifest = read_manifest(folder, "bm25")
        for key, kind in (("passages", int), ("corpus_hash", str), ("analysis", int), ("settings", dict)):
            if not isinstance(manifest.get(key), kind):
                raise IndexMismatchError(f"{folder}: its manifest has no {key}; build the index again")
        if manifest["analysis"] != ANALYSIS:
            raise IndexMismatchError(
                f"{folder}: its words were found by version {manifest['analysis']} of the analysis, not {ANALYSIS}; "
                "build the index again"
            )
        import bm25s

        check_index(folder, manifest, "bm25s", "corpus.jsonl")
        self = cls.__new__(cls)
        self.passages = DiskCorpus(folder / "corpus.jsonl")
        if len(self.passages) != manifest["passages"]:
            self.passages.close()
            raise IndexMismatchError(
                f"{folder}: corpus.jsonl has {len(self.passages)} passages, "
                f"manifest.json records {manifest['passages']}; build the index again"
            )
        self._corpus_hash = manifest["corpus_hash"]
        try:
            self.index = bm25s.BM25.load(folder / "bm25s", mmap=mmap, show_progress=False)
            self.settings = BM25Settings(**manifest["settings"])
            self.analyzer = self.settings.analyzer()
        except MissingPackageError:
            self.passages.close()
            raise
        except Exception as error:  # numpy and json raise different errors for files of another form
            self.passages.close()
            raise IndexMismatchError(
                f"{folder}: bm25s can't be opened ({type(error).__name__}: {one_line(error)}); build the index again"
            ) from error
        if (self.index.k1, self.index.b) != (self.settings.k1, self.settings.b):
            self.passages.close()
            raise IndexMismatchError(
                f"{folder}: its scores were made with k1={self.index.k1} and b={self.index.b}, manifest.json records "
                f"k1={self.settings.k1} and b={self.settings.b}; correct the manifest, or build the index again"
            )
        self._set_vocabulary()
        return self

    def _set_vocabulary(self) -> None:
        self._vocabulary: dict[str, int] = self.index.vocab_dict
        self.index.unique_token_ids_set = set()  # used by bm25s only for queries in words; large


def _is_corpus(source: str) -> bool:
    """Whether a path is a corpus file, or a folder with the parts of one and no index."""
    path = Path(source)
    if not path.is_dir():
        return path.is_file()
    indexed = any((path / name).exists() for name in ("manifest.json", "bm25s", "index", "vectors"))
    return not indexed and (is_saved_dataset(path) or has_parts(path))


def plan_bm25(characters: int, passages: int) -> Plan:
    """Estimate the cost of an index of this much text."""
    return Plan(
        seconds=characters / CHARACTERS_PER_SECOND,
        memory=MEMORY * characters + 500.0 * passages,
        disk=DISK * characters,
        loaded=DISK * characters,
        advice="use a larger machine or a smaller corpus",
    )
