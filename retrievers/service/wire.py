r"""The wire format between a retrieval service and its clients (Search-R1's): reading and writing.

    POST /retrieve   {"queries": ["q1", "q2"], "topk": 3, "return_scores": true}
    200              {"result": [[{"document": {"id": "7", "contents": "\"Title\"\ntext"}, "score": 0.8}, ...], ...]}

Without `return_scores`, the lists contain bare documents. The readers raise `ValueError`, `RecursionError` or
`OverflowError` on any bytes that are not such a response.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import reprlib
from typing import Any

from retrievers.base import Passage

INDEX_HEADER = "x-retriever-index"  # in our server's responses: `index_mark`
MALFORMED = (ValueError, RecursionError, OverflowError)  # what the readers raise


def is_address(text: str) -> bool:
    """Whether `text` names a service rather than a file."""
    return text.startswith(("http://", "https://"))


def index_mark(fingerprint: dict[str, Any]) -> str:
    """A short hash of a retriever's fingerprint, to distinguish services that would find different passages.

    Without `probe` (of a `RemoteEncoder`): its numbers differ in the last digits from one start to the next.
    """
    return hashlib.sha256(json.dumps(_without_probe(fingerprint), sort_keys=True).encode()).hexdigest()[:16]


def _without_probe(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_probe(item) for key, item in value.items() if key != "probe"}
    return [_without_probe(item) for item in value] if isinstance(value, list) else value


def unicode(text: str) -> str:
    """The text with a replacement character for each half of a surrogate pair, which UTF-8 can't encode."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def write_passages(passages: list[Passage], scores: bool) -> list[dict[str, Any]]:
    """A result list, with scores or of bare documents."""
    documents = [{"id": p.id, "contents": f'"{p.title}"\n{p.text}'} for p in passages]
    if not scores:
        return documents
    return [{"document": d, "score": p.score} for d, p in zip(documents, passages, strict=True)]


def read_result(content: bytes, queries: int, k: int, verbatim_titles: bool) -> list[list[Passage]]:
    """The passages of each query in a response of /retrieve."""
    result = _result(content)
    if len(result) != queries:
        raise ValueError(f"{len(result)} lists for {queries} queries")
    return [_passages(found, k, verbatim_titles) for found in result]


def read_sample(content: bytes, n: int, verbatim_titles: bool) -> list[Passage]:
    """The passages in a response of /sample, `n` distinct ones."""
    drawn = _passages(_result(content), n, verbatim_titles)
    if len(drawn) != n:
        raise ValueError(f"{len(drawn)} distinct passages where {n} were requested")
    return drawn


def read_health(content: bytes) -> dict[str, Any]:
    """`passages` and `fingerprint` of a response of /health; empty if it is not from a server like ours."""
    try:
        health = json.loads(content)
    except MALFORMED:
        return {}
    if not isinstance(health, dict) or type(health.get("passages")) is not int or health["passages"] < 1:
        return {}
    return health


def _result(content: bytes) -> list[Any]:
    answer = json.loads(content)
    result = answer.get("result") if isinstance(answer, dict) else None
    if not isinstance(result, list):
        raise ValueError('it has no list "result"')
    return result


def _passages(found: Any, k: int, verbatim_titles: bool) -> list[Passage]:
    if not isinstance(found, list):
        raise ValueError(f"a result is {reprlib.repr(found)}, not a list")
    if len(found) > k:
        raise ValueError(f"{len(found)} passages where at most {k} were requested")
    passages = [_passage(item, verbatim_titles) for item in found]
    if any(passage.score < after.score for passage, after in itertools.pairwise(passages)):
        raise ValueError(f"scores {[passage.score for passage in passages[:10]]} increase: the best must come first")
    # An index that finds too few pads with -1, which some services map to their last passage, repeatedly.
    first = {passage.id: passage for passage in reversed(passages)}
    return [passage for passage in passages if first[passage.id] is passage]


def _passage(item: Any, verbatim_titles: bool) -> Passage:
    """A passage of `{"document": {...}, "score": 0.8}` or of a bare `{"id": ..., "contents": ...}`."""
    if not isinstance(item, dict):
        raise ValueError(f"a passage is {reprlib.repr(item)}, not an object")
    document, score = (item["document"], item.get("score")) if "document" in item else (item, 0.0)
    if not isinstance(document, dict):
        raise ValueError(f"a document is {reprlib.repr(document)}, not an object")
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
        raise ValueError(f"score {reprlib.repr(score)} is not a finite number")
    contents = unicode(_contents(document))
    id = document.get("id")
    if id is None:
        id = hashlib.sha256(contents.encode()).hexdigest()[:16]
    elif isinstance(id, bool) or not isinstance(id, (str, int)):
        raise ValueError(f"id {reprlib.repr(id)} is neither a string nor an integer")
    return Passage.from_contents(unicode(str(id)), contents, float(score), verbatim_title=verbatim_titles)


def _contents(document: dict[str, Any]) -> str:
    """`contents`, else `title` and `text`, as in pyserini's documents."""
    contents, title, text = (document.get(field) for field in ("contents", "title", "text"))
    if isinstance(contents, str):
        return contents
    if contents is None and isinstance(text, str):
        return f"{title if isinstance(title, str) else ''}\n{text}"
    raise ValueError(f"a document with the fields {reprlib.repr(sorted(document))} has no string `contents`")
