"""`TurnEnd`: detects the end of a turn of the policy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from algorithms.common.model.token_span import BROKEN
from algorithms.common.model.tokenizer import Ids, PolicyTokenizer

TAIL_TOKENS = 24  # enough to contain any stop string, however it is tokenized


class TurnEnd:
    """A turn ends with an EOS token, or with the first of the protocol's stop strings.

    Args:
        tokenizer: of the policy.
        stop_strings: `Protocol.stop_strings`.
    """

    def __init__(self, tokenizer: PolicyTokenizer, stop_strings: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self.stop_strings = tuple(stop_strings)

    @property
    def eos_ids(self) -> frozenset[int]:
        """Ids that end a turn in any case."""
        return self.tokenizer.eos_ids

    @cached_property
    def closing_ids(self) -> frozenset[int]:
        """Ids whose text contains the last character of a stop string: only these can complete one."""
        last = {text[-1] for text in self.stop_strings}
        pieces = self.tokenizer.hf_tokenizer.get_vocab().items()
        # The piece of every byte is written like a tag (<0x41>), so only the decoded text counts.
        return frozenset(
            i
            for piece, i in pieces
            if not last.isdisjoint(str(piece)) and not last.isdisjoint(self.tokenizer.text_of(i))
        )

    def is_over(self, ids: Sequence[int]) -> bool:
        """Whether the last token of a completion ends its turn."""
        last = ids[-1]
        if last in self.eos_ids:
            return True
        if last not in self.closing_ids:
            return False
        tail = self.tokenizer.continued_text(ids[-TAIL_TOKENS:])
        if BROKEN not in tail and not any(text in tail for text in self.stop_strings):
            return False
        whole = self.tokenizer.continued_text(ids)  # a tail cut inside a character may decode differently
        return any(text in whole for text in self.stop_strings)

    def position(self, ids: Ids) -> int | None:
        """Number of tokens after which the turn is over; None if it is not."""
        may_end = self.closing_ids | self.eos_ids
        return next((n for n, token in enumerate(ids, start=1) if token in may_end and self.is_over(ids[:n])), None)
