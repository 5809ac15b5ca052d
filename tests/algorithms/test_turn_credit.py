"""MT-GRPO, CW-GRPO and GSPO beyond their golden numbers: which turns they credit, and with what."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from algorithms.common.config import parse_config
from algorithms.common.rollout.buffer import RolloutBuffer, RolloutBufferError
from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.training.search_quality import found_answer, found_new_support
from algorithms.cw_grpo import CWGRPO, CWGRPOConfig, round_weights
from algorithms.grpo import GRPO, GRPOConfig
from algorithms.gspo import GSPO, GSPOConfig
from algorithms.ig_grpo import IGGRPO, IGGRPOConfig
from algorithms.mt_grpo import MTGRPO, MTGRPOConfig
from igsearch.testing.buffers import PROTOCOL, answer_turn, buffer_of, search_turn, trajectory
from igsearch_env.errors import ConfigurationError
from igsearch_env.information_gain import InformationGainConfig
from igsearch_env.protocols import Invalid
from igsearch_env.trajectory import Trajectory, Turn
from retrievers import Passage

LAKE = Passage("1", "Lake", "The lake lies in Answer 0, a village.")  # the golden answer of the tests' question
HILL = Passage("2", "Hill", "The hill is north of the lake.")
AS_MEASURED = InformationGainConfig(dead_zone=0.0, negative_scale=1.0, soft_clip_form="none")


def searched(outcome: float, *found: tuple[Passage, ...], gains: tuple[float | None, ...] = ()) -> Trajectory:
    """A search of three tokens for each element of `found` (its passages) or `gains`, then an answer of two tokens."""
    turns = [search_turn((1, 2, 3), (0, 3), gain) for gain in gains or (None,) * len(found)]
    for turn, passages in zip(turns, found, strict=False):
        turn.passages, turn.observation = passages, PROTOCOL.observation(passages)
    return trajectory([*turns, answer_turn((4, 5))], outcome)


def supported(played: Trajectory, *titles: str) -> Trajectory:
    """The episode, as one of a question with these supporting titles."""
    played.question = replace(played.question, metadata={"supporting_titles": titles})
    return played


def by_turn(advantages: Any, buffer: RolloutBuffer) -> list[list[float]]:
    """The advantage of each turn, trajectory by trajectory; all tokens of a turn have the same."""
    turns = iter(np.split(advantages, np.cumsum(buffer.turn_tokens)[:-1]))
    rows = [[next(turns) for _ in t.turns] for t in buffer.trajectories]
    assert all(np.ptp(values) == 0 for row in rows for values in row)
    return [[float(values[0]) for values in row] for row in rows]


def z(*values: float) -> list[float]:
    """MT-GRPO's comparison."""
    return [float(v) for v in (np.array(values) - np.mean(values)) / (np.std(values, ddof=1) + 1e-4)]


# ---------------------------------------------------------------- what a search found


def test_an_answer_is_found_in_the_passages_of_its_own_search() -> None:
    played = searched(1.0, (HILL,), (HILL, LAKE), (HILL,))
    assert [found_answer(played, turn) for turn in range(4)] == [False, True, False, False]
    played.turns[1].observation = PROTOCOL.observation((HILL,))  # cut before the passage with the answer
    assert not found_answer(played, 1)


def test_support_counts_once() -> None:
    played = supported(searched(1.0, (HILL,), (HILL,), (HILL, LAKE)), "hill", "Lake", "Sea")
    assert [found_new_support(played, turn) for turn in range(4)] == [True, False, True, False]
    assert not found_new_support(searched(1.0, (HILL,)), 0)


# ---------------------------------------------------------------- MT-GRPO


