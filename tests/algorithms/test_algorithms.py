"""What each algorithm makes of a buffer, beyond its golden numbers, and that each one trains."""

from __future__ import annotations

import json
from dataclasses import replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from buffers import reward_buffer
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.common.algorithm import Algorithm
from algorithms.common.config import TrainConfig
from algorithms.common.rollout.buffer import RolloutBuffer, RolloutBufferError
from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.run.metrics_log import read_metrics
from algorithms.common.run.run import Run
from algorithms.common.trainer import collect_batch, train
from algorithms.common.training.advantages import discounted_sums, gae, rloo_advantages, whiten
from algorithms.common.training.anchor_states import anchor_clusters
from algorithms.common.training.config import CriticConfig
from algorithms.cov_local import CovLocal, CovLocalConfig
from algorithms.cw_grpo import CWGRPO, CWGRPOConfig
from algorithms.gigpo import GiGPO, GiGPOConfig, anchor_states
from algorithms.graft import GRAFT, GRAFTConfig
from algorithms.grpo import GRPO, GRPOConfig
from algorithms.gspo import GSPO, GSPOConfig
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
from igsearch.testing.buffers import answer_turn, buffer_of, search_turn, trajectory
from igsearch_env.errors import ConfigurationError
from igsearch_env.information_gain import InformationGainConfig
from igsearch_env.protocols import Invalid, Search
from igsearch_env.trajectory import Attempt, Gain, Trajectory, Turn
from igsearch_env.world.bundled import bundled_world
from retrievers import Passage

EVERY: list[tuple[Any, Any]] = [
    (RLOO, TrainConfig),
    (ReinforcePlusPlus, ReinforcePlusPlusConfig),
    (GRPO, GRPOConfig),
    (IGGRPO, IGGRPOConfig),
    (GiGPO, GiGPOConfig),
    (CovLocal, CovLocalConfig),
    (IGLocal, IGLocalConfig),
    (GRAFT, GRAFTConfig),
    (IGPO, IGPOConfig),
    (MRSearch, MRSearchConfig),
    (PPO, PPOConfig),
    (MTGRPO, MTGRPOConfig),
    (CWGRPO, CWGRPOConfig),
    (GSPO, GSPOConfig),
    (TurnPPO, TurnPPOConfig),
    (IGGRPOPotential, IGGRPOPotentialConfig),
    (TIPS, TIPSConfig),
    (StepSearch, StepSearchConfig),
]
every_algorithm = pytest.mark.parametrize(("algorithm", "config_class"), EVERY, ids=[a.name for a, _ in EVERY])
VALUES = st.lists(st.floats(-5, 5).map(lambda value: round(value, 3)), min_size=1, max_size=12)


def episode(outcome: float, observations: list[str], number: int = 0) -> Trajectory:
    """A search per observation, then an answer."""
    turns = [search_turn(range(5)) for _ in observations]
    for turn, text in zip(turns, observations, strict=True):
        turn.observation = text
    return trajectory([*turns, answer_turn(range(4))], outcome, number)


# ---------------------------------------------------------------- shared pieces


@given(VALUES)
def test_leave_one_out_compares_with_the_others(rewards: list[float]) -> None:
    ours = rloo_advantages(rewards, [0] * len(rewards))
    for i, reward in enumerate(rewards):
        others = rewards[:i] + rewards[i + 1 :]
        assert ours[i] == pytest.approx(reward - np.mean(others) if others else reward, abs=1e-9)


@given(VALUES)
def test_whitened_values_have_mean_0_and_deviation_1(values: list[float]) -> None:
    whitened = whiten(values)
    assert whitened.mean() == pytest.approx(0, abs=1e-6)
    if np.ptp(values) > 0.1:
        assert whitened.std(ddof=1) == pytest.approx(1, abs=1e-3)


@given(VALUES, st.floats(0, 1))
def test_gae_with_lambda_1_is_the_return_minus_the_value(rewards: list[float], gamma: float) -> None:
    values = np.sin(np.arange(len(rewards)))
    expected = discounted_sums(rewards, [len(rewards)], gamma) - values
    ours = gae(rewards, values, [len(rewards)], gamma=gamma, lam=1.0)
    np.testing.assert_allclose(ours, expected, atol=1e-9)


# ---------------------------------------------------------------- REINFORCE++


