"""Dense retrieval: an index of an encoder's vectors of all passages, searched with the vector of the query."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retrievers.base import CorpusError, CorpusRetriever, IndexMismatchError, Passage, RetrievalError
from retrievers.corpus import DiskCorpus, corpus_hash
from retrievers.index.checked import passage_vectors, query_vectors
from retrievers.index.encoder import Encoder, check_encoder
from retrievers.index.manifest import check_index, checked_manifest, index_kind
from retrievers.index.remote_encoder import close_encoder, open_encoder
from retrievers.index.vector_index import VectorIndex


class DenseRetriever(CorpusRetriever):
    """Ranks passages by the inner product of unit vectors.

    Created by `build` (in memory, for small corpora) or `load` (from `python -m retrievers.build_index`). Scores
    of one query may differ in the last digits (1e-6) depending on the other queries in the batch.
    """

    def __init__(self, passages: Sequence[Passage], encoder: Encoder, index: VectorIndex, corpus: str = "") -> None:
        if len(index) != len(passages):
            raise IndexMismatchError(
                f"an index of {len(index)} vectors with a corpus of {len(passages)} passages; build the index again"
            )
        if index.dimension != encoder.dimension:
            raise IndexMismatchError(
                f"an index of {index.dimension} dimensions with an encoder of {encoder.dimension}: "
                "use the encoder that the index was built with"
            )
        self.passages = passages
        self.encoder = encoder
        self.index = index
        self.corpus = corpus or corpus_hash(passages)
        self._opened_encoder: Encoder | None = None  # by `load`, to be closed with this retriever

    @classmethod
    def build(
        cls, passages: Sequence[Passage], encoder: Encoder, index: str = "Flat", parameters: str = ""
    ) -> DenseRetriever:
        """Encode and index passages in memory; `index` and `parameters` as in `VectorIndex`."""
        if not passages:
            raise CorpusError("no passages: a dense index needs at least one")
        vectors = passage_vectors(encoder, passages)
        return cls(passages, encoder, VectorIndex.build(index, [vectors], parameters=parameters))

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        passages: Sequence[Passage] | None = None,
        encoder: Encoder | None = None,
        parameters: str = "",
        mmap: bool = True,
    ) -> DenseRetriever:
        """Open an index folder; neither vectors nor passages are read into memory with `mmap`.

        Args:
            folder: a folder written by `build_index`.
            passages: the corpus, if it is in memory already; default: the file that the index was built from.
            encoder: the model, if it is loaded already or has moved; default: loaded by its recorded name.
            parameters: search parameters (`VectorIndex`); "" for those that recall was measured with (the manifest's).

        Raises `IndexMismatchError` if corpus or encoder are not those of the manifest.
        """
        folder = Path(folder)
        manifest = checked_manifest(folder)
        check_index(folder, manifest, "index")
        corpus = manifest["corpus"]
        if passages is None:
            passages = _open_corpus(folder, corpus)
        elif corpus_hash(passages) != corpus["hash"]:
            raise IndexMismatchError(
                f"{folder}: built from another corpus ({corpus['passages']} passages, hash {corpus['hash'][:12]}) than "
                f"the one given ({len(passages)} passages); pass that corpus, or build the index again"
            )
        built = manifest["encoder"]
        opened = _recorded_encoder(folder, built) if encoder is None else None
        used = encoder or opened
        assert used is not None
        try:
            check_encoder(used.fingerprint(), built["fingerprint"], str(folder))
            index = VectorIndex.load(
                folder / "index",
                manifest["index"]["spec"],
                used.dimension,
                parameters or manifest["index"]["parameters"],
                mmap=mmap,
            )
            self = cls(passages, used, index, corpus["hash"])
        except BaseException:
            close_encoder(opened)
            raise
        self._opened_encoder = opened
        return self

    @staticmethod
    def opens(source: str) -> bool:
        """Whether `open` accepts `source`: an index folder of this kind."""
        return index_kind(source) == "dense"

    @classmethod
    def open(cls, source: str, corpus: str, passages: Sequence[Passage] | None) -> DenseRetriever:
        """For `open_retriever`."""
        return cls.load(source, passages=passages)

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """See `Retriever`. A query without a token that the model knows (a vector of zeros) finds nothing.

        Raises `RetrievalError`, with the results of the others, for a query whose vector is not finite, as when a
        model overflows in float16.
        """
        self.check(queries, k)
        asked = [i for i, query in enumerate(queries) if query.strip()]
        found: list[list[Passage] | None] = [[] for _ in queries]
        if not asked:
            return [[] for _ in queries]
        vectors, usable, unusable = query_vectors(self.encoder, [queries[i] for i in asked])
        searched = [i for i, searchable in zip(asked, usable, strict=True) if searchable]
        if searched:
            for i, scores, rows in zip(searched, *self.index.search(vectors[usable], k), strict=True):
                found[i] = [
                    self.passages[int(row)].with_score(float(s))
                    for row, s in zip(rows, scores, strict=True)
                    if row >= 0
                ]
        if unusable:
            for n in unusable:
                found[asked[n]] = None
            raise RetrievalError(
                f"{len(unusable)} of {len(queries)} queries have no vector, first {unusable[min(unusable)]}", found
            )
        return [passages for passages in found if passages is not None]

    def fingerprint(self) -> dict[str, Any]:
        return {
            "engine": "dense",
            "encoder": self.encoder.fingerprint(),
            "index": self.index.spec,
            "parameters": self.index.parameters,
            "passages": len(self),
            "corpus": self.corpus,
        }

    def close(self) -> None:
        if isinstance(self.passages, DiskCorpus):
            self.passages.close()
        close_encoder(self._opened_encoder)


def _recorded_encoder(folder: Path, built: dict[str, Any]) -> Encoder:
    """The encoder of a manifest, with the prefixes and the length that its vectors were made with."""
    settings = built["fingerprint"]
    recorded = {key: settings[key] for key in ("query_prefix", "passage_prefix", "max_length") if key in settings}
    if len(recorded) < 3:
        raise IndexMismatchError(
            f"{folder}: built with an encoder that its manifest can't open again ({settings.get('model')!r}); pass it "
            "as DenseRetriever.load(folder, encoder=...)"
        )
    return open_encoder(built["name"], **recorded)


def _open_corpus(folder: Path, recorded: dict[str, Any]) -> DiskCorpus:
    """Open the corpus of a manifest. A file modified since the build is hashed and compared."""
    path = folder / recorded["path"]  # an absolute path stays as it is
    if not path.is_file():
        raise IndexMismatchError(f"{folder}: its corpus {path} does not exist; restore it, or build the index again")
    state = path.stat()
    corpus = DiskCorpus(path, offsets=folder / "offsets.npy")
    same = state.st_size == recorded["bytes"] and len(corpus) == recorded["passages"]
    if not same or (state.st_mtime_ns != recorded["modified_ns"] and corpus_hash(corpus) != recorded["hash"]):
        corpus.close()
        raise IndexMismatchError(
            f"{folder}: {path} has changed since the index was built from it "
            f"({recorded['passages']} passages, {recorded['bytes']} bytes then); build the index again"
        )
    return corpus
