"""Which estimators are biased where the policy chooses when to stop, and by how much: exact, by enumeration.

Nothing is sampled and no estimator is written twice: `stopping.py` runs the algorithms on every possible group.
docs/algorithms.md ("Stopping bias") explains the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from math import comb
from typing import Any

import numpy as np
import pytest
from stopping import GAINS, STATES, TURNS, Advantages, Array, Estimator, Toy, enumerate_groups, episode, rewards_of

from algorithms.common.config import TrainConfig
from algorithms.common.rollout.buffer import Float32s, RolloutBuffer
from algorithms.cov_local import CovLocal, CovLocalConfig
from algorithms.cw_grpo import CWGRPO, CWGRPOConfig
from algorithms.gigpo import GiGPO, GiGPOConfig
from algorithms.graft import GRAFT, GRAFTConfig
from algorithms.grpo import GRPO, GRPOConfig
from algorithms.ig_grpo import IGGRPO, IGGRPOConfig
from algorithms.ig_grpo_potential import IGGRPOPotential, IGGRPOPotentialConfig
from algorithms.ig_local import IGLocal, IGLocalConfig
from algorithms.igpo import IGPO, IGPOConfig
from algorithms.mr_search import MRSearch, MRSearchConfig
from algorithms.mt_grpo import MTGRPO, MTGRPOConfig
from algorithms.ppo import PPO, PPOConfig
from algorithms.reinforce_plus_plus import ReinforcePlusPlus, ReinforcePlusPlusConfig
from algorithms.rloo import RLOO
from algorithms.step_search import StepSearch, StepSearchConfig
from algorithms.tips import TIPS, TIPSConfig
from algorithms.turn_ppo import TurnPPO, TurnPPOConfig
from igsearch_env.gain_sources import progress_gain
from igsearch_env.information_gain import InformationGainConfig

ALPHA = 0.25
FREE, FORCED = Toy(), Toy("gu")
THETA = np.log(np.tile([0.5, 0.25, 0.25], (len(STATES), 1)))  # answers half the time, else either kind of search
EVEN = np.zeros((len(STATES), 2))  # of FORCED: THETA given that it searches
SIZES = (2, 4)
EXACT = {2: 1e-9, 3: 1e-7, 4: 1e-7}  # thirds aren't float32 numbers, halves are


def gigpo(**options: Any) -> Estimator:
    """GiGPO by means alone, without discount, distinguishing anchors."""
    plain: dict[str, Any] = {"scale_by_std": False, "similarity": None, "gamma": 1.0}
    return GiGPO(GiGPOConfig(**{**plain, "episode_statistics": "trajectory", **options})).advantages


def ppo(algorithm: PPO, values: Mapping[str, float], *, whitened: bool = True) -> Estimator:
    """PPO, with these values of the states (the searches so far) as its critic's, or its estimate before whitening."""

    def advantages(buffer: RolloutBuffer) -> Float32s:
        states = [[turn.query or "" for turn in t.turns[:n]] for t in buffer.trajectories for n in range(len(t.turns))]
        buffer.values = np.array([values["".join(state)] for state in states], dtype=np.float32)
        return algorithm.advantages(buffer) if whitened else algorithm.value_targets(buffer) - buffer.values

    return advantages


def turn_ppo(**options: Any) -> TurnPPO:
    """Turn-PPO without stabilisers of the gain."""
    return TurnPPO(TurnPPOConfig(information_gain=AS_MEASURED, **options))


def step_search(values: Mapping[str, float], *, whitened: bool = True) -> Estimator:
    """StepSearch without redundancy, of progress."""
    return of_progress(ppo(StepSearch(StepSearchConfig(redundancy=False)), values, whitened=whitened))


def of_progress(estimator: Estimator) -> Estimator:
    """An estimator to which a search brings as much progress as it has gain."""

    def advantages(buffer: RolloutBuffer) -> Float32s:
        for trajectory in buffer.trajectories:
            made = 0.0
            for turn in trajectory.turns[:-1]:
                before, made = made, made + GAINS[turn.query or ""]
                turn.gain = progress_gain(before, made)
        return estimator(buffer)

    return advantages


