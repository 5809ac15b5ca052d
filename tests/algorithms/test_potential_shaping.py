"""Potential-based shaping keeps the expected gradient and so the optimal policy: exact, by enumeration.

`stopping.py` runs the algorithms on every possible group. docs/algorithms.md ("Potential-based shaping") explains the
numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import numpy as np
import pytest
from stopping import GAINS, STATES, Array, Estimator, Toy, enumerate_groups, episode

from algorithms.common.config import TrainConfig
from algorithms.common.rollout.buffer import Float32s, RolloutBuffer, RolloutBufferError
from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.rollout.environment import EnvConfig
from algorithms.common.training.potentials import shaping_rewards, turn_potentials
from algorithms.common.training.segments import segment_advantages, segment_numbers
from algorithms.ig_grpo import IGGRPO, IGGRPOConfig
from algorithms.ig_grpo_potential import IGGRPOPotential, IGGRPOPotentialConfig, fitted_weights
from algorithms.igpo import IGPO, IGPOConfig
from algorithms.rloo import RLOO
from algorithms.tips import TIPS, TIPSConfig
from igsearch.testing.buffers import answer_turn, buffer_of, search_turn, trajectory
from igsearch_env.errors import ConfigurationError
from igsearch_env.information_gain import InformationGainConfig
from igsearch_env.protocols import Invalid
from igsearch_env.trajectory import Gain, Trajectory, Turn

TOY = Toy()
THETA = np.log(np.tile([0.5, 0.25, 0.25], (len(STATES), 1)))
OTHER = np.random.default_rng(1).normal(size=(len(STATES), len(TOY.actions)))
EITHER = pytest.mark.parametrize("theta", [THETA, OTHER], ids=["the policy", "another"])
GUESSES = {"g": 0.125, "u": 2.0}  # a useless search makes the answer likelier than a good one
BRIDGES = {"g": 0.0, "u": 0.5}  # a good search does not make the answer likelier
PLAIN_RLOO = RLOO(TrainConfig()).advantages


def potential(**options: Any) -> Estimator:
    """IG-GRPO with potential-based shaping, of weight 1 by default."""
    return IGGRPOPotential(IGGRPOPotentialConfig(**{"alpha": 1.0, **options})).advantages


def played(gains: Mapping[str, float]) -> list[Trajectory]:
    """Every episode of the toy, with these gains."""
    return [episode(path, gains) for path in TOY.paths]


def relative(difference: Array, gradient: Array) -> float:
    """Length of a difference, relative to that of a gradient."""
    return float(np.linalg.norm(difference) / np.linalg.norm(gradient))


# ---------------------------------------------------------------- unbiased


@EITHER
@pytest.mark.parametrize("gains", [GAINS, GUESSES, BRIDGES], ids=["honest", "guesses", "bridges"])
@pytest.mark.parametrize("options", [{}, {"alpha": 2.5}, {"gain": "log_probability"}], ids=str)
def test_shaping_does_not_change_the_expected_gradient(
    options: dict[str, Any], gains: dict[str, float], theta: Array
) -> None:
    exact = TOY.gradient(theta, TOY.outcomes)
    for size in (2, 3):
        shaped = enumerate_groups(TOY, potential(**options), size, episodes=played(gains))
        assert relative(shaped.expected(theta) - exact, exact) < 1e-6
        unshaped = enumerate_groups(TOY, PLAIN_RLOO, size, episodes=played(gains))
        assert np.abs(shaped.weighted_KGT - unshaped.weighted_KGT).max() > 0.02  # though advantages are others


@EITHER
def test_neither_with_a_discount(theta: Array) -> None:
    unshaped, shaped = (
        enumerate_groups(TOY, potential(alpha=alpha, gamma=0.8), 3).expected(theta) for alpha in (0.0, 1.5)
    )
    assert relative(shaped - unshaped, unshaped) < 1e-6
    undiscounted = TOY.gradient(theta, TOY.outcomes)
    assert relative(unshaped - undiscounted, undiscounted) > 0.05


def test_without_a_weight_it_is_rloo() -> None:
    shaped, plain = (enumerate_groups(TOY, estimator, 3) for estimator in (potential(alpha=0.0), PLAIN_RLOO))
    np.testing.assert_allclose(shaped.weighted_KGT, plain.weighted_KGT, atol=1e-7)


def tips(values: Callable[[str], float], scale: float | None = 0.5) -> Estimator:
    """TIPS before whitening, with a critic that gives a state, named by its searches, this value."""
    algorithm = TIPS(TIPSConfig(scale=scale))

    def advantages(buffer: RolloutBuffer) -> Float32s:
        states = [[turn.query or "" for turn in t.turns[:n]] for t in buffer.trajectories for n in range(len(t.turns))]
        buffer.values = np.array([values("".join(state)) for state in states], dtype=np.float32)
        return algorithm.value_targets(buffer) - buffer.values

    return advantages


@EITHER
def test_tips_keeps_the_gradient_of_ppo_whatever_its_critic_says(theta: Array) -> None:
    exact, values = TOY.gradient(theta, TOY.outcomes), TOY.values(theta)

    def learnt(state: str) -> float:
        return values[state] - 0.5 * sum(GAINS[kind] for kind in state)

    for critic in (lambda state: 0.0, lambda state: values[state], learnt):
        estimate = enumerate_groups(TOY, tips(critic), 2).expected(theta)
        assert relative(estimate - exact, exact) < 1e-6
    # A critic that has learnt the shaped values gives the advantages of PPO with the true ones: nothing is gained.
    shaped = enumerate_groups(TOY, tips(learnt), 2).weighted_KGT
    plain = enumerate_groups(TOY, tips(lambda state: values[state], scale=0.0), 2).weighted_KGT
    np.testing.assert_allclose(shaped, plain, atol=1e-6)


def test_a_scale_that_is_computed_from_the_batch_is_slightly_biased() -> None:
    exact, value = TOY.gradient(THETA, TOY.outcomes), TOY.values(THETA)[""]
    biases = [
        relative(enumerate_groups(TOY, tips(lambda state: value, scale=None), size).expected(THETA) - exact, exact)
        for size in (2, 4)
    ]
    assert biases == pytest.approx([0.0222, 0.0139], abs=1e-4)


@EITHER
@pytest.mark.parametrize("gains", [GAINS, GUESSES], ids=["honest", "guesses"])
def test_a_weight_that_is_fitted_on_other_groups_is_unbiased(gains: dict[str, float], theta: Array) -> None:
    """Over all batches of two groups of two episodes."""
    episodes, size = played(gains), 2
    pairs = list(product(range(len(TOY.paths)), repeat=size))
    chances, scores, exact = TOY.probabilities(theta), TOY.scores(theta), TOY.gradient(theta, TOY.outcomes)
    lengths = [len(path) + 1 for path in TOY.paths]
    estimates, squares = np.zeros((2, *theta.shape)), np.zeros(2)
    for one, other in product(pairs, repeat=2):
        buffer, batch = buffer_of([[episodes[n] for n in pair] for pair in (one, other)]), (*one, *other)
        chance = chances[list(batch)].prod()
        for k, estimator in enumerate((potential(alpha=None), potential(alpha=0.0))):
            rows = np.split(estimator(buffer), np.cumsum([lengths[n] for n in batch])[:-1])
            terms = [np.einsum("t,tsa->sa", row, scores[n, : len(row)]) for row, n in zip(rows, batch, strict=True)]
            estimates[k] += chance * sum(terms) / len(batch)
            squares[k] += chance * (sum(terms) ** 2).sum() / len(batch) ** 2
    assert relative(estimates[0] - exact, exact) < 1e-6
    assert relative(estimates[1] - exact, exact) < 1e-6
    assert abs(squares[0] / squares[1] - 1) > 1e-3  # though its advantages are others


def test_a_fitted_weight_is_that_of_least_squares_on_the_other_groups() -> None:
    credit, potentials, tokens, groups = (
        [1.0, 0.0, 3.0, 2.0, 5.0],
        [1.0, 2.0, 1.0, 4.0, 0.0],
        [1, 1, 2, 1, 1],
        [0, 0, 1, 1, 2],
    )
    ours = fitted_weights(credit, potentials, tokens, groups)
    assert ours.tolist() == pytest.approx([14 / 18, 14 / 18, 1 / 5, 1 / 5, 15 / 23])
    assert fitted_weights([1.0, 2.0], [0.0, 3.0], [1, 1], [0, 1]).tolist() == pytest.approx([2 / 3, 0.0])


def test_a_weight_is_not_fitted_on_an_episode_whose_siblings_failed() -> None:
    """Its credit is a whole outcome, compared with none."""
    whole = [
        [moved(-3.0, -1.0, outcome=1.0), moved(-3.0, -2.5)],
        [moved(-2.0, -1.5, outcome=1.0), moved(-2.0, -1.9)],
    ]
    ours, alone = buffer_of([*whole, [moved(-4.0, -0.1, outcome=1.0)]]), buffer_of(whole)
    ours.groups[2].failed = 1
    expected = [*potential(alpha=None)(alone), *[0.0] * 5]
    np.testing.assert_allclose(potential(alpha=None)(ours), expected, atol=1e-6)


# ---------------------------------------------------------------- variance


@pytest.mark.parametrize(
    ("theta", "options", "gains", "expected"),
    [
        (THETA, {}, GAINS, (0.902, 0.851)),
        (THETA, {"alpha": 2.0}, GAINS, (0.849, 0.770)),
        (THETA, {"gain": "log_probability"}, GAINS, (0.846, 0.766)),
        (OTHER, {}, GAINS, (0.971, 0.947)),
        (OTHER, {"gain": "log_probability"}, GAINS, (1.003, 1.006)),
        (THETA, {}, BRIDGES, (1.047, 1.071)),
        (THETA, {"gain": "log_probability"}, GUESSES, (3.949, 5.475)),
    ],
)
def test_shaping_changes_the_variance_alone(
    theta: Array, options: dict[str, Any], gains: dict[str, float], expected: tuple[float, float]
) -> None:
    """Variance with shaping over that of RLOO, at G = 2 and 4."""
    ratios = [
        enumerate_groups(TOY, potential(**options), size, episodes=played(gains)).variance(theta)
        / enumerate_groups(TOY, PLAIN_RLOO, size).variance(theta)
        for size in (2, 4)
    ]
    assert ratios == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("theta", "expected"), [(THETA, (0.826, 0.736)), (OTHER, (0.933, 0.875))], ids=["it", "other"])
def test_the_true_value_of_each_state_as_potential(theta: Array, expected: tuple[float, float]) -> None:
    episodes, values = played(GAINS), TOY.values(theta)
    for path, one in zip(TOY.paths, episodes, strict=True):
        for n in range(len(path)):
            one.turns[n].gain = Gain(0.0, values[path[: n + 1]], values[path[:n]])
    ratios = [
        enumerate_groups(TOY, potential(gain="log_probability"), size, episodes=episodes).variance(theta)
        / enumerate_groups(TOY, PLAIN_RLOO, size).variance(theta)
        for size in (2, 4)
    ]
    assert ratios == pytest.approx(expected, abs=1e-3)


# ---------------------------------------------------------------- which policy is the best


def followed(estimator: Estimator, gains: Mapping[str, float], theta: Array, size: int = 2) -> tuple[str, float]:
    """The likeliest episode and the mean outcome after many steps along the expected estimate."""
    groups, theta = enumerate_groups(TOY, estimator, size, episodes=played(gains)), theta.copy()
    for _ in range(1500):
        theta += 2 * groups.expected(theta)
    chances = TOY.probabilities(theta)
    return TOY.paths[int(chances.argmax())], float(chances @ TOY.outcomes)


RARE = np.log(np.tile([0.5, 0.1, 0.4], (len(STATES), 1)))  # good searches are rarer


@pytest.mark.parametrize(
    ("estimator", "gains", "theta", "ends"),
    [
        # As published: alpha = 0.3, the group's deviation, our stabilisers. And its Eq. 4 alone.
        (IGGRPO(IGGRPOConfig()).advantages, GUESSES, RARE, "ug"),
        (
            IGGRPO(
                IGGRPOConfig(
                    scale_by_std=False,
                    information_gain=InformationGainConfig(dead_zone=0.0, negative_scale=1.0, soft_clip_form="none"),
                )
            ).advantages,
            GUESSES,
            THETA,
            "uu",
        ),
        (IGPO(IGPOConfig()).advantages, GUESSES, THETA, "uu"),
        (IGPO(IGPOConfig(normalisation="separate")).advantages, BRIDGES, THETA, "uu"),
        (TIPS(TIPSConfig(estimator="group")).advantages, BRIDGES, THETA, "ug"),
    ],
    ids=["IG-GRPO", "IG-GRPO, Eq. 4", "IGPO", "IGPO separate", "TIPS, group"],
)
def test_published_forms_end_in_a_worse_policy_and_the_shaped_one_does_not(
    estimator: Estimator, gains: dict[str, float], theta: Array, ends: str
) -> None:
    worse, best = followed(estimator, gains, theta), followed(potential(), gains, theta)
    assert worse[0] == ends
    assert worse[1] < 0.51
    assert best[0] == "gg"
    assert best[1] > 0.99


# ---------------------------------------------------------------- potentials and segments


def moved(*potentials: float, outcome: float = 0.0) -> Trajectory:
    """A search from each log-prob of the golden answer to the next."""
    turns = [search_turn(range(3)) for _ in potentials[1:]]
    for turn, before, after in zip(turns, potentials, potentials[1:], strict=False):
        turn.gain = Gain(after - before, after, before)
    return trajectory([*turns, answer_turn(range(2))], outcome)


def test_potentials_are_those_before_each_turn_relative_to_the_prompt() -> None:
    stumbling = moved(-3.0, -1.0, -2.0)
    stumbling.turns.insert(1, Turn("??", Invalid("no tag"), completion_ids=(1,)))
    unasked = trajectory([answer_turn(range(2))])
    buffer = buffer_of([[unasked, stumbling]])
    assert turn_potentials(buffer, "log_probability").tolist() == [0.0, 0.0, 2.0, 2.0, 1.0]
    probabilities = turn_potentials(buffer, "probability")
    np.testing.assert_allclose(probabilities[[0, 3, 4]], [0, np.exp(-1) - np.exp(-3), np.exp(-2) - np.exp(-3)])
    assert turn_potentials(buffer_of([[unasked]]), "probability").tolist() == [0.0]


def test_the_last_turn_pays_back_the_potential_that_was_reached() -> None:
    assert shaping_rewards([0.0, 2.0, 0.5, 0.0, 1.0], [3, 2]).tolist() == [2.0, -1.5, -0.5, 1.0, -1.0]
    assert shaping_rewards([1.0, 2.0], [2], gamma=0.5).tolist() == [0.0, -2.0]


def test_tips_pays_a_search_at_its_end_and_sums_to_the_outcome() -> None:
    buffer = buffer_of([[moved(-3.0, -1.0, -2.0, outcome=1.0), moved(-3.0, -3.0)]])
    rewards = TIPS(TIPSConfig(scale=0.5)).rewards(buffer)
    assert rewards[:8].tolist() == [0, 0, 1.0, 0, 0, -0.5, 0, 0.5]
    assert rewards[:8].sum() == 1.0
    assert not rewards[8:].any()
    by_batch = TIPS(TIPSConfig()).rewards(buffer)  # |2| and |-1|; a search that changed nothing does not count
    assert by_batch[[2, 5]].tolist() == pytest.approx([0.11 * 2 / 1.5, -0.11 / 1.5])
    nothing = buffer_of([[moved(-3.0, -3.0, outcome=1.0)]])
    assert TIPS(TIPSConfig()).rewards(nothing).tolist() == [0, 0, 0, 0, 1]


def test_a_segment_ends_with_a_search() -> None:
    searches = [[False, True, True, False], [True], [False, False]]
    assert segment_numbers(searches).tolist() == [0, 0, 1, -1, -1, -1, -1]
    # Means per token: 6 / 3 against 1 / 1. The turns of a segment share its comparison.
    ours = segment_advantages(
        [0.0, 6.0, 0.0, 1.0, 0.0], [[False, True, False], [True, False]], [1, 2, 1, 1, 1], [1, 1], [0, 0]
    )
    assert ours.tolist() == pytest.approx([1, 1, 0, -1, 0], abs=1e-5)


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("config_class", "options", "said"),
    [
        (IGGRPOPotentialConfig, {"alpha": -1.0}, "alpha"),
        (IGGRPOPotentialConfig, {"gamma": 1.5}, "gamma"),
        (IGGRPOPotentialConfig, {"gain": "x"}, "gain='x'"),
        (TIPSConfig, {"estimator": "x"}, "estimator='x'"),
        (TIPSConfig, {"scale": -0.1}, "scale"),
        (TIPSConfig, {"target_scale": -0.1}, "target_scale"),
        (TIPSConfig, {"estimator": "group", "gae_lambda": 0.9}, "gae_lambda=0.9 with estimator='group': has no effect"),
        (TIPSConfig, {"estimator": "group", "rollout": RolloutConfig(group_size=1)}, "rollout.group_size is 1"),
        (IGGRPOPotentialConfig, {"rollout": RolloutConfig(group_size=1)}, "rollout.group_size is 1"),
    ]
    + [
        (config_class, options, said)
        for config_class in (IGGRPOPotentialConfig, TIPSConfig)
        for options, said in (
            ({"information_gain": InformationGainConfig()}, "baseline='random'.*set 'previous'"),
            ({"env": EnvConfig(protocol="autorefine")}, "protocol='autorefine'.*no potential of the state"),
        )
    ],
)
def test_options_are_checked(config_class: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        config_class(**options)


def test_tips_without_its_critic_needs_no_values() -> None:
    buffer = buffer_of([[moved(-3.0, -1.0, outcome=1.0), moved(-3.0, -2.0)]])
    grouped = TIPS(TIPSConfig(estimator="group"))
    assert grouped.critic is None
    assert grouped.advantages(buffer).tolist() == pytest.approx([2, 2, 2, 1, 1, -2, -2, -2, -1, -1], abs=1e-3)
    with pytest.raises(RolloutBufferError, match="no values"):
        TIPS(TIPSConfig()).advantages(buffer)
