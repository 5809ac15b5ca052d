"""Scorers by name: models, servers, and what is refused; and the statistics that scorers of a retriever share."""

from __future__ import annotations

import gc
import sys
import time
import types
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from helpers import PASSAGES, QUESTIONS, CountingRetriever, make_env, make_envs, small_retriever
from models import save_tiny_policy

from igsearch_env import ENV_ID, ConfigurationError, IGSearchEnv, Search, UnigramScorer, scorers
from igsearch_env.named_scorers import ENDPOINT_SCORER, MODEL_SCORER
from igsearch_env.scorers import ScoreRequest, Segment
from retrievers import BM25Retriever

CORPUS = {"information_gain": {"random_source": "corpus", "dead_zone": 0.0}}


def gain(env: IGSearchEnv) -> float:
    """The gain of one search."""
    env.reset(options={"question": QUESTIONS[0]})
    return float(env.step(Search("Alan Brin"))[4]["information_gain"])


def test_a_model_by_the_name_of_its_folder(tmp_path: Path) -> None:
    from algorithms.common.model.config import PolicyConfig
    from algorithms.common.model.policy import Policy
    from algorithms.common.rollout.answer_scorer import PolicyScorer

    folder = save_tiny_policy(tmp_path / "model")
    expected = gain(make_env(scorer=PolicyScorer(Policy.load(PolicyConfig(path=str(folder)))), **CORPUS))
    for name in (str(folder), folder):
        assert gain(make_env(scorer=name, **CORPUS)) == expected
    made = gymnasium.make(ENV_ID, scorer=str(folder))
    made.reset(seed=0)
    assert made.step(Search("river"))[4]["logprob_real"] < 0
    envs = gymnasium.make_vec(ENV_ID, num_envs=2, scorer=str(folder))
    envs.reset(seed=0)
    assert (envs.step([Search("river")] * 2)[4]["logprob_real"] < 0).all()
    envs.close()


def test_the_bundled_policy_scores() -> None:
    assert gain(make_env(scorer="bundled", **CORPUS)) != gain(make_env(**CORPUS))


class FakeEndpoint:
    """What the module of servers has to define."""

    closed = 0

    def __init__(self, url: str) -> None:
        self.url = url

    def score(self, requests: Any) -> list[list[float]]:
        return [[-1.0 - j for j in range(len(request.evidences))] for request in requests]

    def close(self) -> None:
        FakeEndpoint.closed += 1


def test_a_server_by_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType(ENDPOINT_SCORER)
    module.EndpointScorer = FakeEndpoint  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, ENDPOINT_SCORER, module)
    env = make_env(scorer="http://127.0.0.1:8000/v1", **CORPUS)
    assert gain(env) == 2.0  # -1 over the mean of -2, -3 and -4
    assert env.stepper.scorer.url == "http://127.0.0.1:8000/v1"  # type: ignore[union-attr]
    before = FakeEndpoint.closed
    env.close()
    made = make_env(scorer="HTTP://127.0.0.1:8000/V1")
    assert made.stepper.scorer.url == "http://127.0.0.1:8000/V1"  # type: ignore[union-attr]
    make_envs(2, scorer="https://127.0.0.1:1").close()
    assert FakeEndpoint.closed == before + 2
    make_env(scorer=FakeEndpoint("x")).close()  # type: ignore[arg-type]
    assert FakeEndpoint.closed == before + 2  # it belongs to the caller


@pytest.mark.parametrize("module", [ENDPOINT_SCORER, MODEL_SCORER])
def test_what_is_not_installed_is_named(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    name = "http://127.0.0.1:1" if module == ENDPOINT_SCORER else "Qwen/Qwen3-0.6B"
    said = "this installation has no|can't be used" if module == ENDPOINT_SCORER else r"pip install 'igsearch\[train\]"
    with pytest.raises(ConfigurationError, match=rf"scorer='{name}'.*({said})"):
        make_env(scorer=name)


@pytest.mark.parametrize("make", [make_env, lambda **options: make_envs(2, **options)], ids=["single", "vector"])
@pytest.mark.parametrize(
    ("scorer", "said"),
    [
        ("bigram", "scorer='bigram': must be one of 'unigram'.*did you mean 'unigram'"),
        ("", "scorer='': must be one of"),
        ("127.0.0.1:8000", "must be one of .*'http://HOST:PORT'"),
        (7, r"scorer=7: must be an AnswerScorer, that is, have score\(requests\)"),
        (UnigramScorer, "scorer=.*must be an AnswerScorer"),
        ("x" * 300, "scorer='xxx.*must be one of 'unigram'"),
        ("x\0", "scorer='x.*must be one of 'unigram'"),
        ("/" + "x" * 5_000, "scorer='/xxx.*can't be read as a model"),
        ("HTTP://", "address of a scorer.*http:// or https:// and a host"),
        ("./missing-folder", r"scorer='\./missing-folder'.*no config\.json"),
    ],
    ids=["name", "empty", "address without http", "number", "class", "long", "null", "long path", "no host", "folder"],
)
def test_what_is_no_scorer_is_named(make: Any, scorer: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        make(scorer=scorer)


# ---------------------------------------------------------------- statistics of a retriever


class Sampled(CountingRetriever):
    """Counts the samples."""

    samples = 0

    def sample(self, n: int, rng: Any) -> Any:
        self.samples += 1
        return super().sample(n, rng)


REQUEST = ScoreRequest(
    (Segment("Where was Alan Brin born?"),), (Segment("in Tolona"), Segment("in Lurm")), "", "Tolona"
)


def test_scorers_of_a_retriever_share_its_statistics() -> None:
    retriever = Sampled(small_retriever())
    first, second = UnigramScorer(retriever), UnigramScorer(retriever, mu=7)
    assert retriever.samples == 1
    assert first.score([REQUEST]) != second.score([REQUEST])
    UnigramScorer(retriever, sample=3)
    assert retriever.samples == 2
    assert UnigramScorer(Sampled(small_retriever())).score([REQUEST]) == first.score([REQUEST])


def test_another_corpus_has_its_own_statistics() -> None:
    retriever = Sampled(small_retriever())
    before = UnigramScorer(retriever).score([REQUEST])
    retriever.inner = BM25Retriever(PASSAGES[:4])  # another number of passages
    assert UnigramScorer(retriever).score([REQUEST]) != before
    assert UnigramScorer(BM25Retriever(PASSAGES[4:])).score([REQUEST]) != before


def test_statistics_live_as_long_as_their_retriever() -> None:
    gc.collect()
    before = len(scorers._known)
    kept = [Sampled(small_retriever()) for _ in range(3)]
    found = [UnigramScorer(retriever) for retriever in kept]
    for _ in range(20):
        UnigramScorer(Sampled(small_retriever()))
    gc.collect()
    assert len(scorers._known) == before + 3
    del kept
    gc.collect()
    assert len(scorers._known) == before
    assert found[0].score([REQUEST]) == found[1].score([REQUEST])


def test_a_retriever_without_weak_references_or_hash() -> None:
    class Slots(Sampled):
        __slots__ = ()
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            return True

    one, other = Slots(small_retriever()), Slots(BM25Retriever(PASSAGES[:4]))
    assert UnigramScorer(one).score([REQUEST]) != UnigramScorer(other).score([REQUEST])


def test_many_environments_open_at_once() -> None:
    gymnasium.make(ENV_ID).close()  # reads the bundled world
    start = time.perf_counter()
    for _ in range(64):
        gymnasium.make(ENV_ID)
    assert time.perf_counter() - start < 5  # 0.3 seconds; estimated for each of them it would be 9
