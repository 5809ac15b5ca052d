"""What a batch of rollouts looks like in the logs: counted by hand, and against the episodes' own rules."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers import PASSAGES
from hypothesis import given
from hypothesis import strategies as st

from algorithms.common.rollout.buffer import RolloutBuffer
from algorithms.common.training.batch_metrics import batch_metrics, throughput
from igsearch.testing.buffers import answer_turn, buffer_of, search_turn, trajectory
from igsearch_env.episode import Episode
from igsearch_env.protocols import Invalid, Search, make_protocol
from igsearch_env.questions import Question
from igsearch_env.reward_hacking import KINDS
from igsearch_env.rules import EpisodeRules
from igsearch_env.trajectory import CONTEXT_FULL, NO_ANSWER, STOP_REASONS, Attempt, Group, Trajectory, Turn

STABLE = {
    *("reward", "searches", "answered", "correct", "invalid_actions", "all_fail", "all_equal", "response_tokens"),
    *("retrieval_failures", "attempts", "advantage/abs_mean", "advantage/zero_share", "policy/entropy"),
}
GAINS = {f"information_gain/{name}" for name in ("mean", "std", "positive_share", "p10", "p50", "p90")}


def described(buffer: RolloutBuffer, max_searches: int = 4) -> dict[str, float]:
    """Statistics with advantages of 1 everywhere."""
    return batch_metrics(buffer, np.ones(int(buffer.policy_tokens.sum()), dtype=np.float32), max_searches=max_searches)


def asks(query: str, found: int = 1, gain: float | None = None) -> Turn:
    """A search of three tokens for `query` that found some passages, two tokens each."""
    turn = search_turn((5, 6, 7), gain=gain, observation_ids=range(2 * found))
    turn.action, turn.passages = Search(query), tuple(PASSAGES[:found])
    return turn


def babbles(tokens: int = 3) -> Turn:
    """A turn without an action."""
    turn = search_turn(range(tokens))
    turn.action = Invalid("no action")
    return turn


def ended(t: Trajectory, stop_reason: str) -> Trajectory:
    """The same trajectory, ended otherwise."""
    return replace(t, stop_reason=stop_reason)


def test_the_stable_names_are_there_and_right() -> None:
    buffer = buffer_of(
        [
            [trajectory([asks("a", gain=1.0), answer_turn((1, 2))], 1.0), trajectory([babbles(), answer_turn((1,))])],
            [trajectory([asks("a", gain=-3.0), asks("b"), answer_turn((1,))], number=1) for _ in range(2)],
        ]
    )
    buffer.failed, buffer.metadata = 1, {"attempts": 9}
    tokens = int(buffer.policy_tokens.sum())
    advantages = np.zeros(tokens, dtype=np.float32)
    advantages[:4] = -2.0
    buffer.set_logprobs(np.linspace(-3, 0, tokens, dtype=np.float32))
    metrics = batch_metrics(buffer, advantages, max_searches=4)
    expected = {
        "reward": 0.25,
        "searches": 1.25,
        "answered": 1.0,
        "correct": 0.25,
        "invalid_actions": 1 / 10,
        "all_fail": 0.5,
        "all_equal": 0.5,
        "response_tokens": (5 + 4 + 7 + 7) / 4,
        "retrieval_failures": 1.0,
        "attempts": 9.0,
        "advantage/abs_mean": 8 / tokens,
        "advantage/zero_share": 1 - 4 / tokens,
        "policy/entropy": 1.5,
        "information_gain/mean": -5 / 3,
        "information_gain/std": np.std([1, -3, -3]),
        "information_gain/positive_share": 1 / 3,
        "information_gain/unmeasured_share": 2 / 5,
        "information_gain/p10": -3.0,
        "information_gain/p50": -3.0,
        "information_gain/p90": np.quantile([1, -3, -3], 0.9),
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert expected.keys() >= STABLE | GAINS


def test_lengths_are_tokens_of_prompts_turns_observations_and_all() -> None:
    buffer = buffer_of(
        [
            [
                trajectory([asks("a", found=3), asks("b", found=1), answer_turn(range(9))], prompt_ids=range(10)),
                trajectory([answer_turn((1,))], prompt_ids=range(4)),
            ]
        ]
    )
    metrics = described(buffer)
    assert metrics["length/prompt_mean"] == 7
    assert metrics["length/observation_mean"] == (6 + 2) / 2  # of those that were read
    assert metrics["length/total_max"] == 10 + 3 + 6 + 3 + 2 + 9
    assert metrics["length/total_mean"] == (33 + 5) / 2
    assert metrics["length/turn_max"] == 9
    assert described(buffer_of([[trajectory([answer_turn((1,))])]]))["length/observation_mean"] == 0


def test_turns_cut_off_at_their_limit_are_invalid_and_as_long_as_the_longest() -> None:
    turns = [babbles(8), babbles(8), babbles(3), answer_turn(range(8))]
    assert described(buffer_of([[trajectory(turns)]]))["length/cut_share"] == 2 / 4


def test_stop_reasons_are_shares_of_all_episodes_under_names_that_never_change() -> None:
    ends = [answer_turn((1,))]
    members = [trajectory(ends), ended(trajectory(ends), NO_ANSWER), ended(trajectory(ends), CONTEXT_FULL)]
    buffer = buffer_of([members])
    assert {f"stop/{reason}" for reason in STOP_REASONS} <= described(buffer).keys()
    assert described(buffer)["stop/retrieval_failed"] == described(buffer)["retrieval_failure_rate"] == 0
    buffer.failed = 5
    metrics = described(buffer)
    assert metrics["episodes"] == 8
    assert metrics["retrieval_failure_rate"] == metrics["stop/retrieval_failed"] == 5 / 8
    assert metrics["stop/answered"] == metrics["stop/no_answer"] == metrics["stop/context_full"] == 1 / 8
    assert metrics["answered"] == 1 / 3  # of the trajectories


def test_a_query_asked_before_in_the_same_trajectory_is_repeated_whatever_its_case_and_spaces() -> None:
    first = trajectory([asks("Alan Brin"), asks(" alan  BRIN\n"), asks("alan"), asks("Alan Brin"), answer_turn((1,))])
    other = trajectory([asks("alan brin"), answer_turn((1,))])
    assert described(buffer_of([[first, other]]))["searches/repeated"] == 2 / 5


def test_searches_without_a_passage_are_empty_and_no_search_makes_no_share() -> None:
    buffer = buffer_of([[trajectory([asks("a", found=0), asks("b", found=2), answer_turn((1,))])]])
    assert described(buffer)["searches/empty"] == 1 / 2
    silent = described(buffer_of([[trajectory([answer_turn((1,))])]]))
    assert silent["searches"] == silent["searches/empty"] == silent["searches/repeated"] == 0


def test_a_search_after_the_last_call_was_never_made() -> None:
    late = asks("a", found=0)  # asked before, found nothing: neither counts
    t = ended(trajectory([asks("a", gain=1.0), asks("b", gain=1.0), late]), NO_ANSWER)
    metrics = described(buffer_of([[t]]), max_searches=2)
    assert metrics["searches"] == 3
    assert metrics["searches/empty"] == metrics["searches/repeated"] == 0
    assert metrics["information_gain/unmeasured_share"] == 0
    assert metrics["searches/at_limit"] == 1


def test_names_of_gains_are_there_only_where_gains_were_measured() -> None:
    without = described(buffer_of([[trajectory([asks("a"), answer_turn((1,))])]]))
    assert not any(name.startswith("information_gain") for name in without)
    measured = described(buffer_of([[trajectory([asks("a", gain=0.0), answer_turn((1,))])]]))
    assert measured.keys() - without.keys() == GAINS | {
        "information_gain/unmeasured_share",
        *(f"information_gain/{kind}_share" for kind in KINDS),
    }


def test_searches_that_name_the_answer_before_it_was_read_and_what_they_earn() -> None:
    turns = [
        asks("Who is it?", gain=1.0),
        asks("Tolona", gain=2.0),  # not read before
        asks("Tolona city", gain=-4.0),  # neither now: the observations show nothing of the passages
        asks("Tolona again", found=0),  # found nothing, so it has no gain
        answer_turn((1,)),
        asks("Tolona", gain=8.0),
    ]
    turns[5].gain = None  # after the last call
    question = Question("q", "Where?", ("Tolona",), "x")
    t = Trajectory(question, "", turns, stop_reason=NO_ANSWER)
    metrics = described(RolloutBuffer([Group(question, [t])]))
    assert metrics["searches/unseen_answer"] == 3 / 4
    assert metrics["information_gain/unseen_answer_mean"] == -1.0
    assert metrics["information_gain/unseen_answer_share"] == pytest.approx(2 / 3)


def test_the_advantage_of_hacking_is_that_of_its_queries_with_gains_or_without() -> None:
    """Turns of three tokens; the query is the second one."""
    first, again, answer = asks("Alan Brin"), asks("alan brin"), answer_turn((1,))
    first.query_span = again.query_span = (1, 2)
    buffer = buffer_of([[trajectory([first, again, answer])]])
    values = np.array([0, 1, 0, 0, -2, 0, 9], dtype=np.float32)
    metrics = batch_metrics(buffer, values, max_searches=4)
    assert metrics["searches/redundant"] == 1 / 2
    assert metrics["advantage/redundant_mean"] == -2
    assert "advantage/read_answer_mean" not in metrics
    assert "advantage/redundant_mean" not in batch_metrics(buffer, values, max_searches=1)  # it was not executed


def test_each_attempt_has_its_own_searches() -> None:
    two, three = [asks("a"), asks("b"), answer_turn((1,))], [asks("c"), answer_turn((1,))]
    t = trajectory([*two, *three])
    t.attempts = [Attempt(3, "y", 0.0), Attempt(5, "y", 1.0)]
    metrics = described(buffer_of([[t]]), max_searches=2)
    assert metrics["searches/at_limit"] == 1 / 2  # the first used both, the second one of two
    assert metrics["searches/empty"] == 0


ACTIONS = {
    "s": "<search> Alan Brin </search>",
    "a": "<answer> Tolona </answer>",
    "i": "nothing of the kind",
}


@given(
    st.lists(st.tuples(st.text(alphabet="sai", max_size=12), st.booleans()), min_size=1, max_size=5),
    st.integers(1, 4),
    st.integers(1, 3),
)
def test_the_share_at_the_limit_is_of_the_attempts_that_were_told_to_answer(
    scripts: list[tuple[str, bool]], max_searches: int, attempts: int
) -> None:
    """The environment's last call is the witness: it is given when the last allowed search is used."""
    protocol, question = make_protocol(), Question("q", "Where?", ("Tolona",), "x")
    trajectories, called, begun, made, empty = [], 0, 0, 0, 0
    for script, finds in scripts:
        episode = Episode(question, EpisodeRules(max_searches=max_searches, attempts=attempts, protocol=protocol))
        for action in script + "a" * attempts:
            if episode.trajectory.done:
                break
            if episode.act(ACTIONS[action]) is not None:
                episode.observe(PASSAGES[:1] if finds else [])
                made, empty = made + 1, empty + (not finds)
            episode.trajectory.turns[-1].completion_ids = (1,)
        t = episode.trajectory
        begun += len(t.attempts) + (not t.done)
        called += sum(turn.observation.endswith(protocol.last_call()) for turn in t.turns)
        trajectories.append(t)
    metrics = described(RolloutBuffer([Group(question, trajectories)]), max_searches)
    assert metrics["searches/at_limit"] == pytest.approx(called / begun)
    assert metrics["searches/empty"] == pytest.approx(empty / made if made else 0)


