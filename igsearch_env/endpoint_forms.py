"""How servers are asked for the log-probs of an answer: the requests of vLLM, SGLang and OpenAI's completions.

    form         request                                               log-probs               prefix cache
    vllm         /v1/completions, `logprob_token_ids`, a prompt for    of the next token       used
                 each token of the answer
    vllm_prompt  /v1/completions, `prompt_logprobs`                    of the whole prompt     not used for these
    sglang       /generate, `return_logprob`, `logprob_start_len`      of the answer           used
    openai       /v1/completions, `echo`, `logprobs`                   of the whole prompt     the server's choice

vLLM 0.32 takes `logprob_token_ids` in completions. Where a server ignores it, `EndpointScorer` uses `vllm_prompt`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from igsearch_env.branches import Ids
from igsearch_env.errors import ScoringError
from retrievers.service.request import Request
from retrievers.service.wire import unicode

FormName = Literal["vllm", "vllm_prompt", "sglang", "openai"]
REQUEST_TOKENS, REQUEST_PROMPTS = 8_192, 64  # maxima of one request
LABELS = 128  # maximum of vLLM's `logprob_token_ids`
# Whatever the defaults of a server are (vLLM takes them from the model's generation_config.json): with these, the
# distribution that is sampled from is the model's own, in case its log-probs are those of that distribution.
SAMPLING = {"temperature": 1.0, "top_p": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
VLLM_SAMPLING = {**SAMPLING, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
ROUNDING = 1e-3  # nats by which rounding may raise a log-prob above 0
EXCLUDED = -9999.0  # what vLLM writes for minus infinity


class Read(NamedTuple):
    """A sequence; the last `answer` of its tokens are scored."""

    ids: Ids
    answer: int


class Form(Protocol):
    """Requests of one kind of server. The results of all requests together are the log-probs of the reads in order."""

    def requests(self, model: str, reads: Sequence[Read]) -> list[Request[list[float]]]:
        """The requests that score reads."""
        ...

    def cache(self, model: str, prefixes: Sequence[Ids]) -> list[Request[None]]:
        """The requests by which the server reads prefixes into its cache; [] if it needs none."""
        ...


class VllmForm:
    """vLLM's `logprob_token_ids`: each token of an answer is the next token of a prompt that is nearly all cached."""

    def requests(self, model: str, reads: Sequence[Read]) -> list[Request[list[float]]]:
        targets = [(ids[:place], ids[place]) for ids, n in reads for place in range(len(ids) - n, len(ids))]
        requests = []
        for part in _parts([1] * len(targets), [token for _, token in targets]):  # most of their tokens are cached
            chosen = targets[part.start : part.stop]
            labels = sorted({token for _, token in chosen})
            body = {
                "model": model,
                "prompt": [list(prompt) for prompt, _ in chosen],
                "max_tokens": 1,
                "logprobs": 1,
                "logprob_token_ids": labels,
                "return_tokens_as_token_ids": True,
                **VLLM_SAMPLING,
            }
            requests.append(Request("POST", "/v1/completions", body, _reader([t for _, t in chosen], _label)))
        return requests

    def cache(self, model: str, prefixes: Sequence[Ids]) -> list[Request[None]]:
        return []  # vLLM shares the blocks of prompts that arrive together


class VllmPromptForm:
    """vLLM's `prompt_logprobs`."""

    def requests(self, model: str, reads: Sequence[Read]) -> list[Request[list[float]]]:
        return _completions(model, reads, {"prompt_logprobs": 0, **VLLM_SAMPLING}, _prompt_logprobs)

    def cache(self, model: str, prefixes: Sequence[Ids]) -> list[Request[None]]:
        return []


class OpenAIForm:
    """Completions that echo their prompt, with log-probs."""

    def requests(self, model: str, reads: Sequence[Read]) -> list[Request[list[float]]]:
        return _completions(model, reads, {"echo": True, "logprobs": 1, **SAMPLING}, _echoed)

    def cache(self, model: str, prefixes: Sequence[Ids]) -> list[Request[None]]:
        return []


class SglangForm:
    """SGLang's own /generate: log-probs from `logprob_start_len` on, so that the tokens before it may be cached."""

    def requests(self, model: str, reads: Sequence[Read]) -> list[Request[list[float]]]:
        requests = []
        for part in _parts([len(read.ids) for read in reads]):
            chosen = reads[part.start : part.stop]
            starts = [len(ids) - answer - 1 for ids, answer in chosen]  # the first of them has no log-prob
            body = {**_generate([read.ids for read in chosen]), "return_logprob": True, "logprob_start_len": starts}
            requests.append(Request("POST", "/generate", body, _reader(chosen, _input_logprobs)))
        return requests

    def cache(self, model: str, prefixes: Sequence[Ids]) -> list[Request[None]]:
        parts = _parts([len(prefix) for prefix in prefixes])
        bodies = [_generate(prefixes[part.start : part.stop]) for part in parts]
        return [Request("POST", "/generate", body, _ignored) for body in bodies]


FORMS: dict[FormName, Form] = {
    "vllm": VllmForm(),
    "vllm_prompt": VllmPromptForm(),
    "sglang": SglangForm(),
    "openai": OpenAIForm(),
}


def normalised(model: str, prompt: Ids) -> Request[bool]:
    """Whether the numbers that a server calls log-probs are of a distribution: those of five tokens are summed."""
    body = {"model": model, "prompt": [list(prompt)], "max_tokens": 1, "logprobs": 5, **SAMPLING}

    def read(content: bytes) -> bool:
        (choice,) = _choices(content, 1)
        logprobs = [_logprob(value, signed=True) for value in choice["logprobs"]["top_logprobs"][0].values()]
        return sum(map(math.exp, (min(value, 50.0) for value in logprobs))) <= 1 + ROUNDING

    return Request("POST", "/v1/completions", body, lambda content: _parsed(content, read))


