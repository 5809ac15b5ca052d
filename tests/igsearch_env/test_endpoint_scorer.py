"""`EndpointScorer` gives the scores of `PolicyScorer`, or an error that says why not."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any, get_args

import numpy as np
import pytest
from models import bundled_policy, turn_end
from scoring_server import ScoringServer, with_logprob
from services import free_port, raw_service, serving
from starlette.responses import HTMLResponse, JSONResponse, Response

from algorithms.common.model.policy import Policy
from algorithms.common.rollout.answer_scorer import PolicyScorer, measure_information_gain
from algorithms.common.rollout.buffer import RolloutBuffer
from algorithms.common.rollout.collect import collect
from algorithms.common.rollout.decoder import Decoder
from igsearch_env import ConfigurationError, IGSearchEnv, ScoringError, endpoint_forms
from igsearch_env.endpoint_scorer import EndpointScorer
from igsearch_env.evidence import search_steps
from igsearch_env.information_gain import ContextForm, InformationGain, InformationGainConfig
from igsearch_env.protocols import make_protocol
from igsearch_env.rules import EpisodeRules
from igsearch_env.scorers import ScoreRequest, Segment
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.world.bundled import bundled_retriever, bundled_world
from retrievers.service.faults import FaultyTransport

BARE = make_protocol("search_r1", "bare")
CLOSE = 1e-5  # nats, by which float32 rounding differs between the passes of a batch
# Which server, whether it knows `logprob_token_ids`, and the form that is found for it.
SERVERS = {
    "vllm": ("vllm", True),
    "vllm_prompt": ("vllm", False),
    "sglang": ("sglang", True),
    "openai": ("another", True),
}
forms = pytest.mark.parametrize("form", SERVERS)


@lru_cache(maxsize=1)
def policy() -> Policy:
    """With a context shorter than that of the server, which has to generate a token."""
    return bundled_policy(context_length=1023)


@lru_cache(maxsize=1)
def buffer() -> RolloutBuffer:
    questions = bundled_world().questions["train"]
    stepper = EpisodeStepper(questions, bundled_retriever(), None, EpisodeRules(protocol=BARE))
    decoder = Decoder(policy(), turn_end(policy()), slots=6, max_new_tokens=12, temperature=1.0)
    return collect(decoder, stepper, questions[:3], group_size=2, seed=(0,))


def gain(scorer: Any, **options: Any) -> InformationGain:
    return InformationGain(InformationGainConfig(**options), scorer, BARE, bundled_retriever())


def some_requests(**options: Any) -> list[ScoreRequest]:
    requests, _ = gain(PolicyScorer(policy()), **options).requests(search_steps(buffer().trajectories))
    assert len(requests) >= 6
    return requests


@contextmanager
def server_of(
    form: str, owned: Policy | None = None, max_model_len: int | None = 1024
) -> Iterator[tuple[ScoringServer, str]]:
    owner, labels = SERVERS[form]
    server = ScoringServer(owned or policy(), owner, max_model_len=max_model_len)
    server.labels = labels
    with serving(server.app) as address:
        yield server, address


@contextmanager
def scorer_of(form: str, **options: Any) -> Iterator[tuple[EndpointScorer, ScoringServer]]:
    with server_of(form) as (server, address):
        options = {"tokenizer": policy().tokenizer, "backoff": 0.0, **options}
        with closing(EndpointScorer(address, **options)) as scorer:
            assert scorer.form == form
            server.bodies.clear()
            yield scorer, server


def assert_same(found: list[list[float]], wanted: list[list[float]]) -> None:
    assert list(map(len, found)) == list(map(len, wanted))
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(wanted), atol=CLOSE)


# ---------------------------------------------------------------- scores


@forms
def test_scores_are_those_of_the_policy(form: str) -> None:
    plain = PolicyScorer(policy())
    with scorer_of(form) as (scorer, _):
        for options in ({}, {"context": "skeleton", "baseline": "previous"}, {"head_weight": 1.0, "baseline": "empty"}):
            requests = some_requests(**options)
            assert_same(scorer.score(requests), plain.score(requests))
        assert scorer.score([]) == []


@forms
def test_contexts_are_truncated_as_the_policy_truncates_them(form: str) -> None:
    short = bundled_policy(context_length=72)
    requests = some_requests()
    trunks, _ = PolicyScorer(short).plan(requests)
    assert max(map(len, trunks)) < max(map(len, PolicyScorer(policy()).plan(requests)[0]))
    with scorer_of(form, context_length=72) as (scorer, _):
        assert_same(scorer.score(requests), PolicyScorer(short).score(requests))


@pytest.mark.parametrize("form", ["vllm", "sglang"])
def test_the_server_can_tokenise(form: str) -> None:
    with scorer_of(form, tokenizer=None) as (scorer, _):
        for context in get_args(ContextForm):
            requests = [
                replace(r, context=tuple(Segment(s.text) for s in r.context)) for r in some_requests(context=context)
            ]
            assert_same(scorer.score(requests), PolicyScorer(policy()).score(requests))
        ids = policy().tokenizer.encode("A city<|endoftext|>")
        assert scorer.decode(ids) == policy().tokenizer.decode_whole(ids)


@pytest.mark.parametrize("form", ["vllm", "sglang"])
def test_names_of_special_tokens_in_passages(form: str) -> None:
    special = policy().tokenizer.hf_tokenizer.eos_token
    request = ScoreRequest((Segment("Question?"),), (Segment(f"about {special}"),), BARE.answer_prefix, " x")
    with scorer_of(form) as (scorer, _):
        assert_same(scorer.score([request]), PolicyScorer(policy()).score([request]))
    with scorer_of(form, tokenizer=None) as (scorer, _):
        with pytest.raises(
            ConfigurationError, match=rf"special token {re.escape(special)}.*pass the model's tokenizer"
        ):
            scorer.score([request])
        tags = replace(request, evidences=(Segment(f"a <b> [c] {BARE.markers[0]}"),))  # no special token among them
        assert_same(scorer.score([tags]), PolicyScorer(policy()).score([tags]))


def test_an_answer_directly_after_shared_tokens() -> None:
    """The token that predicts its first token is part of the branch, though all of them are in the trunk."""
    request = ScoreRequest((Segment("Who?"),), (Segment(" Some text."), Segment(" Other text.")), "", " Paris")
    wanted = PolicyScorer(policy(), shared=False).score([request])
    assert_same(PolicyScorer(policy()).score([request]), wanted)
    with scorer_of("vllm") as (scorer, _):
        assert_same(scorer.score([request]), wanted)


@forms
def test_many_prompts_are_sent_in_parts_and_each_read_once(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    most, labels = 8, 6
    monkeypatch.setattr(endpoint_forms, "REQUEST_PROMPTS", most)
    monkeypatch.setattr(endpoint_forms, "LABELS", labels)
    words = policy().tokenizer.encode("a city of the north that has an old name and a river")
    rng = np.random.default_rng(0)
    evidences = [Segment("", tuple(rng.choice(words, 4).tolist())) for _ in range(most + 5)]
    ids = tuple(rng.permutation(1_000)[: labels + 2].tolist())
    answers = [" Rome", policy().tokenizer.decode_whole(ids)]  # more different tokens than one request may name
    context = (Segment("Question?"),)
    requests = [ScoreRequest(context, tuple(evidences), BARE.answer_prefix, answers[0])]
    requests += [ScoreRequest(context, (evidences[0],), BARE.answer_prefix, answers[0])]
    requests += [ScoreRequest(context, (Segment(" Other."),), BARE.answer_prefix, answers[1])]
    with scorer_of(form) as (scorer, server):
        assert_same(scorer.score([*requests, *requests]), PolicyScorer(policy()).score([*requests, *requests]))
        bodies = [body for body in server.bodies if "return_logprob" in body or "prompt" in body]
        prompts = [tuple(p) for body in bodies for p in body.get("prompt", body.get("input_ids"))]
        assert len(bodies) > 1
        assert max(len(body.get("prompt", body.get("input_ids"))) for body in bodies) <= most
        assert max(len(body.get("logprob_token_ids", ())) for body in bodies) <= labels
        assert len(prompts) == len(set(prompts))


def test_sglang_reads_contexts_before_their_branches() -> None:
    requests = some_requests()
    trunks, branches = PolicyScorer(policy()).plan(requests)
    with scorer_of("sglang") as (scorer, server):
        scorer.score(requests)
        first, *others = server.bodies
    assert "return_logprob" not in first
    read = {tuple(prompt) for prompt in first["input_ids"]}
    assert read == {trunks[t][: max(b.shared for b in branches if b.trunk == t)] for t in range(len(trunks))}
    assert all(min(body["logprob_start_len"]) > 20 for body in others)  # so they may be read from the cache


@forms
def test_threads_may_score_at_the_same_time(form: str) -> None:
    requests = some_requests()
    wanted = PolicyScorer(policy()).score(requests)
    with scorer_of(form) as (scorer, _), ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda request: scorer.score([request])[0], requests))
    assert_same(found, wanted)


def test_the_environment_and_buffers_use_it() -> None:
    questions = bundled_world().questions["train"][:4]
    rewards = []
    with scorer_of("vllm") as (endpoint, _):
        for scorer in (PolicyScorer(policy()), endpoint):
            env = IGSearchEnv(questions, bundled_retriever(), scorer=scorer)
            env.reset(seed=0)
            _, reward, *_ = env.step(
                BARE.write_search("a city of the north")
                if hasattr(BARE, "write_search")
                else "<search> a city of the north </search>"
            )
            measure_information_gain(buffer(), gain(scorer))
            gains = [t.gain.value for trajectory in buffer().trajectories for t in trajectory.turns if t.gain]
            rewards.append([float(reward), *gains])
    assert len(rewards[0]) >= 7
    np.testing.assert_allclose(rewards[1], rewards[0], atol=2 * CLOSE)


# ---------------------------------------------------------------- failures

REQUEST = ScoreRequest((Segment("Question?"),), (Segment(" Text."), Segment(" Other.")), BARE.answer_prefix, " a")


def short(content: Any) -> Any:
    """A response with one result too few."""
    return content[:-1] if isinstance(content, list) else {**content, "choices": content["choices"][:-1]}


def without_logprobs(content: Any) -> Any:
    """A response whose results have no log-probs."""
    if isinstance(content, list):
        return [{**item, "meta_info": {"prompt_tokens": 3}} for item in content]
    return {**content, "choices": [{"index": c["index"], "text": "a", "logprobs": None} for c in content["choices"]]}


def one_index(content: Any) -> Any:
    """A response whose results have the same number."""
    if isinstance(content, list):
        return [{**item, "index": 0} for item in content]
    return {"choices": [{**choice, "index": 0} for choice in content["choices"]]}


SHAPES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "too_few": (short, r"results for \d+ prompts where \d+ were sent"),
    "no_logprobs": (without_logprobs, "no log-probs where they belong"),
    "null": (with_logprob(None), "null for the log-prob of a token of the answer"),
    "nan": (with_logprob(float("nan")), "'nan'.*finite number"),
    "infinite": (with_logprob(float("-inf")), "'-inf'.*finite number"),
    "excluded": (with_logprob(-9999.0), "-9999.0 for a token of the answer: the server excludes that token"),
    "positive": (with_logprob(2.5), "must not be above 0.*raw_logprobs"),
    "empty": (lambda content: {}, "no log-probs where they belong"),
    "same_index": (
        lambda content: (
            content[:1] if isinstance(content, list) else {"choices": [content["choices"][0]] * len(content["choices"])}
        ),
        "numbers its|results for",
    ),
    "a_number": (lambda content: 3, "no log-probs where they belong"),
}


def reads_context(content: Any) -> bool:
    """Whether it is SGLang's response to a request that fills its cache, which has no log-probs."""
    return isinstance(content, list) and "input_token_logprobs" not in content[0]["meta_info"]