def test_mt_grpo_credits_the_first_search_or_every_one() -> None:
    rollouts = [
        searched(1.0, (HILL,), (LAKE,)),
        searched(0.0, (LAKE,)),
        searched(0.0, (HILL,), (HILL,), (LAKE,)),
        searched(1.0),
    ]
    buffer = buffer_of([rollouts])
    outcomes = z(1, 0, 0, 1)
    first, second, third = z(0, 0.5, 0, 0), z(0.5, 0, 0, 0), z(0, 0, 0.5, 0)
    ours = by_turn(MTGRPO(MTGRPOConfig()).advantages(buffer), buffer)
    expected = [[outcomes[i] + (n == 0) * first[i] for n in range(len(r.turns))] for i, r in enumerate(rollouts)]
    expected[3] = [z(1, 0.5, 0, 1)[3]]  # outcome and the first search's reward in one comparison
    for row, own in zip(expected, ours, strict=True):
        assert own == pytest.approx(row, abs=1e-5)
    every = by_turn(MTGRPO(MTGRPOConfig(searches="every", turn_advantage_coef=2.0)).advantages(buffer), buffer)
    assert every[0] == pytest.approx([outcomes[0] + 2 * first[0], outcomes[0] + 2 * second[0], outcomes[0]], abs=1e-5)
    credited = [outcomes[2] + 2 * turn[2] for turn in (first, second, third)]
    assert every[2] == pytest.approx([*credited, outcomes[2]], abs=1e-5)
    assert every[3] == pytest.approx([z(1.5, 0.5, 0.5, 1)[3]], abs=1e-5)


def test_mt_grpo_is_the_same_for_both_where_nobody_searches_twice() -> None:
    members = [searched(1.0, (LAKE,)), searched(0.0, (HILL,)), searched(0.0)]
    members[1].turns.insert(0, Turn("??", Invalid("no tag"), "again", completion_ids=(7,), logprobs=(-1.0,)))
    buffer = buffer_of([members])
    first, every = (MTGRPO(MTGRPOConfig(searches=s)).advantages(buffer) for s in ("first", "every"))
    np.testing.assert_array_equal(first, every)
    turns = by_turn(first, buffer)[1]
    assert turns[0] == turns[1] < turns[2]  # an invalid action before the result is credited with it


def test_mt_grpo_takes_a_search_that_was_never_run_for_none() -> None:
    """The last turn of an episode that may not search any more."""
    refused = trajectory([search_turn((1, 2, 3))], 0.0)
    buffer = buffer_of([[refused, searched(1.0, (LAKE,))]])
    assert by_turn(MTGRPO(MTGRPOConfig()).advantages(buffer), buffer)[0] == pytest.approx([z(0, 1.5)[0]], abs=1e-5)


def test_mt_grpo_rewards_gains_after_their_stabilisers() -> None:
    buffer = buffer_of([[searched(0.0, gains=(0.04,)), searched(0.0, gains=(1.0,)), searched(0.0, gains=(None, 1.0))]])
    plain, stable = AS_MEASURED, InformationGainConfig()
    for config, rewards in ((plain, (0.04, 1.0, 0.0)), (stable, (0.0, stable.stabilise(1.0), 0.0))):
        algorithm = MTGRPO(MTGRPOConfig(turn_reward="gain", information_gain=config))
        assert algorithm.needs_information_gain
        ours = by_turn(algorithm.advantages(buffer), buffer)
        assert [row[0] for row in ours] == pytest.approx(z(*rewards), abs=1e-5)
        assert [row[-1] for row in ours] == [0.0] * 3
    assert not MTGRPO(MTGRPOConfig()).needs_information_gain


# ---------------------------------------------------------------- CW-GRPO


@pytest.mark.parametrize("gamma", [0.0, 1.0, 9.9, 10.0, 100.0])
def test_weights_of_rounds_add_up_to_their_number(gamma: float) -> None:
    for judged in ([1, 0, 0], [0, 1, 1, 0], [1]):
        assert round_weights(judged, gamma).sum() == pytest.approx(len(judged))
    assert round_weights([0, 0], gamma).tolist() == ([0, 0] if gamma >= 10 else [1, 1])
    assert round_weights([], gamma).tolist() == []


def test_cw_grpo_shares_a_success_among_the_searches_that_gained() -> None:
    good = searched(1.0, gains=(0.5, -0.5, 0.01, None))  # a loss, a gain in the dead zone, nothing found
    buffer = buffer_of([[good, searched(0.0, gains=(0.5, -0.5))]])
    plain = by_turn(GRPO(GRPOConfig()).advantages(buffer), buffer)
    ours = by_turn(CWGRPO(CWGRPOConfig()).advantages(buffer), buffer)
    assert ours[0] == pytest.approx([4 * plain[0][0], 0, 0, 0, plain[0][0]], abs=1e-5)
    assert ours[1] == plain[1]