def test_returns_cross_observations_and_are_whitened_over_the_batch() -> None:
    buffer = buffer_of([[episode(1.0, ["x"]), episode(0.0, [])], [episode(0.0, ["y", "z"], 1)]])
    ours = ReinforcePlusPlus(ReinforcePlusPlusConfig()).advantages(buffer)
    np.testing.assert_allclose(ours, whiten(buffer.broadcast(buffer.outcomes)), atol=1e-6)
    assert len(set(ours[:9].tolist())) == 1  # before and after the observation


def test_a_discount_counts_policy_tokens_only() -> None:
    plain = buffer_of([[episode(1.0, ["x"]), episode(0.0, [])]])
    ours = ReinforcePlusPlus(ReinforcePlusPlusConfig(gamma=0.5)).advantages(plain)
    returns = np.concatenate([0.5 ** np.arange(8, -1, -1.0), np.zeros(4)])
    np.testing.assert_allclose(ours, whiten(returns), atol=1e-6)


def test_the_group_baseline_removes_what_a_group_shares() -> None:
    config = ReinforcePlusPlusConfig(group_baseline=True)
    ours = ReinforcePlusPlus(config).advantages(reward_buffer([[1, 1, 1], [0, 0, 1]]))
    assert np.abs(ours[:9]).max() < 1e-12
    assert ours[-1] > 0 > ours[9]


# ---------------------------------------------------------------- GiGPO


def test_anchors_are_what_was_observed_right_before() -> None:
    played = episode(1.0, ["\n\nfirst\n\n", "\n\nsecond\n\n"])
    played.turns.insert(1, Turn("??", Invalid("no tag"), observation="say again"))
    assert anchor_states(played) == [played.question.text, "first", "", "second"]


def test_equal_anchors_of_other_questions_are_not_compared() -> None:
    assert anchor_clusters(["a", "a", "a", "b"], [0, 1, 0, 0], None).tolist() == [0, 1, 0, 2]


@pytest.mark.parametrize("similarity", [None, 0.9])
def test_similar_anchors_join_the_first_cluster_like_them(similarity: float | None) -> None:
    text = "the quick brown fox jumps over the lazy dog again and again"
    expected = [0, 0, 1] if similarity else [0, 1, 2]
    assert anchor_clusters([text, text + ".", "another"], [0, 0, 0], similarity).tolist() == expected


def test_gigpo_without_its_second_comparison_is_grpo() -> None:
    buffer = buffer_of([[episode(float(i % 2), ["x"] * (i % 3)) for i in range(4)]])
    options = {"omega": 0.0, "episode_statistics": "trajectory"}
    np.testing.assert_allclose(
        GiGPO(GiGPOConfig(**options)).advantages(buffer), GRPO(GRPOConfig()).advantages(buffer), atol=1e-6
    )


def test_a_turn_from_a_shared_anchor_earns_more_where_it_led_to_the_answer() -> None:
    good, bad = episode(1.0, ["same"]), episode(0.0, ["same"])
    ours = GiGPO(GiGPOConfig()).advantages(buffer_of([[good, bad]]))
    alone = GiGPO(GiGPOConfig(omega=0.0)).advantages(buffer_of([[good, bad]]))
    assert (ours[:9] > alone[:9]).all()
    assert (ours[9:] < alone[9:]).all()


def test_an_invalid_action_costs_its_own_turn() -> None:
    def advantages(penalty: float) -> np.ndarray[Any, np.dtype[np.float32]]:
        played = episode(0.0, ["a"])
        played.turns[0].action = Invalid("no tag")
        return GiGPO(GiGPOConfig(invalid_penalty=penalty)).advantages(buffer_of([[played, episode(1.0, ["b"])]]))

    change = advantages(0.5) - advantages(0.0)
    assert change[:5].max() < 0


# ---------------------------------------------------------------- IGPO


def with_gains(outcome: float, gains: list[tuple[float, float]]) -> Trajectory:
    """Searches whose golden answer had these log-probs before and after."""
    played = episode(outcome, ["x"] * len(gains))
    for turn, (before, after) in zip(played.turns, gains, strict=False):
        turn.gain = Gain(after - before, after, before)
    return played