@forms
@pytest.mark.parametrize("kind", SHAPES)
def test_malformed_responses(form: str, kind: str) -> None:
    with scorer_of(form) as (scorer, server):
        shape, message = SHAPES[kind]
        server.shape = (
            shape if form != "sglang" else lambda c: shape(c) if "input_token_logprobs" in c[0]["meta_info"] else c
        )
        with pytest.raises(ScoringError, match=message):
            scorer.score([REQUEST])


def test_log_probs_of_other_tokens() -> None:
    def other(content: Any) -> Any:
        for item in content:
            for row in item["meta_info"].get("input_token_logprobs", ()):
                row[1] += 1
        return content

    with scorer_of("sglang") as (scorer, server):
        server.shape = other
        with pytest.raises(ScoringError, match=r"log-probs of the tokens \(.*\) where \(.*\) were sent"):
            scorer.score([REQUEST])
    with scorer_of("openai") as (scorer, server):  # truncated by the server, or tokenised by it
        server.shape = lambda content: {
            "choices": [{**c, "logprobs": {"token_logprobs": [None, -1.0]}} for c in content["choices"]]
        }
        with pytest.raises(ScoringError, match=r"log-probs of 2 tokens for a prompt of \d+"):
            scorer.score([REQUEST])


FAULTS: dict[str, Callable[[], Response]] = {
    "status_500": lambda: JSONResponse({"detail": "broken"}, 500),
    "status_503": lambda: JSONResponse({"detail": "busy"}, 503),
    "status_429": lambda: JSONResponse({"detail": "busy"}, 429, headers={"retry-after": "0"}),
    "html": lambda: HTMLResponse("<html>please log in</html>"),
    "cut": lambda: Response('{"choices": [{"index": 0, "logpr', media_type="application/json"),
}


