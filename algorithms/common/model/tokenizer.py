"""`PolicyTokenizer`: a tokenizer of transformers with what rollouts need: prompts, messages, spans of tokens.

The policy's token ids are never decoded and encoded again: they are decoded for the environment to read, and only
text that the policy did not write is encoded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import takewhile
from typing import Any

from algorithms.common.model.chat_template import ChatRenderer, ChatTemplate, with_system
from algorithms.common.model.token_span import token_span
from algorithms.common.model.tool_format import ToolFormat
from igsearch_env.errors import ConfigurationError
from igsearch_env.protocols import Role
from igsearch_env.scorers import Segment

Ids = tuple[int, ...]

MARK = "\u2063message\u2063"  # placeholder for a message in a chat template; no template contains it
NEXT = "\u2063next\u2063"  # placeholder for the message after it
_LOCK = threading.Lock()  # tokenizers, which several objects may share, set `split_special_tokens` in themselves


class PolicyTokenizer:
    """Encodes and decodes the text of episodes; several threads may use it.

    Args:
        hf_tokenizer: the tokenizer of transformers.
        chat: wrap prompts in its chat template.
        eos_ids: ids that end a turn, in addition to the tokenizer's own.
        chat_template: date and arguments for the chat template.

    Raises `ConfigurationError` with `chat` if there is no chat template, or one that drops messages.
    """

    def __init__(
        self,
        hf_tokenizer: Any,
        *,
        chat: bool = False,
        eos_ids: Sequence[int | None] = (),
        chat_template: ChatTemplate | None = None,
    ) -> None:
        self.hf_tokenizer = hf_tokenizer
        self.chat = chat
        self.chat_template = chat_template or ChatTemplate()
        self.renderer = ChatRenderer(hf_tokenizer, self.chat_template)
        self.tool_format: ToolFormat | None = None
        self._more_eos_ids = tuple(eos_ids)
        if chat and not getattr(hf_tokenizer, "chat_template", None):
            raise ConfigurationError("policy.chat=True: this tokenizer has no chat template; set policy.chat to false")
        if chat:
            self.chat_template.check(hf_tokenizer.chat_template)
            self._around(("user", MARK))

    def check_markers(self, markers: Sequence[str]) -> None:
        """Raise `ConfigurationError` unless the tokenizer decodes each of a protocol's `markers` as it was encoded."""
        for marker in markers:
            back = self.decode(self.encode(marker))
            if back != marker:
                raise ConfigurationError(
                    f"policy: the tokenizer decodes the tag {marker} as {back!r}, so no policy can write it; add "
                    f"the tags to the tokenizer (tokenizer.add_tokens({list(markers)}), then "
                    "model.resize_token_embeddings(len(tokenizer)), and save both), or use a model whose tokenizer "
                    "has a byte fallback"
                )

    def use_tools(self, tools: Sequence[Mapping[str, Any]]) -> ToolFormat:
        """Describe tools in prompts from now on; returns the format in which the policy calls them.

        Raises `ConfigurationError` without a chat template, or if the calls of this template can't be read.
        """
        if not getattr(self.hf_tokenizer, "chat_template", None):
            raise ConfigurationError(
                "env.protocol='tool_calls': the policy's tokenizer has no chat template, which renders and reads the "
                "calls; use another protocol, or a model with a chat template"
            )
        if not self.chat:
            raise ConfigurationError(
                "env.protocol='tool_calls' needs a chat template, which renders and reads the calls: set policy.chat "
                "(--policy.chat), or use another protocol"
            )
        self.tool_format = ToolFormat(self.renderer, tools, {self.text_of(i): i for i in self.control_ids})
        self.__dict__.pop("eos_ids", None)
        return self.tool_format

    # ---------------------------------------------------------------- special tokens

    @cached_property
    def pad_id(self) -> int:
        """Id of padding; never attended to, never in the loss. An EOS id if the tokenizer has no padding token."""
        pad = self.hf_tokenizer.pad_token_id
        return int(pad) if pad is not None else min(self.eos_ids, default=0)

    @cached_property
    def eos_ids(self) -> frozenset[int]:
        """Ids that end a turn in any case."""
        # What ends messages in a conversation may end reasoning alone in a reply: <|end|> of gpt-oss.
        ends = (self.end_of_turn_id,) if self.tool_format is None else self.tool_format.end_ids
        ids = (self.hf_tokenizer.eos_token_id, *ends, *self._more_eos_ids)
        return frozenset(int(i) for i in ids if i is not None)

    @cached_property
    def end_of_turn_id(self) -> int | None:
        """The control token that the chat template writes after the assistant's message; None if there is none."""
        if not self.chat:
            return None
        try:
            ids = self._after_completion(".")
        except ConfigurationError:  # a template for a single question: raised when a second one is encoded
            return None
        added = self.hf_tokenizer.added_tokens_decoder
        texts = ((i, self._decode([i]).strip()) for i in ids)
        first, text = next(((i, text) for i, text in texts if text), (None, ""))
        return first if first in added and text[0] in "<[" else None

    # ---------------------------------------------------------------- ids of text

    @cached_property
    def control_ids(self) -> frozenset[int]:
        """Ids of special tokens, which the tokenizer produces for their names anywhere in a text."""
        added = self.hf_tokenizer.added_tokens_decoder.items()
        return frozenset((*self.hf_tokenizer.all_special_ids, *(i for i, token in added if token.special)))

    def encode(self, text: str) -> Ids:
        """Ids of text that the policy did not write, and that follows other text.

        Names of special tokens in it are encoded as plain text, so that a passage about <s> or <|im_end|> begins no
        text and ends no turn.
        """
        ids = self._continued(text)
        return ids if self.control_ids.isdisjoint(ids) else self._continued(text, split_special_tokens=True)

    def encode_prompt(self, prompt: str, system: str = "") -> Ids:
        """Ids of the first observation: in the chat template if `chat`, else unchanged, special tokens included.

        `system`: in the system role if `chat` (see `with_system`), else before the prompt and an empty line.
        Begins with exactly one BOS if the tokenizer adds one, whether or not the template contains it too.
        """
        render = self._render if self.tool_format is None else self.tool_format.render_messages
        if system and self.chat:
            before, said, middle, asked, after = with_system(render, system, prompt)
            if self.control_ids.isdisjoint(self._encode(system) + self._encode(prompt)):
                ids = self._encode(before + said + middle + asked + after)
            else:  # names of special tokens in the messages are spelled out
                ids = self._encode(before) + self.encode(said) + self._continued(middle)
                ids += self.encode(asked) + self._continued(after)
        elif self.chat:
            ids = self.encode_rendered(lambda text: render(("user", text)), prompt, self._encode)
        else:
            ids = self._encode(f"{system}\n\n{prompt}" if system else prompt)
        opening = self._opening
        return ids if ids[: len(opening)] == opening else opening + ids

    def encode_observation(self, text: str, role: Role, before: Sequence[int]) -> Ids:
        """Ids of what the policy reads after the completion `before`, as a message of `role` if `chat`."""
        if role == "tool" and self.tool_format is not None:
            ids = self.encode_rendered(self.tool_format.result, text, self._continued)
            call_end, answer_end = self.tool_format.end_ids
            ended = tuple(before[-1:]) == (call_end,) if call_end != answer_end else {*before[-1:]} & self.eos_ids
            return ids if ended else (call_end, *ids)
        return self.encode(text) if role == "assistant" else self.encode_user_turn(text, before)

    def encode_user_turn(self, text: str, before: Sequence[int]) -> Ids:
        """Ids of text as a new turn of the user after the completion `before` if `chat`; else of the text itself."""
        if not self.chat:
            return self.encode(text)
        ids = self._after_completion(text.strip())
        ends: frozenset[int | None] = frozenset({self.end_of_turn_id})
        if self.tool_format is not None:
            call_end, answer_end = self.tool_format.end_ids
            ends = self.eos_ids - ({call_end} - {answer_end})  # a user's message needs the end of a final one
        if before and before[-1] in ends and self.end_of_turn_id in ids:  # the policy closed its turn itself
            return ids[ids.index(self.end_of_turn_id) + 1 :]
        return ids

    def encode_segment(self, segment: Segment, before: Sequence[int]) -> Ids:
        """`SegmentTokenizer.encode_segment`."""
        if segment.role == "prompt":
            return self.encode_prompt(segment.prompt, segment.system)
        if segment.role == "policy":
            return self.encode_completion(segment.text)
        return self.encode_observation(segment.text, segment.role, before)

    def encode_completion(self, text: str) -> Ids:
        """Ids of a turn that a program wrote in place of the policy, with the end of the turn if its format has one."""
        return self.encode(text) if self.tool_format is None else self._continued(text)

    def encode_whole(self, text: str) -> Ids:
        """Ids of a whole text, in which names of special tokens count as those: the inverse of `decode_whole`."""
        return self._encode(text)

    def _encode(self, text: str, **options: bool) -> Ids:
        # Lengths are checked against the context elsewhere: the tokenizer need not warn about them.
        options = {"add_special_tokens": False, "verbose": False, **options}
        with _LOCK:
            return tuple(self.hf_tokenizer.encode(text, **options))

    def token_starts(self, text: str) -> list[int] | None:
        """The first character of each token of a whole text; None if the tokenizer does not know."""
        if not getattr(self.hf_tokenizer, "is_fast", False):
            return None
        options = {"add_special_tokens": False, "verbose": False, "return_offsets_mapping": True}
        with _LOCK:
            return [start for start, _ in self.hf_tokenizer(text, **options)["offset_mapping"]]

    def _continued(self, text: str, **options: bool) -> Ids:
        """Ids of text that follows other text."""
        anchor, _ = self._anchor
        if anchor:
            ids = self._encode("\n" + text, **options)
            if ids[: len(anchor)] == anchor:
                return ids[len(anchor) :]
        return self._encode(text, **options)

    @cached_property
    def _opening(self) -> Ids:
        """Ids that the tokenizer adds before a text: its BOS, or nothing."""
        text = self._encode("a")
        return tuple(takewhile(lambda i: i not in text, self._encode("a", add_special_tokens=True)))

    @cached_property
    def _anchor(self) -> tuple[Ids, int]:
        """Ids of a line break and the number of its characters, to put before text that continues other text.

        Tokenizers such as those of Llama 2 and Mistral add a space to any text that they encode and remove one from any
        that they decode. That is right only for the first text of a sequence. Other tokenizers need no anchor.
        """
        if self._decode(self._encode("a") + self._encode("b")) == "ab":
            return (), 0
        ids = self._encode("\n")
        return ids, len(self._decode(ids))

    def _after_completion(self, text: str) -> Ids:
        """Ids of what the chat template writes after the assistant's message if the user's next message is `text`."""
        return self._message((("user", "."), ("assistant", MARK)), text, self._continued)

    def _message(self, earlier: Sequence[tuple[str, str]], text: str, encode: Callable[[str], Ids]) -> Ids:
        """Ids of the user's `text` in the chat template, from `MARK` in `earlier` messages on, if there are any."""

        def render(text: str) -> str:
            return self._around(*earlier, ("user", text))[1] if earlier else self._render(("user", text))

        return self.encode_rendered(render, text, encode)

    def encode_rendered(self, render: Callable[[str], str], text: str, encode: Callable[[str], Ids]) -> Ids:
        """Ids of `render(text)`, in which names of special tokens in `text` itself are encoded as plain text."""
        whole = render(text)
        if self.control_ids.isdisjoint(self._encode(text)):
            return encode(whole)
        before, _, after = render(NEXT).partition(NEXT)
        return encode(before) + self.encode(whole[len(before) : len(whole) - len(after)]) + self._continued(after)

    def _around(self, *messages: tuple[str, str]) -> tuple[str, str]:
        """What the chat template writes before and after the message `MARK`."""
        before, mark, after = self._render(*messages).partition(MARK)
        if not mark:
            role = next(role for role, content in messages if content == MARK)
            raise ConfigurationError(
                f"policy.chat=True: the tokenizer's chat template drops the message of the {role}; set "
                "policy.chat to false, or tokenizer.chat_template to one that accepts messages of plain text"
            )
        return before, after

    def _render(self, *messages: tuple[str, str]) -> str:
        """Messages (role, text) in the chat template, up to the start of the assistant's reply."""
        return self.renderer.render([{"role": role, "content": content} for role, content in messages])

    # ---------------------------------------------------------------- text of ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of a completion, without a final token that ends the turn."""
        return self.continued_text(ids[:-1] if ids and ids[-1] in self.eos_ids else ids)

    def continued_text(self, ids: Sequence[int]) -> str:
        """Text of ids that follow other ids."""
        anchor, characters = self._anchor
        return self._decode((*anchor, *ids))[characters:]

    def decode_whole(self, ids: Sequence[int]) -> str:
        """Text of the ids of a whole episode, special tokens included."""
        return self._decode(ids)

    def text_of(self, token: int) -> str:
        """Text of a single id."""
        return self._decode([token])

    def _decode(self, ids: Sequence[int]) -> str:
        with _LOCK:
            return str(self.hf_tokenizer.decode([*ids], skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def token_span(self, ids: Sequence[int], start: int, end: int) -> tuple[int, int]:
        """Tokens that contain any part of characters [start, end) of `decode(ids)`, as [first, last)."""
        return token_span(self.continued_text, ids, start, end)
