"""An OpenAI-compatible chat endpoint around the bundled policy, which reads plain text without a chat template."""

from __future__ import annotations

import threading
from typing import Any

from fastapi import FastAPI
from models import bundled_policy, turn_end

from algorithms.common.rollout.decoder import Decoder
from retrievers.random_streams import random_stream


class PolicyServer:
    """Answers /v1/chat/completions. A request writes one turn; its `seed`, or its number, determines the draws."""

    def __init__(self, *, max_new_tokens: int = 16, temperature: float = 1.0) -> None:
        self.policy = bundled_policy()
        self.decoder = Decoder(
            self.policy, turn_end(self.policy), slots=1, max_new_tokens=max_new_tokens, temperature=temperature
        )
        self.requests: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self.app = FastAPI()
        self.app.post("/v1/chat/completions")(self.complete)

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """The next message of the assistant."""
        tokenizer = self.policy.tokenizer
        first, *rest = [str(message["content"]) for message in body["messages"]]
        ids = [*tokenizer.encode_prompt(first)]
        for text in rest:
            ids += tokenizer.encode(text)
        with self._lock:
            self.requests.append(body)
            seed = body.get("seed", len(self.requests))
            slot = self.decoder.begin(ids, random_stream("policy server", seed, len(rest)))
            self.decoder.prefill()
            finished: list[Any] = []
            while not finished:
                finished = self.decoder.decode_step()
            self.decoder.end(slot)
        completion = finished[0][1].ids
        return chat_completion(tokenizer.decode(completion), len(ids), len(completion))


def chat_completion(text: str, prompt_tokens: int = 1, completion_tokens: int = 1) -> dict[str, Any]:
    """A reply in OpenAI's format."""
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    message = {"role": "assistant", "content": text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "bundled",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": usage,
    }


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(PolicyServer().app, host="127.0.0.1", port=8009)