UNTRAINED = dict.fromkeys(FREE.paths, 0.0)
PLAIN_RLOO = RLOO(TrainConfig()).advantages
PLAIN_GRPO = GRPO(GRPOConfig()).advantages
DR_GRPO = GRPO(GRPOConfig(scale_by_std=False)).advantages
RPP = ReinforcePlusPlus(ReinforcePlusPlusConfig()).advantages
RPP_BASELINE = ReinforcePlusPlus(ReinforcePlusPlusConfig(group_baseline=True)).advantages
IG_GRPO_SCALED = IGGRPO(IGGRPOConfig(alpha=ALPHA)).advantages
AS_MEASURED = InformationGainConfig(dead_zone=0.0, negative_scale=1.0, soft_clip_form="none")
IG_GRPO, IG_GRPO_SIBLINGS = (
    IGGRPO(
        IGGRPOConfig(alpha=ALPHA, gain_baseline=baseline, scale_by_std=False, information_gain=AS_MEASURED)
    ).advantages
    for baseline in ("none", "siblings")
)
MT_GRPO, MT_GRPO_EVERY = (
    MTGRPO(MTGRPOConfig(turn_reward="gain", searches=searches, information_gain=AS_MEASURED)).advantages
    for searches in ("first", "every")
)
GOOD_ONLY = InformationGainConfig(dead_zone=0.25)  # a useless search is no good round
CW_GRPO, CW_GRPO_SOFT = (
    CWGRPO(CWGRPOConfig(gamma=gamma, information_gain=GOOD_ONLY)).advantages for gamma in (100.0, 1.0)
)
IGPO_JOINT = IGPO(IGPOConfig(gain="log_probability")).advantages
IGPO_SEPARATE = IGPO(IGPOConfig(gain="log_probability", normalisation="separate")).advantages
POTENTIAL = IGGRPOPotential(IGGRPOPotentialConfig(alpha=1.0, gain="log_probability")).advantages
TIPS_GROUP = TIPS(TIPSConfig(estimator="group")).advantages
MR_SEARCH = MRSearch(MRSearchConfig()).advantages
EPISODE_OVER_TURNS = gigpo(omega=0.0, episode_statistics="turn")
ANCHORED = {omega: gigpo(omega=omega) for omega in (0.0, 1.0)}
GRAFT_PLAIN = GRAFT(GRAFTConfig(normalise=False, gamma=1.0, graph_lambda=0.0, similarity=None)).advantages
COV_SCALAR = CovLocal(CovLocalConfig(credit="scalar", scale_by_std=False)).advantages
IG_LOCAL = of_progress(IGLocal(IGLocalConfig()).advantages)
TOKEN_MEAN, SEQUENCE_MEAN = "token-mean", "seq-mean-token-mean"


@cache
def every_group(
    toy: Toy, estimator: Estimator, size: int, aggregation: str = "seq-mean-token-sum", total: bool = False
) -> Advantages:
    """What an estimator makes of every group; `total`: the outcome is the sum of all rewards."""
    episodes = [episode(path, bonus=total * sum(rewards_of(path)[:-1])) for path in toy.paths]
    return enumerate_groups(toy, estimator, size, episodes=episodes, aggregation=aggregation)


def drawn_theta(toy: Toy, seed: int) -> Array:
    """Some other policy."""
    return np.random.default_rng(seed).normal(size=(len(STATES), len(toy.actions)))


def norm(gradient: Array) -> float:
    """Euclidean length."""
    return float(np.linalg.norm(gradient))


def cosine(one: Array, other: Array) -> float:
    """Of the angle between two gradients."""
    return float((one * other).sum()) / norm(one) / norm(other)


def fitted_bias(estimate: Array, gradient: Array) -> float:
    """Relative bias after the best factor: the tangent of the angle between the two."""
    factor = (estimate * gradient).sum() / norm(gradient) ** 2
    return norm(estimate / factor - gradient) / norm(gradient)


# ---------------------------------------------------------------- the yardstick