def test_a_turn_earns_its_gain_and_all_that_follows() -> None:
    buffer = buffer_of([[with_gains(0.0, [(-3.0, -0.1), (-0.1, -0.1)]), with_gains(0.0, [(-3.0, -3.0), (-3.0, -3.0)])]])
    ours = IGPO(IGPOConfig()).advantages(buffer)
    assert ours[0] > 0 > ours[14]  # the first search of each
    assert ours[0] > ours[5]  # the second one brought nothing
    assert len(set(ours[:5].tolist())) == 1


def test_a_search_without_a_gain_carries_what_follows() -> None:
    buffer = buffer_of([[episode(1.0, ["x"]), episode(0.0, ["x"])]])
    ours = IGPO(IGPOConfig(normalisation="separate")).advantages(buffer)
    np.testing.assert_allclose(ours, [1.0] * 9 + [-1.0] * 9, atol=1e-4)


@pytest.mark.parametrize("normalisation", ["joint", "separate"])
def test_igpo_without_the_standard_deviation_subtracts_means_alone(normalisation: str) -> None:
    """As the authors' code with `norm_adv_by_std_in_grpo=False`: r - mean, then the sum of what follows."""
    groups = [[(1.0, [0.3, 0.1]), (0.0, [0.1, 0.5]), (0.4, [0.2])], [(-2.0, [-0.05, 0.25]), (0.0, [0.15])]]
    buffer = buffer_of([[with_gains(r, [(0.0, gain) for gain in gains]) for r, gains in group] for group in groups])
    config = IGPOConfig(normalisation=normalisation, gain="log_probability", scale_by_std=False, gamma=0.5)  # type: ignore[arg-type]
    expected = []
    for group in groups:
        of_gains = [gain for _, gains in group for gain in gains]
        outcomes = [outcome for outcome, _ in group]
        if normalisation == "joint":
            of_gains = outcomes = of_gains + outcomes
        for outcome, gains in group:
            centred = [*(gain - np.mean(of_gains) for gain in gains), outcome - np.mean(outcomes)]
            sums = [sum(0.5**k * value for k, value in enumerate(centred[turn:])) for turn in range(len(centred))]
            expected += [
                value for value, tokens in zip(sums, [5] * len(gains) + [4], strict=True) for _ in range(tokens)
            ]
    np.testing.assert_allclose(IGPO(config).advantages(buffer), expected, atol=1e-6)


def test_igpo_wants_the_turn_before_as_its_baseline() -> None:
    with pytest.raises(ConfigurationError, match="previous"):
        IGPOConfig(information_gain=InformationGainConfig())