@forms
@pytest.mark.parametrize("fault", FAULTS)
def test_what_may_pass_is_tried_again(form: str, fault: str) -> None:
    with scorer_of(form, attempts=2) as (scorer, server):
        server.faults = [FAULTS[fault]()]
        assert_same(scorer.score([REQUEST]), PolicyScorer(policy()).score([REQUEST]))
        server.faults = [FAULTS[fault]() for _ in range(2)]
        with pytest.raises(ScoringError, match=r"scoring server failed \(2 attempts.*Check that it runs"):
            scorer.score([REQUEST])


def test_injected_faults_do_not_change_scores() -> None:
    requests = some_requests()
    transport = FaultyTransport(rate=0.5, seed=2, kinds=["connect", "half_closed", "status_500", "html", "truncated"])
    with scorer_of("vllm_prompt", attempts=8, transport=transport) as (scorer, _):
        for request in requests:
            assert_same(scorer.score([request]), PolicyScorer(policy()).score([request]))
    assert transport._schedule.injected.total() >= 3


def test_no_server() -> None:
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ScoringError, match=rf"{address}/v1/models: ConnectError"):
        EndpointScorer(address, policy().tokenizer, attempts=1)


def test_a_server_that_does_not_answer_in_time() -> None:
    with raw_service(lambda connection, ended: (connection.recv(1), ended.wait())[0] and None) as address:
        start = time.monotonic()
        with pytest.raises(ScoringError, match=r"within|deadline"):
            EndpointScorer(address, policy().tokenizer, deadline=0.5, attempts=2)
        assert time.monotonic() - start < 5