# ---------------------------------------------------------------- requests


def _completions(
    model: str, reads: Sequence[Read], fields: dict[str, Any], one: Callable[[Any, Read], list[float]]
) -> list[Request[list[float]]]:
    requests = []
    for part in _parts([len(read.ids) for read in reads]):
        chosen = reads[part.start : part.stop]
        body = {"model": model, "prompt": [list(read.ids) for read in chosen], "max_tokens": 1, **fields}
        requests.append(Request("POST", "/v1/completions", body, _reader(chosen, one)))
    return requests


def _generate(prompts: Sequence[Ids]) -> dict[str, Any]:
    return {
        "input_ids": [list(prompt) for prompt in prompts],
        "sampling_params": {"temperature": 1.0, "max_new_tokens": 0},
    }


def _parts(sizes: Sequence[int], labels: Sequence[int] = ()) -> Iterator[range]:
    """Consecutive parts within the limits of a request; `labels`: also of their distinct values."""
    start, size, distinct = 0, 0, set[int]()
    for place, tokens in enumerate(sizes):
        full = place - start == REQUEST_PROMPTS or size + tokens > REQUEST_TOKENS
        if place > start and (full or len(distinct.union(labels[place : place + 1])) > LABELS):
            yield range(start, place)
            start, size, distinct = place, 0, set()
        size += tokens
        distinct.update(labels[place : place + 1])
    if sizes:
        yield range(start, len(sizes))


# ---------------------------------------------------------------- responses


def _ignored(content: bytes) -> None:
    json.loads(content)  # a page of a proxy is not a response


def _reader(asked: Sequence[Any], one: Callable[[Any, Any], list[float]]) -> Callable[[bytes], list[float]]:
    """The reader of a response with one item for each of `asked`."""

    def read(content: bytes) -> list[float]:
        items = _choices(content, len(asked))
        return [value for item, what in zip(items, asked, strict=True) for value in one(item, what)]

    return lambda content: _parsed(content, read)


def _parsed(content: bytes, read: Callable[[bytes], Any]) -> Any:
    try:
        return read(content)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        shown = content[:300].decode("utf-8", "replace")
        raise ScoringError(
            f"the response has no log-probs where they belong ({type(error).__name__}: {error}): {shown!r}; use a "
            "server that returns them for token ids of a prompt (see docs/models.md), or name its form"
        ) from error


def _choices(content: bytes, count: int) -> list[Any]:
    """The items of a response in the order of their prompts. Raises `ValueError` if it is not JSON."""
    response = json.loads(content)
    items = response["choices"] if isinstance(response, dict) else response
    if len(items) != count:
        raise ScoringError(
            f"the response has results for {len(items)} prompts where {count} were sent; use a server that takes lists "
            "of prompts"
        )
    places = [item.get("index", place) for place, item in enumerate(items)]
    if sorted(places) != list(range(count)):
        raise ScoringError(f"the response numbers its {count} results {places}; each must have its own number")
    return sorted(items, key=lambda item: int(item.get("index", 0))) if "index" in items[0] else list(items)


def _label(choice: Any, token: int) -> list[float]:
    return [_logprob(choice["logprobs"]["top_logprobs"][0][f"token_id:{token}"])]


def _prompt_logprobs(choice: Any, read: Read) -> list[float]:
    rows = choice["prompt_logprobs"]
    _check_length(len(rows), len(read.ids), len(read.ids))
    start = len(read.ids) - read.answer
    return [_logprob(row[str(i)]["logprob"]) for row, i in zip(rows[start:], read.ids[start:], strict=True)]


def _echoed(choice: Any, read: Read) -> list[float]:
    values = choice["logprobs"]["token_logprobs"]
    _check_length(len(values), len(read.ids), len(read.ids) + 1)  # perhaps with the generated token
    return [_logprob(value) for value in values[len(read.ids) - read.answer : len(read.ids)]]


def _input_logprobs(item: Any, read: Read) -> list[float]:
    rows = item["meta_info"]["input_token_logprobs"]
    _check_length(len(rows), read.answer, len(read.ids))
    found, wanted = tuple(row[1] for row in rows[-read.answer :]), read.ids[-read.answer :]
    if found != wanted:
        raise ScoringError(f"the response has log-probs of the tokens {found} where {wanted} were sent")
    return [_logprob(row[0]) for row in rows[-read.answer :]]


def _check_length(length: int, least: int, most: int) -> None:
    if not least <= length <= most:
        raise ScoringError(
            f"the response has log-probs of {length} tokens for a prompt of {most}: the server has tokenised or "
            "truncated it; use one that takes token ids, and pass its context_length"
        )


def _logprob(value: Any, *, signed: bool = False) -> float:
    if value is None:
        raise ScoringError("the response has null for the log-prob of a token of the answer: only a first token may")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ScoringError(f"the response has the log-prob {unicode(str(value))!r}: it must be a finite number")
    if value <= EXCLUDED:
        raise ScoringError(
            f"the response has the log-prob {value} for a token of the answer: the server excludes that token, so its "
            "log-probs are not the model's own; start vLLM with --logprobs-mode raw_logprobs, its default"
        )
    if value > ROUNDING and not signed:
        raise ScoringError(
            f"the response has the log-prob {value}: it must not be above 0; a vLLM server must run with "
            "--logprobs-mode raw_logprobs, its default, not with one of logits"
        )
    return float(value)