@pytest.mark.parametrize("toy", [FREE, FORCED], ids=["free", "forced"])
def test_the_exact_gradient_is_that_of_finite_differences(toy: Toy) -> None:
    theta, step = drawn_theta(toy, 0), 1e-5
    returns = toy.outcomes + toy.gains
    differences = np.zeros_like(theta)
    for place in np.ndindex(theta.shape):
        moved = np.zeros_like(theta)
        moved[place] = step
        up, down = (toy.probabilities(theta + sign * moved) @ returns for sign in (1, -1))
        differences[place] = (up - down) / (2 * step)
    np.testing.assert_allclose(toy.gradient(theta, returns), differences, atol=1e-9)
    assert toy.probabilities(theta).sum() == pytest.approx(1)


# ---------------------------------------------------------------- unbiased


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("theta", [THETA, drawn_theta(FREE, 1)], ids=["the policy", "another"])
def test_unbiased_estimators(theta: Array, size: int) -> None:
    gradient = FREE.gradient(theta, FREE.outcomes)
    critic = enumerate_groups(FREE, ppo(PPO(PPOConfig()), FREE.values(theta), whitened=False), size)
    steps = enumerate_groups(FREE, step_search(FREE.values(theta, gain_weight=1.0), whitened=False), size)
    cases = {
        "RLOO": (every_group(FREE, PLAIN_RLOO, size), 1.0, gradient),
        "IG-GRPO, potential": (every_group(FREE, POTENTIAL, size), 1.0, gradient),
        "RLOO of the sum": (
            every_group(FREE, PLAIN_RLOO, size, total=True),
            1.0,
            FREE.gradient(theta, FREE.outcomes + FREE.gains),
        ),
        "Dr. GRPO": (every_group(FREE, DR_GRPO, size), shrunk(size), gradient),
        # Both facts found are an outcome of 1, and all the evidence.
        "Cov-scalar, means": (every_group(FREE, COV_SCALAR, size), shrunk(size), 1.25 * gradient),
        "GiGPO's A^E over trajectories": (every_group(FREE, ANCHORED[0.0], size), shrunk(size), gradient),
    }
    for name, (advantages, factor, expected) in cases.items():
        bias = norm(advantages.expected(theta) / factor - expected) / norm(expected)
        assert bias < EXACT[size], name
    # Before whitening; THETA's values are float32 numbers, others' are rounded.
    assert norm(critic.expected(theta) - gradient) / norm(gradient) < (1e-9 if theta is THETA else 1e-6)
    of_sum = FREE.gradient(theta, FREE.outcomes + FREE.gains)
    assert norm(steps.expected(theta) - of_sum) / norm(of_sum) < 1e-6