def test_igpo_moves_the_weight_from_gains_to_outcomes() -> None:
    """An early step follows the gain, the last one the outcome."""
    buffer = buffer_of([[with_gains(0.8, [(0.0, 0.0)]), with_gains(0.0, [(0.0, 0.8)])]])
    config = IGPOConfig(curriculum_steps=10, gain="log_probability", scale_by_std=False)
    firsts = []
    for step in (1, 10, 20):
        buffer.metadata["step"] = step
        ours = IGPO(config).advantages(buffer)
        firsts.append(float(ours[0] - ours[9]))
    assert firsts == pytest.approx([0.8 * (0.55 - 0.95), 0.8 * (1.0 - 0.5), 0.8 * (1.0 - 0.5)], abs=1e-6)
    buffer.metadata.clear()
    with pytest.raises(RolloutBufferError, match=r"metadata\['step'\]"):
        IGPO(config).advantages(buffer)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"curriculum_steps": -1}, "curriculum_steps"),
        ({"curriculum_steps": 5, "normalisation": "separate"}, "cancels the weights"),
        ({"outcome": "em"}, "outcome='em'"),
    ],
)
def test_options_of_igpo_are_checked(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        IGPOConfig(**options)


def test_igpos_own_outcome_punishes_a_bad_format() -> None:
    good, slipped, silent = (episode(0.0, ["x"]) for _ in range(3))
    good.prediction = slipped.prediction = "alias, alias of another"  # golden answers: "answer 0" and "alias"
    slipped.turns[0].action = Invalid("no tag")
    silent.prediction = None
    buffer = buffer_of([[good, slipped, silent]])
    ours = IGPO(IGPOConfig(outcome="set_f1", scale_by_std=False)).advantages(buffer)
    earned = np.array([2 * (1 / 3) * 1 / (1 / 3 + 1), -2.0, -2.0])  # precision: alias, of, another; recall 1
    np.testing.assert_allclose(ours[[0, 9, 18]], earned - earned.mean(), atol=1e-6)


# ---------------------------------------------------------------- options without effect


@pytest.mark.parametrize(
    ("config_class", "condition", "unused", "repair"),
    [
        (TIPSConfig, {"scale": 0.02}, {"target_scale": 0.2}, {"scale": None}),
        (TIPSConfig, {"estimator": "group"}, {"kl_in_reward": 0.1}, {"estimator": "critic"}),
        (TIPSConfig, {"estimator": "group"}, {"critic": CriticConfig(lr=1e-6)}, {"estimator": "critic"}),
        (CovLocalConfig, {"credit": "scalar"}, {"local_weight": 1.0}, {"credit": "local"}),
        (CovLocalConfig, {}, {"alpha": 0.5}, {"credit": "scalar"}),
        (TurnPPOConfig, {}, {"gain_weight": 1.0}, {"turn_reward": "gain"}),
        (GRPOConfig, {}, {"overlong_factor": 0.5}, {"overlong_buffer": 8}),
        (IGGRPOConfig, {}, {"overlong_factor": 0.5}, {"overlong_buffer": 8}),
        (GSPOConfig, {}, {"alpha": 3.0}, {"advantages": "ig_grpo"}),
        (GSPOConfig, {}, {"credit": "return"}, {"advantages": "ig_grpo"}),
    ],
)
def test_an_option_without_effect_is_refused(
    config_class: Any, condition: dict[str, Any], unused: dict[str, Any], repair: dict[str, Any]
) -> None:
    config_class(**condition)
    config_class(**condition | unused | repair)
    name, value = next(iter(unused.items()))
    with pytest.raises(ConfigurationError) as refused:
        config_class(**condition, **unused)
    said, option = str(refused.value), next(iter(repair))
    assert said.startswith(name if name == "critic" else f"{name}={value!r}")
    assert "has no effect; leave it out, or " in said
    assert option in said.split("leave it out, or ")[1].replace("-", "_")


# ---------------------------------------------------------------- groups of one


@pytest.mark.parametrize(
    ("config_class", "options"),
    [
        (ReinforcePlusPlusConfig, {"group_baseline": True}),
        (CovLocalConfig, {}),
        (IGLocalConfig, {}),
        (GRAFTConfig, {}),
        (GRPOConfig, {"dynamic_sampling": True}),
        (IGGRPOConfig, {"gain_baseline": "siblings"}),
        (IGPOConfig, {"normalisation": "separate"}),
        (MRSearchConfig, {}),
    ],
)
def test_what_compares_siblings_is_refused_without_siblings(config_class: Any, options: dict[str, Any]) -> None:
    config_class(**options)
    with pytest.raises(ConfigurationError, match=r"rollout\.group_size is 1: there is nothing to learn from; raise"):
        config_class(**options, rollout=RolloutConfig(group_size=1))


@pytest.mark.parametrize(
    ("algorithm", "config"),
    [(GRPO, GRPOConfig()), (GRPO, GRPOConfig(scale_by_std=False)), (IGGRPO, IGGRPOConfig()), (RLOO, TrainConfig())]
    + [(CovLocal, CovLocalConfig()), (IGLocal, IGLocalConfig())]
    + [(GiGPO, GiGPOConfig(episode_statistics=over)) for over in ("turn", "trajectory")]  # type: ignore[arg-type]
    + [(MRSearch, MRSearchConfig()), (ReinforcePlusPlus, ReinforcePlusPlusConfig(group_baseline=True))]
    + [(MTGRPO, MTGRPOConfig()), (CWGRPO, CWGRPOConfig(gamma=0.0)), (GSPO, GSPOConfig())],
)
def test_a_trajectory_whose_siblings_failed_has_nothing_to_be_compared_with(algorithm: Any, config: Any) -> None:
    """Its plain reward would be of another scale than the advantages of whole groups."""
    buffer = buffer_of([[episode(1.0, [])], [episode(1.0, ["x"], 1), episode(0.0, ["x"], 1)]])
    buffer.groups[0].failed = 7
    ours = algorithm(config).advantages(buffer)
    assert np.abs(ours[4:]).min() > 0.1
    assert np.abs(ours[:4]).max() < (0.2 if algorithm is ReinforcePlusPlus else 1e-9)  # which whitens afterwards


@pytest.mark.parametrize(("algorithm", "config"), [(GRPO, GRPOConfig(scale_by_std=False)), (RLOO, TrainConfig())])
def test_a_group_that_was_planned_as_one_keeps_its_reward(algorithm: Any, config: Any) -> None:
    assert algorithm(config).advantages(buffer_of([[episode(0.75, [])]])).tolist() == [0.75] * 4


# ---------------------------------------------------------------- buffers with little or nothing in them


def ready(algorithm: Algorithm, buffer: RolloutBuffer) -> RolloutBuffer:
    """The buffer with what the algorithm asks for beside rewards."""
    if algorithm.critic is not None:
        buffer.values = np.zeros(int(buffer.policy_tokens.sum()), dtype=np.float32)
    for _, turn in [(t, turn) for t in buffer.trajectories for turn in t.turns[:-1]]:
        if algorithm.needs_information_gain:
            turn.gain = Gain(0.5, -1.0, -1.5)
    for t in buffer.trajectories:
        t.attempts = [Attempt(len(t.turns), t.prediction, t.outcome)]
    return buffer


@every_algorithm
def test_a_group_of_one_gives_finite_numbers(algorithm: Any, config_class: Any) -> None:
    ours = algorithm(config_class())
    for groups in ([[episode(1.0, ["x"])]], [[episode(1.0, ["x"])], [episode(0.0, ["y"], 1), episode(1.0, [], 1)]]):
        advantages = ours.advantages(ready(ours, buffer_of(groups)))
        assert np.isfinite(advantages).all()
        assert len(advantages) == sum(len(turn.completion_ids) for group in groups for t in group for turn in t.turns)


@pytest.mark.parametrize(
    ("algorithm", "config_class", "expected"),
    [
        (RLOO, TrainConfig, 1.0),
        (GRPO, GRPOConfig, 1.0),
        (GRAFT, GRAFTConfig, 0.0),
        (MRSearch, MRSearchConfig, 0.0),
        (IGPO, IGPOConfig, 0.0),
    ],
)
def test_a_rollout_alone_keeps_its_reward_or_teaches_nothing(
    algorithm: Any, config_class: Any, expected: float
) -> None:
    ours = algorithm(config_class())
    advantages = ours.advantages(ready(ours, reward_buffer([[1.0]])))
    np.testing.assert_allclose(advantages, [expected] * 3, atol=1e-5)


@every_algorithm
def test_equal_rewards_give_finite_numbers(algorithm: Any, config_class: Any) -> None:
    ours = algorithm(config_class())
    assert np.isfinite(ours.advantages(ready(ours, reward_buffer([[0.1] * 7, [0.0] * 3])))).all()


@every_algorithm
def test_no_algorithm_is_shown_a_buffer_that_can_not_teach(
    algorithm: Any, config_class: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_run(config_class, tmp_path)
    ours = algorithm(config)
    buffers = [
        ("no trajectory", RolloutBuffer([], failed=2)),
        ("1 trajectories have no policy token", buffer_of([[episode(1.0, []), trajectory([answer_turn(())])]])),
        ("1 trajectories have no policy token", buffer_of([[episode(1.0, []), trajectory([])]])),
        ("an outcome reward is nan", reward_buffer([[1.0, float("nan")]])),
        ("an outcome reward is inf", reward_buffer([[float("inf"), 0.0]])),
    ]
    with Run(ours, config) as run:
        for said, buffer in buffers:
            monkeypatch.setattr("algorithms.common.run.collector.collect", lambda *_, got=buffer, **__: got)
            with pytest.raises(RolloutBufferError, match=said):
                collect_batch(run, ours, 1)


def test_ig_grpo_on_searches_that_were_never_valued_is_grpo() -> None:
    buffer = buffer_of([[episode(1.0, ["x"]), episode(0.0, ["y"])]])
    np.testing.assert_array_equal(IGGRPO(IGGRPOConfig()).advantages(buffer), GRPO(GRPOConfig()).advantages(buffer))


# ---------------------------------------------------------------- training


def small_run(config_class: Any, folder: Path) -> Any:
    """Two steps on six questions."""
    questions = folder / "questions.jsonl"
    rows = [
        {"id": q.id, "question": q.text, "golden_answers": list(q.golden_answers), "dataset": q.dataset}
        | {"supporting_titles": list(q.supporting_titles), "supporting_ids": list(q.supporting_ids)}
        for q in bundled_world().questions["train"][:6]
    ]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return config_class(
        steps=2,
        seed=3,  # some episodes of each step are right
        eval_every=0,
        run_dir=folder / "run",
        env=replace(config_class().env, questions=(str(questions),), eval_questions=(str(questions),)),
        rollout=RolloutConfig(questions_per_step=3, group_size=4, max_new_tokens=16),
    )


@every_algorithm
def test_it_trains(algorithm: Any, config_class: Any, tmp_path: Path) -> None:
    config = small_run(config_class, tmp_path)
    ours = algorithm(config)
    train(ours, config)
    steps = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "reward" in row]
    assert [row["step"] for row in steps] == [1, 2]
    assert all(row["policy/grad_norm"] > 0 for row in steps)
    assert ("information_gain/mean" in steps[0]) == ours.needs_information_gain
    assert ("loss/value" in steps[0]) == (ours.critic is not None)
    # An episode is one attempt, or up to three for MR-Search.
    most = 36 if algorithm is MRSearch else 12
    assert all(most / 2 < row["attempts"] <= most for row in steps)


# ---------------------------------------------------------------- IG-GRPO's options


def gained(*gains: tuple[float, float]) -> Trajectory:
    """A failed episode whose searches have these log-probs (baseline, real) and two query tokens each."""
    played = episode(0.0, ["x"] * len(gains))
    for turn, (before, after) in zip(played.turns, gains, strict=False):
        turn.gain, turn.query_span, turn.search_span = Gain(after - before, after, before), (2, 4), (1, 5)
    return played


def ig_grpo(buffer: RolloutBuffer, **options: Any) -> list[float]:
    """Advantages with gains as they are, undisturbed by stabilisers."""
    plain = InformationGainConfig(dead_zone=0.0, negative_scale=1.0, soft_clip_form="none")
    return [float(a) for a in IGGRPO(IGGRPOConfig(alpha=1.0, information_gain=plain, **options)).advantages(buffer)]


def test_a_gain_in_probability_ignores_what_stays_unlikely() -> None:
    buffer = buffer_of([[gained((-12.0, -8.0)), gained((-8.0, -0.1))]])
    ours = ig_grpo(buffer, gain="probability")
    assert ours[2] == pytest.approx((np.exp(-8) - np.exp(-12)) / 2, abs=1e-7)
    assert ours[9 + 2] == pytest.approx((np.exp(-0.1) - np.exp(-8)) / 2, abs=1e-6)


def test_siblings_are_compared_search_by_search() -> None:
    # The second one's first search brought no passage, so its only gain is that of its second search.
    second = gained((0.0, 0.0), (0.0, 3.0))
    second.turns[0].gain = None
    buffer = buffer_of([[gained((0.0, 1.0), (0.0, 1.0)), second, gained((0.0, 4.0))]])
    ours = ig_grpo(buffer, gain_baseline="siblings")
    firsts, seconds = [ours[2], ours[14 + 14 + 2]], [ours[5 + 2], ours[14 + 5 + 2]]
    assert firsts == pytest.approx([-3 / 2, 3 / 2])
    assert seconds == pytest.approx([-2 / 2, 2 / 2])
    assert ours[14 + 2] == 0


def test_a_search_without_a_sibling_has_nothing_to_be_compared_with() -> None:
    buffer = buffer_of([[gained((0.0, 1.0), (0.0, 5.0)), gained((0.0, 1.0))], [gained((0.0, 2.0))]])
    assert np.abs(ig_grpo(buffer, gain_baseline="siblings")).max() == 0


def test_a_search_may_earn_the_later_gains_of_its_episode() -> None:
    buffer = buffer_of([[gained((0.0, 1.0), (0.0, -2.0), (0.0, 4.0)), gained((0.0, 8.0))]])
    ours = ig_grpo(buffer, credit="return")
    assert [ours[start + 2] for start in (0, 5, 10, 19)] == pytest.approx([3 / 2, 2 / 2, 4 / 2, 8 / 2])
    siblings = ig_grpo(buffer, credit="return", gain_baseline="siblings")
    assert [siblings[start + 2] for start in (0, 5, 10, 19)] == pytest.approx([-5 / 2, 0, 0, 5 / 2])


@pytest.mark.parametrize("option", ["gain", "gain_baseline", "credit"])
def test_options_of_ig_grpo_are_checked(option: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{option}='x'"):
        IGGRPOConfig(**{option: "x"})


def test_a_turn_that_neither_searches_nor_answers_may_cost_something() -> None:
    slipped = replace(search_turn(range(3), (1, 2)), action=Invalid("no tag"))
    buffer = buffer_of([[trajectory([slipped, answer_turn((1,))]), trajectory([answer_turn((1, 2))], 1.0)]])
    plain = GRPO(GRPOConfig()).advantages(buffer)
    punished = GRPO(GRPOConfig(invalid_penalty=0.5)).advantages(buffer)
    assert (punished - plain).tolist() == pytest.approx([-0.5, -0.5, -0.5, 0, 0, 0])
    with pytest.raises(ConfigurationError, match="invalid_penalty=-1"):
        GRPOConfig(invalid_penalty=-1.0)


@pytest.mark.parametrize("algorithm", [GRPO, IGGRPO, IGLocal])
def test_a_search_for_an_earlier_query_may_cost_something(algorithm: Any) -> None:
    queries = ["Alan Brin", "Tolona", " alan  BRIN", "Tolona", "Alan"]
    asked = [replace(search_turn(range(2), (0, 1)), action=Search(query)) for query in queries]
    members = [trajectory([*asked[:3], answer_turn((1,))]), trajectory([*asked[3:], answer_turn((1, 2))], 1.0)]
    buffer = buffer_of([members])  # the fourth query is the first one of its episode
    config = dict(EVERY)[algorithm]
    plain, punished = (algorithm(config(repeat_penalty=cost)).advantages(buffer) for cost in (0.0, 0.5))
    assert (punished - plain).tolist() == pytest.approx([0, 0, 0, 0, -0.5, -0.5, *[0] * 7])
    with pytest.raises(ConfigurationError, match="repeat_penalty=-1"):
        config(repeat_penalty=-1.0)


def test_tags_may_share_the_gain_of_their_query() -> None:
    buffer = buffer_of([[gained((0.0, 1.0)), gained((0.0, 0.0))]])
    assert ig_grpo(buffer)[:5] == pytest.approx([0, 0, 0.5, 0.5, 0])
    assert ig_grpo(buffer, query_tags=True)[:5] == pytest.approx([0, 0.25, 0.25, 0.25, 0.25])
    assert ig_grpo(buffer, closing_tag=True)[:5] == pytest.approx([0, 0, 1 / 3, 1 / 3, 1 / 3])


@pytest.mark.parametrize(("algorithm", "config_class"), [(IGGRPO, IGGRPOConfig), (IGPO, IGPOConfig)])
def test_gains_that_were_never_measured_are_asked_for(algorithm: Any, config_class: Any) -> None:
    played = episode(0.0, ["x"])
    played.turns[0].passages = (Passage("1", "A title", "A text."),)
    buffer = buffer_of([[played, episode(1.0, ["x"])]])
    with pytest.raises(RolloutBufferError, match="none of 2 searches has an information gain: measure it first"):
        algorithm(config_class()).advantages(buffer)


WORDS = st.sampled_from(
    ["the river runs", "a capital city", "was born in", "Paris", "1867", "zinc", "of", "Quixotic", "é"]
)
PIECES = st.lists(WORDS, min_size=12, max_size=60).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(st.lists(PIECES, min_size=1, max_size=3), st.data())
def test_similar_anchors_are_those_of_difflib(texts: list[str], data: st.DataObject) -> None:
    anchors = ["ab" * 150, "ab" * 150 + "c"]  # difflib finds nothing in common where every character is frequent
    for text in texts:
        cut, at = data.draw(st.integers(0, 40)), data.draw(st.integers(0, len(text)))
        anchors += [text, text[cut:], text[: len(text) - cut], text[:at] + data.draw(WORDS) * 3 + text[at + cut :]]
    anchors = data.draw(st.permutations(anchors))
    expected: list[int] = []
    founders: list[str] = []
    for anchor in anchors:
        like = (n for n, f in enumerate(founders) if anchor == f or SequenceMatcher(None, anchor, f).ratio() >= 0.9)
        number = next(like, len(founders))
        founders += [anchor] * (number == len(founders))
        expected.append(number)
    assert anchor_clusters(anchors, [0] * len(anchors), 0.9).tolist() == expected
