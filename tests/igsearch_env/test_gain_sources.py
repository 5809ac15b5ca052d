"""Sources of gains beside the measured one: what a control gives to whom, and where it is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from helpers import PASSAGES, CountingRetriever, LengthScorer, make_env, played, search

from igsearch_env import ConfigurationError, Gain, InformationGain, InformationGainConfig, Trajectory, measure_gains
from igsearch_env.corpus_pages import CorpusPages
from igsearch_env.evidence import search_steps
from igsearch_env.gain_sources import FLOOR, OF_BATCHES, progress_made
from igsearch_env.oracles import ORACLES, progress_by
from igsearch_env.protocols import make_protocol
from igsearch_env.questions import Question
from igsearch_env.world.bundled import bundled_retriever, bundled_world
from retrievers import BM25Retriever, Passage, Retriever

BRIN, TOLONA, RIVER, SOREL, *_ = PASSAGES
BRIDGE = Question("b", "In which city?", ("Veria",), "bridge", {"supporting_titles": ["Alan Brin", "The  tolona"]})
TITLES = {"supporting_titles": ["Alan Brin", "Tolona"]}
KNOWN = Question("c", "In which city?", ("Veria",), "bridge", TITLES)
ELSEWHERE = Question("e", "In which city?", ("Veria",), "bridge", {"supporting_titles": ["The River"]})
BARE = Question("n", "Who?", ("Mira Sorel",), "natural")


def episode(question: Question, *found: Sequence[Passage]) -> Trajectory:
    """An episode whose searches found these passages."""
    return played(question, *((search(f"query {number}"), passages) for number, passages in enumerate(found)))


def batch(
    source: str,
    trajectories: Sequence[Trajectory],
    seed: int = 0,
    baseline: str = "empty",
    retriever: Retriever | None = None,
) -> list[Gain]:
    """The gains of all searches, in order."""
    config = InformationGainConfig.of({"source": source, "baseline": baseline})
    gain = InformationGain(config, LengthScorer() if config.needs_scorer else None, make_protocol(), retriever, seed)
    return gain.of_batch(search_steps(trajectories))


@pytest.mark.parametrize("baseline", ["empty", "previous"])
def test_shuffled_gains_are_the_measured_ones_in_another_order(baseline: str) -> None:
    texts = [Passage(str(n), "Page", "word " * (n + 1)) for n in range(24)]
    trajectories = [episode(BARE, texts[n : n + 1], texts[n + 1 : n + 2]) for n in range(0, 24, 2)]
    measured = batch("policy", trajectories, baseline=baseline)
    shuffled = batch("shuffled", trajectories, baseline=baseline)
    assert shuffled != measured
    assert sorted(map(str, shuffled)) == sorted(map(str, measured))  # whole: value, both scores and evidences
    assert shuffled == batch("shuffled", trajectories, baseline=baseline)
    assert shuffled != batch("shuffled", trajectories, seed=1, baseline=baseline)


def test_shuffled_gains_are_shuffled_after_processes_have_gathered_theirs() -> None:
    steps = search_steps([episode(BARE, PASSAGES[n : n + 1]) for n in range(8)])
    config = InformationGainConfig.of({"source": "shuffled", "baseline": "empty"})
    gain = InformationGain(config, LengthScorer(), make_protocol())
    whole = gain.of_batch(steps)

    def gather(mine: list[Gain]) -> list[Gain]:
        return [*mine, *gain.measure(steps[5:], steps)]

    assert gain.of_batch(steps, steps[:5], gather) == whole


def test_random_gains_have_no_mean_and_the_documented_deviation() -> None:
    steps = search_steps([episode(BARE, [BRIN])]) * 20_000
    gains = InformationGain(InformationGainConfig(source="random"), None, make_protocol(), None, 3).of_batch(steps)
    for values, deviation in (
        ([gain.value for gain in gains], math.sqrt(2)),
        ([gain.in_probability for gain in gains], 1 / math.sqrt(6)),
    ):
        assert abs(np.mean(values)) < 0.03
        assert np.std(values) == pytest.approx(deviation, rel=0.02)
    assert all(gain.value == gain.logprob_real - gain.logprob_baseline for gain in gains)
    assert max(gain.logprob_real for gain in gains) <= 0


def test_support_pays_each_supporting_page_once_per_episode() -> None:
    found = [[SOREL], [BRIN, RIVER], [BRIN], [SOREL, TOLONA]]
    trajectories = [episode(BRIDGE, *found), episode(BRIDGE, [TOLONA, BRIN])]
    gains = batch("support", trajectories)
    assert [progress_made(gain) for gain in gains] == pytest.approx([0, 0.5, 0, 0.5, 1])
    half = math.log((1 + FLOOR) / 2)
    assert [gain.value for gain in gains] == pytest.approx([0, half + 2, 0, -half, 2])


def test_support_pays_for_passages_where_their_ids_are_known() -> None:
    other = Passage("p9", "Alan Brin", "Alan Brin lived in Karith.")
    question = Question("i", "?", ("Veria",), "bridge", {**BRIDGE.metadata, "supporting_ids": ["p0", "p1"]})
    gains = batch("support", [episode(question, [other], [BRIN], [TOLONA])])
    assert [progress_made(gain) for gain in gains] == pytest.approx([0, 0.5, 0.5])


@pytest.mark.parametrize("source", ORACLES)
def test_oracles_need_supporting_titles(source: str) -> None:
    with pytest.raises(ConfigurationError, match="data set 'natural' has no supporting_titles"):
        batch(source, [episode(BRIDGE, [BRIN]), episode(BARE, [BRIN])], retriever=BM25Retriever(PASSAGES))


def test_distance_pays_for_hops_to_the_page_that_answers() -> None:
    # The river's page mentions Brin's, which mentions Tolona's, which holds the answer.
    question = Question("d", "In which country was the author of The Silent River born?", ("Veria",), "d", TITLES)
    retriever = BM25Retriever(PASSAGES)
    found = [[SOREL], [RIVER, SOREL], [RIVER], [TOLONA], [BRIN]]
    gains = batch("distance", [episode(question, *found), episode(question, [BRIN])], retriever=retriever)
    assert [progress_made(gain) for gain in gains] == pytest.approx([0, 1 / 3, 0, 2 / 3, 0, 2 / 3])
    unnamed = Question("d", "In which country was he born?", ("Veria",), "d", TITLES)
    gains = batch("distance", [episode(unnamed, [SOREL], [BRIN], [TOLONA])], retriever=retriever)
    assert [progress_made(gain) for gain in gains] == pytest.approx([0, 1 / 2, 1 / 2])  # of two supporting pages


def test_mentions_are_names_and_leave_out_what_stands_in_brackets() -> None:
    passages = [
        Passage("a", "Red Karith (film)", "About a river. Red (album) is its music."),
        Passage("b", "Ostue", "It is seen in Red Karith, a film."),
        Passage("c", "Red (album)", "It is as red karith is, and red (album) too."),
    ]
    pages = CorpusPages(passages)
    assert pages.named_in("who made the red karith?") == {"red karith film"}
    assert pages.hops(frozenset({"red karith film"})) == {"red karith film": 0, "ostue": 1}
    assert pages.hops(frozenset({"red album"})) == {"red album": 0, "red karith film": 1, "ostue": 2}


def test_questions_that_nothing_supports_pay_nothing() -> None:
    question = Question("u", "Where was Nobody born?", ("unknown",), "made", {"supporting_titles": []})
    for source in ORACLES:
        gains = batch(source, [episode(question, [BRIN])], retriever=BM25Retriever(PASSAGES))
        assert [gain.value for gain in gains] == [0]


def test_similarity_pays_for_the_rise_of_the_highest_cosine() -> None:
    found = [[SOREL], [RIVER], [BRIN], [BRIN, TOLONA]]
    (first, second, third, fourth) = batch("similarity", [episode(KNOWN, *found)], retriever=BM25Retriever(PASSAGES))
    assert 0 <= progress_made(first) < progress_made(second) < 0.5
    total = [progress_made(gain) for gain in (first, second, third, fourth)]
    assert sum(total) == pytest.approx(1)
    assert min(total) >= 0


@pytest.mark.parametrize("source", ["distance", "similarity"])
def test_oracles_of_the_corpus_refuse_one_that_cannot_be_listed(source: str) -> None:
    hidden = CountingRetriever(BM25Retriever(PASSAGES))
    with pytest.raises(ConfigurationError, match=r"a CountingRetriever can't list them.*or use 'support'"):
        make_env(questions=[KNOWN], retriever=hidden, scorer=None, information_gain={"source": source})
    with pytest.raises(ConfigurationError, match=r"the corpus has none of the supporting pages \('The River',"):
        make_env(questions=[ELSEWHERE], scorer=None, information_gain={"source": source})


@pytest.mark.parametrize("source", ORACLES)
def test_every_oracle_sees_all_evidence_of_the_bundled_world_as_all_of_the_way(source: str) -> None:
    world = bundled_world()
    progress = progress_by(source, bundled_retriever())
    for question in world.questions["dev"][:28]:
        evidence = world.evidence(question)
        values = [progress(question, evidence[:count]) for count in range(len(evidence) + 1)]
        assert values[0] == 0
        assert values[-1] == pytest.approx(1)
        assert values == sorted(values)


@pytest.mark.parametrize("protocol", ["search_r1", "autorefine"])
def test_an_environment_pays_support_without_a_scorer(protocol: str) -> None:
    env = make_env(questions=[BRIDGE], scorer=None, protocol=protocol, information_gain={"source": "support"}, top_k=1)
    env.reset()
    rewards = [env.step(text)[1] for text in (search("Alan Brin"), search("Alan Brin"), "<answer> no </answer>")]
    value = math.log((1 + FLOOR) / 2) + 2
    paid = InformationGainConfig().stabilise(value)
    assert rewards == pytest.approx([paid, 0, 0] if protocol == "search_r1" else [0, paid, 0])
    assert [turn.gain and round(turn.gain.value, 6) for turn in env.trajectory.turns] == [round(value, 6), 0, None]


@pytest.mark.parametrize("source", OF_BATCHES)
def test_an_environment_refuses_sources_of_batches(source: str) -> None:
    with pytest.raises(ConfigurationError, match=f"source='{source}'.*a whole batch"):
        make_env(questions=[BRIDGE], information_gain={"source": source})


def test_an_environment_refuses_questions_without_supporting_titles_when_it_is_made() -> None:
    with pytest.raises(ConfigurationError, match="data set 'natural'"):
        make_env(questions=[BRIDGE, BARE], scorer=None, information_gain={"source": "support"})


def test_gains_of_trajectories_that_were_played() -> None:
    trajectory = episode(BRIDGE, [BRIN], [SOREL])
    measure_gains([trajectory], None, information_gain={"source": "support"})
    assert [turn.gain is not None and turn.gain.value > 0 for turn in trajectory.turns] == [True, False]
    with pytest.raises(ConfigurationError, match="must be an AnswerScorer"):
        measure_gains([trajectory], None, retriever=BM25Retriever(PASSAGES))


def test_unknown_source() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'shuffled'"):
        InformationGainConfig.of({"source": "shufled"})
