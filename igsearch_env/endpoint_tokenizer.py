"""The tokenizer of a server, for an `EndpointScorer` that is given none."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

from igsearch_env.branches import Ids
from igsearch_env.endpoint_server import ScoringServer, Served
from igsearch_env.errors import ConfigurationError, ScoringError
from igsearch_env.scorers import Segment
from retrievers.service.request import Request

REMEMBERED = 65_536  # texts: the same passages are drawn many times
# What names of special tokens look like: <s>, <|im_end|>, [INST].
NAME = re.compile(r"<[^<>\s]{1,64}>|\[[^\[\]\s]{1,64}\]")


class ServerTokenizer:
    """Encodes and decodes by POST /tokenize and /detokenize, as vLLM and SGLang have them.

    A server encodes the name of a special token in a passage as that token, and can't be asked not to. Such a text is
    an error, not a wrong score: pass the model's own tokenizer then (`PolicyTokenizer` spells such names out).
    Each new text is a request of its own, so a tokenizer in this process is faster.

    Raises `ConfigurationError` for a server that is neither vLLM nor SGLang.
    """

    def __init__(self, server: ScoringServer, served: Served) -> None:
        if served.owner not in ("vllm", "sglang"):
            raise ConfigurationError(
                f"tokenizer=None: {server.address} is a server of {served.owner or 'unknown kind'!r}, and only those "
                "of vLLM and SGLang tokenise; pass the model's tokenizer"
            )
        self._server = server
        self._served = served
        self._ids = lru_cache(REMEMBERED)(self._tokenize)
        self._special_name = lru_cache(REMEMBERED)(self._find_special_name)

    def encode(self, text: str) -> Ids:
        """Ids of text that follows other text. Raises `ConfigurationError` if it has the name of a special token."""
        ids = self._continued(text)
        if NAME.search(text):
            for token in dict.fromkeys(ids):
                if name := self._special_name(token):
                    raise ConfigurationError(
                        f"the text {text[:80]!r} has the name of the special token {name}, which the server's "
                        "/tokenize can't encode as plain text; pass the model's tokenizer, such as PolicyTokenizer"
                    )
        return ids

    def encode_segment(self, segment: Segment, before: Ids) -> Ids:
        """Ids of a segment. Raises `ConfigurationError` for the result of a tool call: chat templates render those."""
        if segment.role == "tool":
            raise ConfigurationError(
                "tokenizer=None: /tokenize can't render the results of tool calls; pass the tokenizer of the policy "
                "(PolicyTokenizer, after make_rules)"
            )
        return self.encode(segment.text)

    def encode_whole(self, text: str) -> Ids:
        """Ids of a whole text, in which names of special tokens count as those."""
        return self._ids(text)

    def decode_whole(self, ids: Sequence[int]) -> str:
        """Text of the ids of a whole episode, special tokens included."""
        return self._detokenize(ids)

    @cached_property
    def _anchor(self) -> Ids:
        """Ids of a line break before text that continues other text, where the tokenizer needs one.

        As in `PolicyTokenizer`: tokenizers such as that of Llama 2 add a space to any text that they encode.
        """
        if self._detokenize([*self._ids("a"), *self._ids("b")]) == "ab":
            return ()
        return self._ids("\n")

    def _continued(self, text: str) -> Ids:
        anchor = self._anchor
        if anchor:
            ids = self._ids("\n" + text)
            if ids[: len(anchor)] == anchor:
                return ids[len(anchor) :]
        return self._ids(text)

    def _find_special_name(self, token: int) -> str:
        """The name of a special token; "" for any other token."""
        name = self._detokenize([token])
        if not NAME.fullmatch(name.strip()):
            return ""
        if self._served.owner == "sglang":
            return "" if self._detokenize([token], skip_special_tokens=True) else name
        # vLLM leaves special tokens out of the text that it generates, here one token.
        body = {"prompt": [token], "allowed_token_ids": [token], "max_tokens": 1, "skip_special_tokens": True}
        return "" if self._post("/v1/completions", {**body, "ignore_eos": True}, "choices")[0]["text"] else name

    def _tokenize(self, text: str) -> Ids:
        if not text:
            return ()
        ids = self._post("/tokenize", {"prompt": text, "add_special_tokens": False}, "tokens")
        if not isinstance(ids, list) or not all(type(i) is int for i in ids):
            raise ScoringError(f"{self._server.address}/tokenize: {str(ids)[:200]!r} is not a list of token ids")
        return tuple(ids)

    def _detokenize(self, ids: Sequence[int], **options: bool) -> str:
        if not ids:
            return ""
        field = "text" if self._served.owner == "sglang" else "prompt"
        options = options or ({"skip_special_tokens": False} if self._served.owner == "sglang" else {})
        return str(self._post("/detokenize", {"tokens": list(ids), **options}, field))

    def _post(self, path: str, body: dict[str, Any], field: str) -> Any:
        def read(content: bytes) -> Any:
            response = json.loads(content)
            if not isinstance(response, dict) or field not in response:
                raise ValueError(f"no object with {field!r}")
            return response[field]

        (found,) = self._server.ask([Request("POST", path, {"model": self._served.model, **body}, read)])
        return found
