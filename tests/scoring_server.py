"""A server that scores prompts with a real policy, in the forms of vLLM's, SGLang's and OpenAI's responses.

It refuses what the real ones refuse and has log-probs only where they have some. `tests/fake_vllm.py` is the one that
generates. vLLM's forms are those of recordings of version 0.32 (`vllm_exchanges.py`).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import torch
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from algorithms.common.model.policy import Policy

Json = dict[str, Any]


class ScoringServer:
    """The application; attributes may be changed while it serves.

    `faults`: responses that are given to scoring requests before good ones. `shape`: changes a good one.
    `labels`: whether it knows `logprob_token_ids`, as older versions of vLLM do not. `logits`: added to every log-prob,
    as a server in a mode of logits would. `token`: an API key.
    """

    def __init__(self, policy: Policy, owner: str = "vllm", *, name: str = "policy", max_model_len: int | None) -> None:
        self.policy = policy
        self.owner = owner
        self.cards: list[Json] = [{"id": name, "object": "model", "owned_by": owner, "max_model_len": max_model_len}]
        self.max_model_len = max_model_len or 10**9
        self.vocabulary = int(policy.model.config.vocab_size)
        self.labels = True
        self.logits = 0.0
        self.token = ""
        self.faults: list[Response] = []
        self.shape: Callable[[Any], Any] = lambda content: content
        self.bodies: list[Json] = []
        self._lock = threading.Lock()
        self.app = FastAPI()
        self.app.get("/v1/models", response_model=None)(self.models)
        for path, answer in (
            ("/v1/completions", self.completions),
            ("/generate", self.generate),
            ("/tokenize", self.tokenize),
            ("/detokenize", self.detokenize),
        ):
            self.app.add_api_route(path, self._endpoint(answer), methods=["POST"], response_model=None)

    def models(self, request: Request) -> Response:
        """GET /v1/models."""
        return self._unauthorised(request) or JSONResponse({"object": "list", "data": self.cards})

    def _endpoint(self, answer: Callable[[Json], Any]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            body = await request.json()
            return self._unauthorised(request) or await run_in_threadpool(self._respond, answer, body)

        return endpoint

    def _respond(self, answer: Callable[[Json], Any], body: Json) -> Response:
        scores = answer in (self.completions, self.generate)
        if scores:
            with self._lock:
                self.bodies.append(body)
                fault = self.faults.pop(0) if self.faults else None
            if fault is not None:
                return fault
        if body.get("model", self.cards[0]["id"]) not in [card["id"] for card in self.cards]:
            return _error(404, f"The model `{body['model']}` does not exist.")
        try:
            content = answer(body)
        except ValueError as error:
            return _error(400, str(error))
        # Not JSONResponse, which refuses NaN: servers in Python write it.
        return Response(json.dumps(self.shape(content) if scores else content), media_type="application/json")

    def _unauthorised(self, request: Request) -> Response | None:
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            return JSONResponse({"error": "Unauthorized"}, 401)
        return None

    # ---------------------------------------------------------------- endpoints

    def completions(self, body: Json) -> Json:
        """POST /v1/completions of vLLM and OpenAI."""
        if body.get("prompt_logprobs") is not None and self.owner != "vllm":
            body = {**body, "prompt_logprobs": None}  # unknown fields are ignored
        prompts = body["prompt"] if isinstance(body["prompt"][0], list) else [body["prompt"]]
        choices = [self._choice(body, prompt, number) for number, prompt in enumerate(prompts)]
        return {"object": "text_completion", "model": body.get("model"), "choices": choices[::-1]}

    def _choice(self, body: Json, prompt: list[int], number: int) -> Json:
        rows = self._rows(prompt, body.get("max_tokens", 16))
        allowed = body.get("allowed_token_ids")
        next_token = allowed[0] if allowed else int(rows[-1].argmax())
        decode = self.policy.tokenizer.hf_tokenizer.decode
        text = decode([next_token], skip_special_tokens=body.get("skip_special_tokens", True))
        choice: Json = {"index": number, "text": text, "logprobs": None, "prompt_logprobs": None}
        if body.get("prompt_logprobs") is not None:
            scored = [
                {str(t): {"logprob": row[t].item(), "rank": int((row > row[t]).sum()) + 1}}
                for row, t in zip(rows, prompt[1:], strict=False)
            ]
            choice["prompt_logprobs"] = [None, *scored]
        if body.get("logprobs") is not None:
            ids = [next_token, *rows[-1].topk(body["logprobs"]).indices.tolist()]
            if self.labels and self.owner == "vllm" and body.get("logprob_token_ids"):
                ids = [next_token, *body["logprob_token_ids"]]
            values = [rows[-1][next_token].item()]
            top: list[Json | None] = [{f"token_id:{i}": rows[-1][i].item() for i in ids}]
            if body.get("echo"):
                choice["text"] = decode([*prompt, next_token], skip_special_tokens=True)
                echoed = [row[t].item() for row, t in zip(rows, prompt[1:], strict=False)]
                del choice["prompt_logprobs"]  # vLLM has them there, too; nobody reads those
                likely = [
                    {f"token_id:{i}": row[i].item() for i in (t, int(row.argmax()))}
                    for row, t in zip(rows, prompt[1:], strict=False)
                ]
                values, top = [None, *echoed, *values], [None, *likely, *top]
            choice["logprobs"] = {"token_logprobs": values, "top_logprobs": top}
        return choice

    def generate(self, body: Json) -> list[Json]:
        """POST /generate of SGLang."""
        assert self.owner == "sglang"
        results = []
        for number, prompt in enumerate(body["input_ids"]):
            rows = self._rows(prompt, max(body["sampling_params"]["max_new_tokens"], 1))
            meta: Json = {"prompt_tokens": len(prompt)}
            if body.get("return_logprob"):
                start = body["logprob_start_len"][number]
                places = range(start + 1, len(prompt))
                scored = [[rows[place - 1][prompt[place]].item(), prompt[place], None] for place in places]
                meta["input_token_logprobs"] = [[None, prompt[start], None], *scored]
            results.append({"text": "", "meta_info": meta})
        return results

    def tokenize(self, body: Json) -> Json:
        """POST /tokenize."""
        ids = self.policy.tokenizer.hf_tokenizer.encode(body["prompt"], add_special_tokens=body["add_special_tokens"])
        return {"tokens": ids, "count": len(ids), "max_model_len": self.max_model_len}

    def detokenize(self, body: Json) -> Json:
        """POST /detokenize; SGLang's can leave special tokens out."""
        sglang = self.owner == "sglang"
        skip = sglang and body.get("skip_special_tokens", True)
        text = self.policy.tokenizer.hf_tokenizer.decode(body["tokens"], skip_special_tokens=skip)
        return {"text" if sglang else "prompt": text}

    @torch.no_grad()
    def _rows(self, prompt: list[int], new_tokens: int) -> torch.Tensor:
        """Log-probs [tokens of the prompt, vocabulary] of what follows each token."""
        if len(prompt) + new_tokens > self.max_model_len:
            raise ValueError(f"This model's maximum context length is {self.max_model_len} tokens, not {len(prompt)}.")
        if outside := [token for token in prompt if not 0 <= token < self.vocabulary]:
            raise ValueError(f"Token id {outside[0]} is out of vocabulary")
        with self._lock:
            logits = self.policy.model(torch.tensor([prompt])).logits[0].float()
        return logits.log_softmax(-1) + self.logits


def _error(status: int, message: str) -> JSONResponse:
    kind = "NotFoundError" if status == 404 else "BadRequestError"
    return JSONResponse({"error": {"message": message, "type": kind, "code": status}}, status)


def with_logprob(value: float | None) -> Callable[[Any], Any]:
    """A `shape` that puts a value in the place of the last log-prob of a response, in any form."""

    def shape(content: Any) -> Any:
        if isinstance(content, list):
            content[0]["meta_info"]["input_token_logprobs"][-1][0] = value
            return content
        choice = content["choices"][0]
        if choice.get("prompt_logprobs"):
            row = choice["prompt_logprobs"][-1]
            row[next(iter(row))]["logprob"] = value
        else:
            logprobs = choice["logprobs"]
            logprobs["token_logprobs"] = [None, *[value] * (len(logprobs["token_logprobs"]) - 1)]
            logprobs["top_logprobs"][-1] = dict.fromkeys(logprobs["top_logprobs"][-1], value)
        return content

    return shape