@given(st.lists(st.lists(st.tuples(st.sampled_from("sai"), st.integers(1, 9)), min_size=1, max_size=6), min_size=1))
def test_every_value_is_a_finite_number_and_every_share_is_one(shapes: list[list[tuple[str, int]]]) -> None:
    def turn(kind: str, tokens: int) -> Turn:
        if kind == "a":
            return answer_turn(range(tokens))
        return babbles(tokens) if kind == "i" else search_turn(range(tokens), gain=float(tokens - 5))

    metrics = described(buffer_of([[trajectory([turn(*pair) for pair in shape])] for shape in shapes]))
    assert all(type(value) is float and np.isfinite(value) for value in metrics.values())
    shares = [name for name in metrics if name.endswith(("_share", "_rate", "at_limit", "repeated", "empty"))]
    shares += [name for name in metrics if name.startswith(("stop/", "all_"))]
    assert all(0 <= metrics[name] <= 1 for name in shares)
    assert sum(metrics[f"stop/{reason}"] for reason in STOP_REASONS) == pytest.approx(1)


def test_throughput_is_tokens_and_trajectories_over_seconds() -> None:
    first = trajectory([asks("a", found=2), answer_turn((1, 2))], prompt_ids=range(10))  # 10 + 3 + 4 + 2 tokens
    second = trajectory([answer_turn((1,))], prompt_ids=range(10))
    rates = throughput(buffer_of([[first, second]]), {"time/step": 4.0, "time/rollout": 2.0, "time/update": 1.0})
    assert rates == {
        "time/tokens_per_second": (19 + 11) / 4,
        "time/written_tokens_per_second": (5 + 1) / 2,
        "time/trajectories_per_second": 2 / 4,
    }


def test_rollouts_that_ran_during_updates_count_as_time_of_rollouts() -> None:
    buffer = buffer_of([[trajectory([answer_turn((1, 2, 3, 4))])]])
    times = {"time/step": 4.0, "time/rollout": 0.5}
    assert throughput(buffer, times)["time/written_tokens_per_second"] == 4 / 0.5
    rates = throughput(buffer, {**times, "time/rollout_hidden": 1.5})
    assert rates["time/written_tokens_per_second"] == 4 / 2
    assert rates["time/trajectories_per_second"] == 1 / 4
