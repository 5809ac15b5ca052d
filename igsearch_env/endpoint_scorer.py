"""Information gain by a model behind an address: a server of vLLM, of SGLang, or of OpenAI's completions.

    scorer = EndpointScorer("http://HOST:8000", tokenizer)
    env = IGSearchEnv(questions, retriever, scorer=scorer)

The scores are those of `PolicyScorer` with the same model: the same token ids are read (`branches.py`), and the server
is asked for the model's own log-probs, at temperature 1.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence
from itertools import accumulate, groupby
from typing import Literal

import httpx

from igsearch_env.branches import Branch, Ids, SegmentTokenizer, plan
from igsearch_env.endpoint_forms import FORMS, FormName, Read, normalised
from igsearch_env.endpoint_server import ScoringServer
from igsearch_env.endpoint_tokenizer import ServerTokenizer
from igsearch_env.errors import ConfigurationError, ScoringError, check_choice, check_range
from igsearch_env.scorers import ScoreRequest, weighted_mean

logger = logging.getLogger(__name__)

PROBE = "The capital of France is Paris, a city on the Seine."
CACHED_TOKENS = 65_536  # of contexts that are read before their branches; a server's KV cache holds more


class EndpointScorer:
    """Scores answers by the token log-probs of a model that a server holds. Thread-safe.

    Every branch is sent as token ids. Branches that read the same tokens are scored once. Up to four requests of a call
    are in flight, each with up to 64 prompts; the prompts of one context are sent together, after the context itself
    where the server needs that, so that its prefix cache is used. Weights in another precision than the policy's give
    other scores, and so does a server that still holds the weights of an earlier step.

    Args:
        address: of the server, with or without /v1; credentials as `USER:PASSWORD@` or `KEY@` (a bearer token, an API
            key), or from the environment (`retrievers/service/address.py`).
        tokenizer: the model's, such as `PolicyTokenizer`; None: the server's (`ServerTokenizer`).
        model: its name at the server; None: the only one that is served.
        context_length: tokens of a sequence, as the policy's `context_length`: longer contexts are truncated on the
            left. None: the server's, less the one token that it has to generate.
        form: how the server is asked (`endpoint_forms.py`). auto: by what its /v1/models says.
        deadline: seconds for a request including its repetitions, each of which gets an equal share; see
            `RemoteRetriever`, also for `attempts`, `backoff` and `transport`. A Retry-After is honoured within it.

    Raises `ConfigurationError` for a wrong address, model, form or context length, for sequences that are too long, and
    for what else the server rejects; `ScoringError` if it does not answer, or without usable log-probs.
    """

    def __init__(
        self,
        address: str,
        tokenizer: SegmentTokenizer | None = None,
        *,
        model: str | None = None,
        context_length: int | None = None,
        form: FormName | Literal["auto"] = "auto",
        deadline: float = 600.0,
        attempts: int = 3,
        backoff: float = 0.5,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        check_choice("form", form, ("auto", *FORMS))
        self._server = ScoringServer(
            address, deadline=deadline, attempts=attempts, backoff=backoff, transport=transport
        )
        self._lock = threading.Lock()  # tokenizers are not thread-safe
        try:
            served = self._server.served(model)
            self.model = served.model
            self.context_length = _context_length(context_length, served.max_length, self._server.address)
            self.tokenizer = tokenizer if tokenizer is not None else ServerTokenizer(self._server, served)
            self.form = self._form(form, served.owner)
        except BaseException:
            self.close()
            raise

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """One score per evidence of each request, in nats."""
        with self._lock:
            trunks, branches = plan(requests, self.tokenizer, self.context_length)
        reads = [Read(trunks[branch.trunk][: branch.shared] + branch.ids, branch.answer) for branch in branches]
        longest = max((len(read.ids) for read in reads), default=0)
        if longest > self.context_length:
            raise ConfigurationError(
                f"a sequence of {longest} tokens is left of an evidence and an answer without their context, but "
                f"context_length is {self.context_length}; retrieve fewer passages, or serve the model with a longer "
                "context"
            )
        logprobs: dict[Read, list[float]] = {}
        batch = [end // CACHED_TOKENS for end in accumulate(map(len, trunks))]  # of each trunk
        for _, members in groupby(zip(branches, reads, strict=True), lambda pair: batch[pair[0].trunk]):
            new = [(branch, read) for branch, read in members if read not in logprobs]
            self._server.ask(FORMS[self.form].cache(self.model, _prefixes(trunks, (branch for branch, _ in new))))
            logprobs |= self._logprobs(self.form, list(dict.fromkeys(read for _, read in new)))
        scores = iter(
            weighted_mean(logprobs[read], head_weight=branch.head_weight)
            for branch, read in zip(branches, reads, strict=True)
        )
        return [[next(scores) for _ in request.evidences] for request in requests]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids of a whole episode, special tokens included."""
        with self._lock:
            return self.tokenizer.decode_whole(ids)

    def close(self) -> None:
        """Close connections and threads."""
        self._server.close()

    def _logprobs(self, form: FormName, reads: Sequence[Read]) -> dict[Read, list[float]]:
        """The log-probs of the answer of each read."""
        answers = self._server.ask(FORMS[form].requests(self.model, reads))
        values = iter([value for answer in answers for value in answer])
        return {read: [next(values) for _ in range(read.answer)] for read in reads}

    def _form(self, form: FormName | Literal["auto"], owner: str) -> FormName:
        """The form that works, found by scoring a probe. Raises `ScoringError` if it does not."""
        ids = self.tokenizer.encode(PROBE)
        probe = [Read(ids, len(ids) // 2)]
        found: FormName = "vllm" if owner == "vllm" else "sglang" if owner == "sglang" else "openai"
        chosen = found if form == "auto" else form
        try:
            self._logprobs(chosen, probe)
        except (ScoringError, ConfigurationError) as error:
            if form != "auto" or chosen != "vllm":
                raise
            logger.info("%s: no log-probs of given token ids, so those of prompts are used (%s)", self.model, error)
            chosen = "vllm_prompt"
            self._logprobs(chosen, probe)
        if chosen != "sglang" and not self._server.ask([normalised(self.model, ids)])[0]:
            raise ConfigurationError(
                f"{self._server.address}: the probabilities of five tokens add up to more than 1, so its log-probs are "
                "none; start a vLLM server with --logprobs-mode raw_logprobs, its default"
            )
        return chosen


def _context_length(wanted: int | None, served: int | None, address: str) -> int:
    """The context length of a scorer, checked against the server's."""
    if wanted is None:
        if served is None:
            raise ConfigurationError(
                f"context_length=None: {address} does not say how long its context is; pass context_length"
            )
        return served - 1
    check_range("context_length", wanted, 2)
    if served is not None and wanted >= served:
        raise ConfigurationError(
            f"context_length={wanted}: {address} has a context of {served} tokens and needs one of them to generate; "
            f"start it with a context of {wanted + 1} (vLLM: --max-model-len, SGLang: --context-length), or lower "
            "context_length"
        )
    return wanted


def _prefixes(trunks: Sequence[Ids], branches: Iterable[Branch]) -> list[Ids]:
    """What branches share of their trunks, once each."""
    shared: dict[int, int] = {}
    for branch in branches:
        shared[branch.trunk] = max(shared.get(branch.trunk, 0), branch.shared)
    return list(dict.fromkeys(trunks[trunk][:length] for trunk, length in shared.items() if length))
