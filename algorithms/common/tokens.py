"""`Tokens`: a tokenizer and what a rollout asks of it: prompts, the end of a turn, the tokens of a query.

Token ids are never decoded and encoded again: text is made of ids for the environment to read, ids only of text
that the policy did not write.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from igsearch_env.errors import ConfigurationError
from igsearch_env.protocol import STOP_TAGS

TAIL_TOKENS = 24  # enough to hold any stop tag, however it is split


class Tokens:
    """A tokenizer of transformers. `chat`: wrap prompts in its chat template; `eos_ids` end a turn beside its own."""

    def __init__(self, tokenizer: Any, *, chat: bool = False, eos_ids: Sequence[int | None] = ()) -> None:
        self.tokenizer = tokenizer
        self.chat = chat
        self._more_eos_ids = tuple(eos_ids)
        if chat and not getattr(tokenizer, "chat_template", None):
            raise ConfigurationError("policy.chat=True: this tokenizer has no chat template; set policy.chat to false")

    @cached_property
    def pad_id(self) -> int:
        """Id to fill gaps with; never attended, never in the loss."""
        pad = self.tokenizer.pad_token_id
        return int(pad if pad is not None else self.tokenizer.eos_token_id or 0)

    @cached_property
    def eos_ids(self) -> frozenset[int]:
        """Ids that end a turn whatever was written."""
        return frozenset(int(i) for i in (self.tokenizer.eos_token_id, *self._more_eos_ids) if i is not None)

    @cached_property
    def closing_ids(self) -> frozenset[int]:
        """Ids whose text holds a `>`: only after these can a stop tag be complete."""
        pieces = self.tokenizer.convert_ids_to_tokens(list(range(len(self.tokenizer))))
        return frozenset(i for i, piece in enumerate(pieces) if piece is not None and ">" in str(piece))

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of text that some other party wrote."""
        # Lengths are checked against the context elsewhere: the tokenizer need not warn of them.
        return tuple(self.tokenizer.encode(text, add_special_tokens=False, verbose=False))

    def encode_prompt(self, prompt: str) -> tuple[int, ...]:
        """Ids of the first observation: in the chat template if `chat`, else with the tokenizer's own BOS, if any."""
        if self.chat:
            messages = [{"role": "user", "content": prompt}]
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            return self.encode(text)
        return tuple(self.tokenizer.encode(prompt, add_special_tokens=True))

    def encode_user_turn(self, text: str, before: Sequence[int]) -> tuple[int, ...]:
        """Ids of text that begins a new turn of the user after the completion `before`, if `chat`; else of the text."""
        if not self.chat:
            return self.encode(text)
        mark = "\u2063answer\u2063"  # stands where the completion is
        messages = [("user", "."), ("assistant", mark), ("user", text.strip())]
        whole = self.tokenizer.apply_chat_template(
            [{"role": role, "content": content} for role, content in messages],
            tokenize=False,
            add_generation_prompt=True,
        )
        ids = self.encode(whole.partition(mark)[2])
        closed = before and before[-1] in self.eos_ids and ids[:1] == (before[-1],)
        return ids[1:] if closed else ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of a completion, without a final end-of-sequence token."""
        ids = list(ids)
        if ids and ids[-1] in self.eos_ids:
            ids.pop()
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def ends_turn(self, ids: Sequence[int]) -> bool:
        """Whether a completion is finished by its last token: end of sequence, or the end of an action tag."""
        last = ids[-1]
        if last in self.eos_ids:
            return True
        if last not in self.closing_ids:
            return False
        tail = self.decode(ids[-TAIL_TOKENS:])
        return any(tag in tail for tag in STOP_TAGS)

    def token_span(self, ids: Sequence[int], start: int, end: int) -> tuple[int, int]:
        """Tokens that hold characters [start, end) of `decode(ids)`, as [first, last).

        By bisection over the lengths of decoded prefixes, which works for any tokenizer.
        """
        if end <= start:
            return 0, 0

        def tokens_until(characters: int) -> int:
            """Fewest tokens whose text has at least `characters` complete characters."""
            low, high = 0, len(ids)
            while low < high:
                middle = (low + high) // 2
                if len(self.decode(ids[:middle]).rstrip("\ufffd")) >= characters:
                    high = middle
                else:
                    low = middle + 1
            return low

        # The first bytes of a character belong to it, and so does a token that glues a tag to it.
        return min(tokens_until(start), tokens_until(start + 1) - 1), tokens_until(end)