def test_api_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    with server_of("vllm") as (server, address):
        server.token = "sesame"
        with pytest.raises(ConfigurationError, match=r"401.*give its API key in the address") as error:
            EndpointScorer(address.replace("http://", "http://wrong@"), policy().tokenizer)
        assert "wrong" not in str(error.value)
        monkeypatch.setenv("IGSEARCH_CREDENTIALS", "sesame")
        for credentials in ("sesame", "***"):
            scorer = EndpointScorer(address.replace("http://", f"http://{credentials}@"), policy().tokenizer)
            with closing(scorer):
                assert len(scorer.score([REQUEST])[0]) == 2


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/", "/v1/completions", "/generate"])
def test_addresses(suffix: str) -> None:
    with server_of("vllm") as (_, address), closing(EndpointScorer(address + suffix, policy().tokenizer)) as scorer:
        assert scorer.model == "policy"


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "model": ({"model": "x"}, r"model='x': .* serves \['policy'\]; name one of them"),
    "form": ({"form": "vlm"}, "form='vlm'.*did you mean 'vllm'"),
    "deadline": ({"deadline": 0}, "deadline must be above 0"),
    "attempts": ({"attempts": 0}, "attempts at least 1"),
    "context_length": ({"context_length": 1024}, r"has a context of 1024 tokens.*--max-model-len"),
    "small_context": ({"context_length": 1}, "context_length=1: must be at least 2"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_arguments(what: str) -> None:
    options, message = WRONG[what]
    with server_of("vllm") as (_, address), pytest.raises(ConfigurationError, match=message):
        EndpointScorer(address, policy().tokenizer, **options)


@pytest.mark.parametrize("address", ["localhost:8000", "ftp://x", "http://", "http://x?y=1"])
def test_wrong_addresses(address: str) -> None:
    with pytest.raises(ConfigurationError, match="the address of a scorer"):
        EndpointScorer(address, policy().tokenizer)


def test_several_models() -> None:
    with server_of("vllm") as (server, address):
        server.cards.append({**server.cards[0], "id": "adapter"})
        with pytest.raises(ConfigurationError, match=r"model=None: .* serves \['policy', 'adapter'\]"):
            EndpointScorer(address, policy().tokenizer)
        with closing(EndpointScorer(address, policy().tokenizer, model="adapter")) as scorer:
            scorer.score([REQUEST])
        assert {body["model"] for body in server.bodies} == {"adapter"}


def test_servers_that_say_less() -> None:
    with server_of("openai", max_model_len=None) as (_, address):
        with pytest.raises(ConfigurationError, match="does not say how long its context is; pass context_length"):
            EndpointScorer(address, policy().tokenizer)
        with pytest.raises(ConfigurationError, match=r"tokenizer=None.*pass the model's tokenizer"):
            EndpointScorer(address, context_length=512)
        with closing(EndpointScorer(address, policy().tokenizer, context_length=512)) as scorer:
            assert scorer.context_length == 512


def test_sequences_that_are_too_long() -> None:
    with scorer_of("vllm", context_length=20) as (scorer, server):
        request = replace(REQUEST, evidences=(Segment(" many words" * 30),))
        with pytest.raises(ConfigurationError, match=r"sequence of \d+ tokens.*context_length is 20.*fewer passages"):
            scorer.score([request])
        assert not server.bodies


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (replace(REQUEST, answer=""), "the answer '' has no token to score"),
        (ScoreRequest((), (Segment(""),), "", " a"), "nothing is before the answer ' a'"),
    ],
    ids=["empty", "first"],
)
def test_answers_without_a_probability(whole: bool, request_: ScoreRequest, message: str) -> None:
    with scorer_of("vllm") as (scorer, _):
        for each in (scorer, PolicyScorer(policy())):
            with pytest.raises(ConfigurationError, match=message):
                each.score([replace(request_, whole=whole)])


def test_another_tokenizer_than_the_models() -> None:
    with scorer_of("vllm") as (scorer, server):
        server.vocabulary = 5  # of a smaller model
        with pytest.raises(ConfigurationError, match=r"out of vocabulary.*check that the tokenizer is the model's"):
            scorer.score([REQUEST])


@pytest.mark.parametrize("form", ["vllm", "vllm_prompt", "openai"])
def test_logits_in_place_of_log_probs(form: str) -> None:
    with server_of(form) as (server, address):
        server.logits = 3.0  # still below 0 for improbable tokens
        with pytest.raises((ConfigurationError, ScoringError), match="raw_logprobs"):
            EndpointScorer(address, policy().tokenizer)
        server.logits = 0.0
        EndpointScorer(address, policy().tokenizer).close()
