"""Base classes of all search engines: `Passage`, `Retriever` and the errors that they raise.

    RetrieverError
    ├── CorpusError            an invalid corpus or corpus file
    ├── IndexMismatchError     an index on disk that belongs to another corpus or version
    ├── QueryError             an invalid call (k = 0, k above the corpus size, a query that is not a string)
    └── RetrievalError         the engine failed on a valid call (service down, time-out)

Only `RetrievalError` may be transient, so that a caller can handle it. The others are mistakes to fix.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from retrievers.credentials import masked

# Longer queries are rejected. A policy's queries are shorter: the environment limits the length of an action.
MAX_QUERY_CHARS = 65_536


class RetrieverError(Exception):
    """Base of every error of this package. Credentials in the message are masked.

    `exit_status` is that of a program which the error ends (`program.py`).
    """

    exit_status: ClassVar[int] = 2

    def __init__(self, *args: object) -> None:
        super().__init__(*map(masked, args))


class CorpusError(RetrieverError, ValueError):
    """An invalid corpus; the message names the file, the line and the fix."""


class IndexMismatchError(RetrieverError, ValueError):
    """An index on disk that does not belong to the corpus it is opened with."""


class QueryError(RetrieverError, ValueError):
    """An invalid search call; the message names the value and the rule."""


class RetrievalError(RetrieverError, RuntimeError):
    """The engine failed on a valid search. A policy never sees this as evidence.

    `results`: for a partial failure, one list per query, with None for those that failed; else None.
    """

    exit_status = 1

    def __init__(self, message: str, results: list[list[Passage] | None] | None = None) -> None:
        super().__init__(message)
        self.results = results


@dataclass(frozen=True, slots=True)
class Passage:
    """One retrievable piece of text. `score` is engine-specific (higher is better); 0.0 outside a result."""

    id: str
    title: str
    text: str
    score: float = 0.0

    @staticmethod
    def from_contents(id: str, contents: str, score: float = 0.0, *, verbatim_title: bool = False) -> Passage:
        """Split FlashRAG `contents`: the first line is the title, the rest the text; one line alone is a text.

        Wikipedia dumps in this format put the title in double quotes. They are removed unless
        `verbatim_title`, which Search-R1 parity needs: its documents show the quotes, and one line alone as a title.
        """
        title, newline, text = contents.partition("\n")
        if not newline and not verbatim_title:
            return Passage(id, "", contents, score)
        title = title.removesuffix("\r")
        if not verbatim_title and len(title) >= 2 and title[0] == title[-1] == '"':
            title = title[1:-1]
        return Passage(id, title, text, score)

    def with_score(self, score: float) -> Passage:
        """The same passage as a search result."""
        return Passage(self.id, self.title, self.text, score)


class Retriever(ABC):
    """A search engine over a fixed set of passages. Subclasses implement `search`, `sample`, `__len__`.

    Calls may come from any thread, not only from the one that made the retriever. A rollout runs at most `concurrency`
    searches at the same time; `sample` may be called beside them.
    """

    @property
    def concurrency(self) -> int:
        """How many calls of `search` may run at the same time, each in a thread of its own.

        Worth more than 1 for clients of a service; a search engine in this process has no processors to spare.
        """
        return 1

    @abstractmethod
    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Best passages of each query, best first: `len(queries)` lists of at most `k`.

        A list is shorter than `k`, even empty, if fewer passages match: it is never padded.
        Raises `QueryError` on an invalid call and `RetrievalError` when the engine fails.
        """

    @abstractmethod
    def sample(self, n: int, rng: np.random.Generator) -> list[Passage]:
        """`n` distinct passages, drawn uniformly at random with `rng` only."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of passages."""

    def all_passages(self) -> Sequence[Passage] | None:
        """Every passage, in the order of the corpus; None if this search engine can't list them, as a service can't."""
        return None

    def fingerprint(self) -> dict[str, Any]:
        """The settings that determine the results, as JSON values: results are comparable only if these are equal.

        Has at least `engine` and `passages`; `corpus` is `corpus_hash` if it is known.
        """
        return {"engine": type(self).__name__, "passages": len(self)}

    def close(self) -> None:  # noqa: B027 (most have nothing to close)
        """Close files and connections; the retriever can't be used afterwards."""

    def check(self, queries: Sequence[str], k: int) -> None:
        """Raise `QueryError` unless `search(queries, k)` is a valid call."""
        if isinstance(queries, str):
            raise QueryError(f"queries is the string {queries[:60]!r}: pass a list of strings, even for one query")
        for query in queries:
            if not isinstance(query, str):
                raise QueryError(f"query {query!r} is a {type(query).__name__}: every query must be a string")
            if len(query) > MAX_QUERY_CHARS:
                raise QueryError(
                    f"query {query[:60]!r}... has {len(query)} characters: at most {MAX_QUERY_CHARS}; shorten it"
                )
        self.check_count(k, "k")

    def check_count(self, count: int, name: str) -> None:
        """Raise `QueryError` unless 1 <= count <= number of passages."""
        if not 1 <= count <= len(self):
            raise QueryError(
                f"{name}={count} with a corpus of {len(self)} passages: "
                f"{name} must be from 1 to {len(self)}; lower {name} or use a larger corpus"
            )


def search_in_part(
    retriever: Retriever, queries: Sequence[str], k: int
) -> tuple[list[list[Passage] | None], RetrievalError | None]:
    """The results of a search, None for the queries that failed, and the error if it failed for some of them.

    For retrievers that combine or reorder the results of others. Raises `RetrievalError` if it failed for all.
    """
    try:
        return list(retriever.search(queries, k)), None
    except RetrievalError as error:
        if error.results is None:
            raise
        return list(error.results), error


class CorpusRetriever(Retriever):
    """A search engine that holds its passages, in memory or on disk. Subclasses set `passages` and implement `search`;
    `sample` and `len()` follow from them.
    """

    passages: Sequence[Passage]

    def sample(self, n: int, rng: np.random.Generator) -> list[Passage]:
        self.check_count(n, "n")
        return [self.passages[int(i)] for i in rng.choice(len(self.passages), n, replace=False)]

    def all_passages(self) -> Sequence[Passage] | None:
        return self.passages

    def __len__(self) -> int:
        return len(self.passages)


class WrappingRetriever(Retriever):
    """Modifies the searches of another retriever and shares its passages and limits. Subclasses implement `search`."""

    retriever: Retriever

    def sample(self, n: int, rng: np.random.Generator) -> list[Passage]:
        return self.retriever.sample(n, rng)

    def all_passages(self) -> Sequence[Passage] | None:
        return self.retriever.all_passages()

    def check_count(self, count: int, name: str) -> None:
        """See `Retriever`; delegates to the wrapped retriever."""
        self.retriever.check_count(count, name)

    def close(self) -> None:
        self.retriever.close()

    def __len__(self) -> int:
        return len(self.retriever)
