"""Score requests as token ids: trunks, which are read once, and the branches that continue them.

    trunk    prompt  query_1  evidence_1  query_2  evidence_2          read once
    branch                    random_11 <answer> a*                     continues the trunk after query_1
    branch                              <answer> a*                     continues the trunk after evidence_1
    ...

Every scorer with a tokenizer reads the same ids (`plan`), whether the model is in this process or behind an address.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

from igsearch_env.errors import ConfigurationError
from igsearch_env.scorers import WHOLE_TOKENS, ScoreRequest, Segment

Ids = tuple[int, ...]


class SegmentTokenizer(Protocol):
    """What a scorer needs of a tokenizer."""

    def encode(self, text: str) -> Ids:
        """Ids of text that follows other text, in which names of special tokens are plain text."""
        ...

    def encode_segment(self, segment: Segment, before: Ids) -> Ids:
        """Ids of a segment without ids, by its role, that follows the segment `before`."""
        ...

    def encode_whole(self, text: str) -> Ids:
        """Ids of a whole text, in which names of special tokens count as those."""
        ...

    def decode_whole(self, ids: Sequence[int]) -> str:
        """Text of the ids of a whole episode, special tokens included."""
        ...


@dataclass(frozen=True, slots=True)
class Branch:
    """`ids` continue the first `shared` tokens of trunk number `trunk`; the last `answer` of them are scored."""

    trunk: int
    shared: int
    ids: Ids
    answer: int
    head_weight: float


def plan(
    requests: Sequence[ScoreRequest], tokenizer: SegmentTokenizer, context_length: int
) -> tuple[list[Ids], list[Branch]]:
    """Trunks to read and the branches that continue them, in the order of requests and evidences.

    A request whose context continues that of the request before it (the next search of one trajectory) extends the
    same trunk. Contexts that are too long for `context_length` tokens are truncated on the left.
    Raises `ConfigurationError` for an answer without tokens, or with nothing before it.
    """
    return _Plan(tokenizer, context_length).of(requests)


def common_prefix(a: Ids, b: Ids) -> int:
    """Length of the common prefix."""
    if a[: len(b)] == b or b[: len(a)] == a:
        return min(len(a), len(b))
    return next(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)


class _Plan:
    def __init__(self, tokenizer: SegmentTokenizer, context_length: int) -> None:
        self.tokenizer = tokenizer
        self.context_length = context_length
        self.trunks: list[Ids] = []
        self.branches: list[Branch] = []
        self._known: dict[tuple[Segment, Ids], Ids] = {}  # the same evidences are drawn many times

    def of(self, requests: Sequence[ScoreRequest]) -> tuple[list[Ids], list[Branch]]:
        for request in requests:
            if request.whole:
                self._add_whole(request)
            else:
                self._add(request)
        return self.trunks, self.branches

    def _add(self, request: ScoreRequest) -> None:
        answer = self._encode(Segment(request.answer), ())
        tail = self._encode(Segment(request.answer_prefix, role="policy"), ()) + answer
        context = self._ids(request.context, ())
        evidences = [self._ids((evidence,), context) for evidence in request.evidences]
        longest = max(map(len, evidences)) + len(tail)
        context = context[max(0, len(context) + longest - self.context_length) :]
        real = context + evidences[0]
        if self.trunks and (real[: len(self.trunks[-1])] == self.trunks[-1]):
            self.trunks[-1] = real
        elif not (self.trunks and self.trunks[-1][: len(real)] == real):
            self.trunks.append(real)
        # The real evidence is part of the trunk: only the answer is read after it. Others share its first tokens.
        for ids in evidences:
            shared = len(context) + common_prefix(evidences[0], ids)
            self._branch(request, shared, context + ids + tail, len(answer))

    def _add_whole(self, request: ScoreRequest) -> None:
        """Add a request whose branches are each one text (`ScoreRequest.whole`)."""
        encode = self.tokenizer.encode_whole
        answer = encode(request.answer)
        longest = min(WHOLE_TOKENS, self.context_length - len(answer))
        context = "".join(segment.text for segment in request.context)
        texts = [context + evidence.text + request.answer_prefix for evidence in request.evidences]
        read = [encode(text)[-longest:] for text in texts]
        self.trunks.append(read[0])
        for ids in read:
            self._branch(request, common_prefix(read[0], ids), ids + answer, len(answer))

    def _branch(self, request: ScoreRequest, shared: int, ids: Ids, answer: int) -> None:
        """Add the branch of the whole sequence `ids`, of which the trunk has the first `shared` tokens."""
        if not answer:
            raise ConfigurationError(
                f"the answer {request.answer!r} has no token to score; golden answers must not be empty"
            )
        if len(ids) == answer:
            raise ConfigurationError(
                f"nothing is before the answer {request.answer!r}, so its first token has no probability; give the "
                "request a context, an evidence or an answer prefix"
            )
        shared = min(shared, len(ids) - answer - 1)  # the token before the answer predicts it
        self.branches.append(Branch(len(self.trunks) - 1, shared, ids[shared:], answer, request.head_weight))

    def _ids(self, segments: Sequence[Segment], before: Ids) -> Ids:
        """Ids of segments that follow `before`."""
        found: list[Ids] = []
        for segment in segments:
            before = segment.ids if segment.ids is not None else self._encode(segment, before)
            found.append(before)
        return tuple(chain.from_iterable(found))

    def _encode(self, segment: Segment, before: Ids) -> Ids:
        key = (segment, before[-1:])
        if key not in self._known:
            self._known[key] = self.tokenizer.encode_segment(segment, before)
        return self._known[key]