@pytest.mark.parametrize("gae_lambda", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("gain_weight", [0.0, ALPHA])
@pytest.mark.parametrize("theta", [THETA, drawn_theta(FREE, 1)], ids=["the policy", "another"])
def test_with_the_true_values_turn_ppo_is_unbiased_whatever_lambda(
    theta: Array, gain_weight: float, gae_lambda: float
) -> None:
    rewards: dict[str, Any] = {"turn_reward": "gain", "gain_weight": gain_weight} if gain_weight else {}
    algorithm = turn_ppo(gamma=1.0, gae_lambda=gae_lambda, whiten=False, **rewards)
    estimator = ppo(algorithm, FREE.values(theta, gain_weight=gain_weight))
    gradient = FREE.gradient(theta, FREE.outcomes + gain_weight * FREE.gains)
    assert norm(enumerate_groups(FREE, estimator, 2).expected(theta) - gradient) / norm(gradient) < 1e-6


# ---------------------------------------------------------------- measured


@dataclass(frozen=True)
class Row:
    """An estimator, what its expectation should be the gradient of, and what was measured for each group size.

    `factor`: what E[g] is divided by first; None: whatever fits best, where random deviations scale it.
    Measured: relative bias, cosine, and how the bias moves the number of searches (below 0: it stops too early).
    """

    name: str
    estimator: Estimator
    returns: Callable[[int], Array]
    factor: Callable[[int], float] | None
    measured: tuple[tuple[float, float, float], tuple[float, float, float]]
    aggregation: str = "seq-mean-token-sum"


def outcomes(size: int) -> Array:
    """What an episode earns without intermediate rewards."""
    return FREE.outcomes


def sums(size: int) -> Array:
    """What it earns with each search's gain."""
    return FREE.outcomes + FREE.gains


def deviations(toy: Toy, theta: Array) -> tuple[float, float]:
    """Of outcomes over episodes, and of gains over searches: what IGPO's "separate" divides by."""
    chances = toy.probabilities(theta)
    squares = np.array([sum(GAINS[kind] ** 2 for kind in path) for path in toy.paths])
    searches = chances @ toy.searches
    of_gains = np.sqrt(chances @ squares / searches - (chances @ toy.gains / searches) ** 2)
    return float(np.sqrt(chances @ toy.outcomes**2 - (chances @ toy.outcomes) ** 2)), float(of_gains)


def apart(size: int) -> Array:
    """Outcomes and gains, each over its own deviation."""
    of_outcomes, of_gains = deviations(FREE, THETA)
    return FREE.outcomes / of_outcomes + FREE.gains / of_gains


def turn_rewards(size: int, searches: int = 1) -> Array:
    """Outcome and the reward of the k-th search (0 without one), each over its own deviation: what MT-GRPO compares."""
    chances = FREE.probabilities(THETA)
    rewards = [[GAINS[path[k]] if path[k:] else 0.0 for path in FREE.paths] for k in range(searches)]
    parts = [FREE.outcomes, *map(np.array, rewards)]
    return np.asarray(sum(part / np.sqrt(chances @ part**2 - (chances @ part) ** 2) for part in parts))


def modulated(size: int) -> Array:
    """Dr. GRPO's outcomes are shrunk by (G - 1) / G and gains aren't, so that alpha counts for more."""
    return FREE.outcomes + ALPHA * size / (size - 1) * FREE.gains


def shrunk(size: int) -> float:
    """A reward is compared with a mean that holds it."""
    return (size - 1) / size


def unscaled(size: int) -> float:
    """The estimate is taken as it is."""
    return 1.0


ROWS = [
    Row("GRPO", PLAIN_GRPO, outcomes, None, ((0.128, 0.992, 0.022), (0.133, 0.991, 0.023))),
    Row("REINFORCE++", RPP, outcomes, None, ((0.192, 0.982, 0.086), (0.161, 0.987, 0.054))),
    Row(
        "PPO",
        ppo(PPO(PPOConfig()), FREE.values(THETA)),
        outcomes,
        None,
        ((0.255, 0.969, -0.122), (0.101, 0.995, -0.028)),
    ),
    Row(
        "StepSearch",
        step_search(FREE.values(THETA, gain_weight=1.0)),
        sums,
        None,
        ((0.121, 0.993, 0.037), (0.1, 0.995, 0.037)),
    ),
    Row(
        "Turn-PPO",
        ppo(turn_ppo(), FREE.values(THETA, gamma=0.99)),
        outcomes,
        None,
        ((0.216, 0.977, -0.096), (0.086, 0.996, -0.013)),
    ),
    Row(
        "Turn-PPO, not whitened",
        ppo(turn_ppo(whiten=False), FREE.values(THETA, gamma=0.99)),
        outcomes,
        unscaled,
        ((0.016, 1.0, -0.013), (0.016, 1.0, -0.013)),
    ),
    Row(
        "Turn-PPO, not whitened, untrained critic",
        ppo(turn_ppo(whiten=False), UNTRAINED),
        outcomes,
        None,
        ((0.031, 1.0, -0.009), (0.031, 1.0, -0.009)),
    ),
    Row(
        "GiGPO, A^E over turns", EPISODE_OVER_TURNS, outcomes, shrunk, ((0.155, 0.993, -0.038), (0.081, 0.998, -0.003))
    ),
    Row("GiGPO, means", ANCHORED[1.0], outcomes, None, ((0.102, 0.995, 0.007), (0.078, 0.997, 0.005))),
    Row(
        "GiGPO, means, over turns",
        gigpo(episode_statistics="turn"),
        outcomes,
        None,
        ((0.147, 0.989, 0.035), (0.103, 0.995, 0.023)),
    ),
    Row("GiGPO", GiGPO(GiGPOConfig()).advantages, outcomes, None, ((0.174, 0.985, 0.049), (0.155, 0.988, 0.037))),
    Row(
        "GRAFT, differences of values", GRAFT_PLAIN, outcomes, shrunk, ((0.206, 0.979, -0.031), (0.159, 0.988, -0.024))
    ),
    Row("GRAFT", GRAFT(GRAFTConfig()).advantages, outcomes, None, ((0.207, 0.979, 0.004), (0.189, 0.983, 0.038))),
    Row(
        "Cov-local",
        CovLocal(CovLocalConfig()).advantages,
        outcomes,
        None,
        ((0.155, 0.988, -0.060), (0.178, 0.985, -0.079)),
    ),
    # The probability of the answer rises with the evidence found.
    Row("IG-local", IG_LOCAL, outcomes, None, ((0.155, 0.988, -0.060), (0.178, 0.985, -0.079))),
    Row("RLOO, token-mean", PLAIN_RLOO, outcomes, None, ((0.096, 0.996, 0.033), (0.054, 0.999, 0.02)), TOKEN_MEAN),
    Row(
        "RLOO, seq-mean-token-mean",
        PLAIN_RLOO,
        outcomes,
        None,
        ((0.257, 0.969, 0.136), (0.257, 0.969, 0.136)),
        SEQUENCE_MEAN,
    ),
    Row("IG-GRPO, means", IG_GRPO, modulated, shrunk, ((0.09, 0.998, -0.088), (0.067, 0.999, -0.065))),
    Row(
        "IG-GRPO, means, siblings",
        IG_GRPO_SIBLINGS,
        modulated,
        shrunk,
        ((0.284, 0.990, -0.278), (0.206, 0.992, -0.205)),
    ),
    Row("IG-GRPO", IG_GRPO_SCALED, modulated, None, ((0.111, 0.994, -0.021), (0.119, 0.993, -0.011))),
    Row("IGPO, joint", IGPO_JOINT, sums, None, ((0.245, 0.971, -0.002), (0.157, 0.988, -0.048))),
    Row("IGPO, separate", IGPO_SEPARATE, apart, None, ((0.544, 0.878, -0.22), (0.555, 0.874, -0.245))),
    Row("MT-GRPO, first search", MT_GRPO, turn_rewards, None, ((0.091, 0.996, 0.037), (0.062, 0.998, 0.0))),
    Row(
        "MT-GRPO, every search",
        MT_GRPO_EVERY,
        lambda size: turn_rewards(size, searches=2),
        None,
        ((0.095, 0.996, -0.015), (0.144, 0.990, -0.047)),
    ),
    Row("CW-GRPO", CW_GRPO, outcomes, None, ((0.267, 0.966, -0.103), (0.256, 0.969, -0.095))),
    Row("CW-GRPO, gamma 1", CW_GRPO_SOFT, outcomes, None, ((0.169, 0.986, -0.041), (0.168, 0.986, -0.036))),
    Row(
        "GSPO, first update", PLAIN_GRPO, outcomes, None, ((0.312, 0.955, 0.148), (0.314, 0.954, 0.149)), SEQUENCE_MEAN
    ),
    Row("TIPS, group", TIPS_GROUP, outcomes, None, ((0.24, 0.972, -0.128), (0.304, 0.957, -0.172))),
    Row("attempts chosen by the policy", MR_SEARCH, sums, unscaled, ((0.635, 0.944, -0.588), (0.601, 0.891, -0.588))),
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_measured_bias(row: Row, size: int) -> None:
    gradient = FREE.gradient(THETA, row.returns(size))
    estimate = every_group(FREE, row.estimator, size, row.aggregation).expected(THETA)
    factor = row.factor(size) if row.factor else (estimate * gradient).sum() / norm(gradient) ** 2
    bias = (estimate / factor - gradient) / norm(gradient)
    searches = FREE.gradient(THETA, FREE.searches)
    measured = (norm(bias), cosine(estimate, gradient), float((bias * searches).sum()) / norm(searches))
    assert measured == pytest.approx(row.measured[SIZES.index(size)], abs=6e-4)


def test_one_group_is_whitened_alike_with_and_without_its_mean() -> None:
    plain, baseline = (every_group(FREE, estimator, 4) for estimator in (RPP, RPP_BASELINE))
    np.testing.assert_allclose(baseline.weighted_KGT, plain.weighted_KGT, atol=1e-6)


# ---------------------------------------------------------------- baselines summed up to the policy's own stop


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_the_bias_is_the_gradient_of_the_accumulated_mean_rewards(seed: int | None, size: int) -> None:
    """E[g] = grad E[sum_{k < T} w_k (r_k - b_k)], b held fixed: every turn costs b_k, what a turn k earns on average.

    w_k is the chance that a sibling came to turn k as well: alone there, a turn is compared with nothing and earns 0.
    """
    theta = THETA if seed is None else drawn_theta(FREE, seed)
    means_T, reached_T = FREE.mean_rewards(theta)
    compared_T = 1 - (1 - reached_T) ** (size - 1)
    left = [sum(w * (r - b) for w, r, b in zip(compared_T, rewards_of(p), means_T, strict=False)) for p in FREE.paths]
    estimate = every_group(FREE, MR_SEARCH, size).expected(theta)
    np.testing.assert_allclose(estimate, FREE.gradient(theta, left), atol=1e-7)
    if size == 2 and seed is None:
        np.testing.assert_allclose(means_T, [0.125, 0.25, 0.5])


def test_following_the_biased_estimate_stops_after_half_the_facts() -> None:
    biased, unbiased = every_group(FREE, MR_SEARCH, 2), every_group(FREE, PLAIN_RLOO, 2, total=True)
    likeliest = []
    for estimate in (biased, unbiased):
        theta = THETA.copy()
        for _ in range(1500):
            theta += 4 * estimate.expected(theta)
        likeliest.append(FREE.paths[int(FREE.probabilities(theta).argmax())])
        assert FREE.probabilities(theta).max() > 0.98
    assert likeliest == ["g", "gg"]


@pytest.mark.parametrize(("estimator", "bonus"), [(MR_SEARCH, 0.5), (IGPO_JOINT, 0.5), (IGPO_SEPARATE, 0.0)])
def test_a_reward_for_every_turn_goes_unseen(estimator: Estimator, bonus: float) -> None:
    """So what it pays for a longer episode, which is in the objective, is not in the estimate."""
    size, richer = 3, {kind: gain + 0.5 for kind, gain in GAINS.items()}
    for toy, theta in ((FREE, THETA), (FORCED, EVEN)):
        plain = every_group(toy, estimator, size).expected(theta)
        paid = [episode(path, richer, bonus) for path in toy.paths]
        changed = enumerate_groups(toy, estimator, size, episodes=paid).expected(theta)
        np.testing.assert_allclose(changed, plain, atol=1e-6)
        missed = norm(toy.gradient(theta, 0.5 * toy.searches))
        assert missed > 0.1 if toy is FREE else missed < 1e-12


def test_after_a_good_search_the_biased_estimates_answer_though_searching_pays() -> None:
    exact = FREE.gradient(THETA, sums(0))[1]
    for estimator, size in ((MR_SEARCH, 2), (MR_SEARCH, 4), (IGPO_SEPARATE, 2), (IGPO_SEPARATE, 4)):
        biased = every_group(FREE, estimator, size).expected(THETA)[1]
        moved = [float(row[0] - row @ FREE.policy(THETA)[1]) for row in (biased, exact)]  # log P(answer), per step
        assert moved[0] > 0 > moved[1]


def test_separate_igpo_tends_to_an_objective_in_which_a_search_costs_the_mean_gain() -> None:
    chances = FREE.probabilities(THETA)
    mean_gain = chances @ FREE.gains / (chances @ FREE.searches)
    priced = apart(0) - mean_gain / deviations(FREE, THETA)[1] * FREE.searches
    closeness = [
        [
            cosine(every_group(FREE, IGPO_SEPARATE, size).expected(THETA), FREE.gradient(THETA, returns))
            for size in SIZES
        ]
        for returns in (priced, apart(0))
    ]
    np.testing.assert_allclose(closeness, [[0.967, 0.988], [0.878, 0.874]], atol=1e-3)


def large_group(*, alike: bool) -> Array:
    """MT-GRPO's estimate for groups without end; `alike`: rollouts without a search get the sum of both comparisons."""
    chances = FREE.probabilities(THETA)
    first = np.array([GAINS[path[0]] if path else 0.0 for path in FREE.paths])
    of_outcome, of_turn, of_both = (
        (x - chances @ x) / np.sqrt(chances @ x**2 - (chances @ x) ** 2)
        for x in (FREE.outcomes, first, FREE.outcomes + first)
    )
    credit = np.tile(of_outcome[:, None], (1, TURNS))
    credit[:, 0] += of_turn
    if not alike:
        credit[FREE.paths.index("")] = of_both[FREE.paths.index("")]
    return np.asarray(np.einsum("n,nt,ntsa->sa", chances, credit, FREE.scores(THETA)))


def test_mt_grpo_is_biased_by_the_scale_of_rollouts_without_a_search() -> None:
    exact = FREE.gradient(THETA, turn_rewards(0))
    assert fitted_bias(large_group(alike=False), exact) == pytest.approx(0.142, abs=1e-3)
    assert fitted_bias(large_group(alike=True), exact) < 1e-9
    closeness = [cosine(every_group(FREE, MT_GRPO, size).expected(THETA), large_group(alike=False)) for size in SIZES]
    np.testing.assert_allclose(closeness, [0.976, 0.988], atol=1e-3)


# ---------------------------------------------------------------- information gain on the query alone


def myopic(theta: Array, gain: Callable[[int, str], float]) -> Array:
    """E[sum_t gain_t grad log pi(a_t | s_t)]: each search is credited with its own gain and no later one's."""
    own = [[gain(t, kind) for t, kind in enumerate(path)] + [0.0] * (TURNS - len(path)) for path in FREE.paths]
    return np.asarray(np.einsum("n,nt,ntsa->sa", FREE.probabilities(theta), np.array(own), FREE.scores(theta)))


@pytest.mark.parametrize("theta", [THETA, drawn_theta(FREE, 1)], ids=["the policy", "another"])
def test_ig_grpo_credits_a_search_with_its_own_gain(theta: Array) -> None:
    estimate = every_group(FREE, IG_GRPO, 2).expected(theta)
    added = (estimate - FREE.gradient(theta, FREE.outcomes) / 2) / ALPHA
    np.testing.assert_allclose(added, myopic(theta, lambda t, kind: GAINS[kind]), atol=1e-8)
    missing = FREE.gradient(theta, FREE.gains) - added
    assert np.abs(missing[1:]).max() < 1e-8  # nothing follows the second search
    assert missing[0, 0] < 0  # the first decision gets no credit for what later searches find: too much answering
    assert (added[:, 0] < 0).all()  # and yet answering loses in every state, as every search is paid
    if theta is THETA:
        assert norm(missing) / norm(FREE.gradient(theta, FREE.gains)) == pytest.approx(0.302, abs=1e-3)


def test_ig_grpo_pays_for_searching_as_such() -> None:
    richer = [episode(path, {kind: gain + 0.5 for kind, gain in GAINS.items()}) for path in FREE.paths]
    for estimator, paid in ((IG_GRPO, ALPHA * 0.5), (IG_GRPO_SIBLINGS, 0.0)):
        changed = enumerate_groups(FREE, estimator, 2, episodes=richer).expected(THETA)
        plain = every_group(FREE, estimator, 2).expected(THETA)
        np.testing.assert_allclose(changed - plain, myopic(THETA, lambda t, kind, paid=paid: paid), atol=1e-8)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("theta", [THETA, drawn_theta(FREE, 1)], ids=["the policy", "another"])
def test_a_baseline_of_siblings_leaves_the_first_choice_to_search_alone(theta: Array, size: int) -> None:
    """The n-th search earns w_n (IG - b_n), the mean b_n being over n-th searches; answering is compared with 0."""
    chances = FREE.probabilities(theta)
    there = [FREE.searches > t for t in range(TURNS - 1)]
    means = [
        float(sum(chance * GAINS[path[t]] for chance, path in zip(chances, FREE.paths, strict=True) if path[t:]))
        / float(chances @ there[t])
        for t in range(TURNS - 1)
    ]
    compared = [1 - float(1 - chances @ reached) ** (size - 1) for reached in there]
    estimate = every_group(FREE, IG_GRPO_SIBLINGS, size).expected(theta)
    added = (estimate - shrunk(size) * FREE.gradient(theta, FREE.outcomes)) / ALPHA
    expected = myopic(theta, lambda t, kind: compared[t] * (GAINS[kind] - means[t]))
    np.testing.assert_allclose(added, expected, atol=1e-6)
    assert abs(added[0, 0]) < 1e-6


# ---------------------------------------------------------------- anchor states


@pytest.mark.parametrize("theta", [THETA, drawn_theta(FREE, 1)], ids=["the policy", "another"])
def test_equal_states_are_compared_without_bias_but_rare_ones_count_less(theta: Array) -> None:
    """A^S is each state's exact gradient times E[(n - 1) / n], n being how many of the group came to that state."""
    size = 3
    estimates = [every_group(FREE, ANCHORED[omega], size).expected(theta) for omega in (1.0, 0.0)]
    exact = FREE.gradient(theta, FREE.outcomes)
    chances = [1.0, *FREE.policy(theta)[0, 1:]]
    for s, chance in enumerate(chances):
        others = [comb(size - 1, n) * chance**n * (1 - chance) ** (size - 1 - n) * n / (n + 1) for n in range(size)]
        np.testing.assert_allclose((estimates[0] - estimates[1])[s], sum(others) * exact[s], atol=1e-7)


# ---------------------------------------------------------------- a policy that can't choose when to stop


@pytest.mark.parametrize("theta", [EVEN, drawn_theta(FORCED, 1)], ids=["the policy", "another"])
def test_without_a_choice_when_to_stop_the_bias_is_gone(theta: Array) -> None:
    exact, paid = FORCED.gradient(theta, FORCED.outcomes), FORCED.gradient(theta, FORCED.outcomes + FORCED.gains)
    for size in SIZES:
        attempts = every_group(FORCED, MR_SEARCH, size).expected(theta)
        assert norm(attempts - paid) / norm(paid) < EXACT[size]
        over_turns = every_group(FORCED, EPISODE_OVER_TURNS, size).expected(theta)
        assert norm(over_turns / shrunk(size) - exact) / norm(exact) < EXACT[size]
        # Whitening is now a common factor of each group's, as GRPO's is.
        whitened, scaled = (every_group(FORCED, estimator, size).expected(theta) for estimator in (RPP, PLAIN_GRPO))
        assert fitted_bias(whitened, scaled) < 1e-4


def test_what_is_left_of_igpo_without_that_choice_goes_with_the_size_of_the_group() -> None:
    """A group's mean and deviation hold the turn's own reward: of order 1 / G, where the bias of stopping stays."""
    of_outcomes, of_gains = deviations(FORCED, EVEN)
    joint = FORCED.gradient(EVEN, FORCED.outcomes + FORCED.gains)
    separate = FORCED.gradient(EVEN, FORCED.outcomes / of_outcomes + FORCED.gains / of_gains)
    left = [
        [fitted_bias(every_group(FORCED, estimator, size).expected(EVEN), exact) for size in SIZES]
        for estimator, exact in ((IGPO_JOINT, joint), (IGPO_SEPARATE, separate))
    ]
    np.testing.assert_allclose(left, [[0.270, 0.105], [0.127, 0.044]], atol=1e-3)