def test_cw_grpo_judges_by_new_support_where_it_is_known() -> None:
    members = [searched(1.0, (HILL,), (HILL,), (LAKE,)), searched(0.0, (HILL,))]
    buffer = buffer_of([[supported(t, "Hill", "Lake") for t in members]])
    algorithm = CWGRPO(CWGRPOConfig(judge="support"))
    assert not algorithm.needs_information_gain
    plain = by_turn(GRPO(GRPOConfig()).advantages(buffer), buffer)[0][0]
    ours = by_turn(algorithm.advantages(buffer), buffer)[0]
    assert ours == pytest.approx([1.5 * plain, 0, 1.5 * plain, plain], abs=1e-5)
    unknown = [searched(1.0, (HILL,), (HILL,)), searched(0.0, (HILL,))]
    mixed = buffer_of([unknown, members])
    tokens = sum(len(turn.completion_ids) for t in unknown for turn in t.turns)
    np.testing.assert_array_equal(algorithm.advantages(mixed)[:tokens], GRPO(GRPOConfig()).advantages(mixed)[:tokens])
    with pytest.raises(RolloutBufferError, match=r"none of 1 questions.*judge='support'.*set --judge gain"):
        algorithm.advantages(buffer_of([unknown]))  # it would be GRPO


# ---------------------------------------------------------------- GSPO


def test_gspo_changes_the_loss_and_takes_the_advantages_it_is_told_to() -> None:
    buffer = buffer_of([[searched(1.0, gains=(1.0,)), searched(0.0, gains=(0.5, -1.0))]])
    published, tokens = GSPO(GSPOConfig()), GSPO(GSPOConfig(advantages="ig_grpo", alpha=0.7))
    np.testing.assert_array_equal(published.advantages(buffer), GRPO(GRPOConfig()).advantages(buffer))
    np.testing.assert_array_equal(tokens.advantages(buffer), IGGRPO(IGGRPOConfig(alpha=0.7)).advantages(buffer))
    assert (published.needs_information_gain, tokens.needs_information_gain) == (False, True)
    # An option of the loss on the command line leaves the paper's other defaults in place.
    loss = parse_config(GSPOConfig, ["--loss.clip-ratio-low", "0.1"]).loss
    assert (loss.ratio, loss.clip_ratio_low, loss.clip_ratio_high) == ("sequence", 0.1, 4e-4)
    assert loss.aggregation == "seq-mean-token-mean"


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("config_class", "options", "said"),
    [
        (MTGRPOConfig, {"turn_advantage_coef": -1.0}, "turn_advantage_coef=-1.0"),
        (MTGRPOConfig, {"turn_reward": "title"}, "turn_reward='title'.*found_answer"),
        (MTGRPOConfig, {"searches": "last"}, "searches='last'.*every"),
        (MTGRPOConfig, {"rollout": RolloutConfig(group_size=1)}, "MT-GRPO compares the rollouts of a group"),
        (CWGRPOConfig, {"gamma": -0.5}, "gamma=-0.5"),
        (CWGRPOConfig, {"gamma": float("nan")}, "gamma=nan"),
        (CWGRPOConfig, {"judge": "llm"}, "judge='llm'.*support"),
        (GSPOConfig, {"advantages": "igpo"}, "advantages='igpo'.*ig_grpo"),
    ],
)
def test_wrong_options_are_refused(config_class: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        config_class(**options)


@pytest.mark.parametrize(
    "algorithm",
    [MTGRPO(MTGRPOConfig(turn_reward="gain")), CWGRPO(CWGRPOConfig()), GSPO(GSPOConfig(advantages="ig_grpo"))],
    ids=lambda algorithm: algorithm.name,
)
def test_gains_that_were_never_measured_are_no_zeros(algorithm: Any) -> None:
    with pytest.raises(RolloutBufferError, match="measure it first"):
        algorithm.advantages(buffer_of([[searched(1.0, (LAKE,)), searched(0.0, (HILL,))]]))
