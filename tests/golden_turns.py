"""What GiGPO, IGPO and Turn-PPO give on golden cases: one function per kind, outputs by the golden's own names."""

from __future__ import annotations

from dataclasses import replace
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Any

import numpy as np
from buffers import mask_buffer
from golden_reader import Case, NotAsked

from algorithms.common.training.advantages import discounted_sums
from algorithms.common.training.anchor_states import anchor_clusters
from algorithms.common.training.turn_rewards import curriculum_weights, normalised_returns
from algorithms.gigpo import GiGPOConfig, episode_advantages, step_advantages, turn_advantages
from algorithms.igpo import set_f1_outcome
from algorithms.turn_ppo import TurnPPO, TurnPPOConfig
from igsearch.testing.buffers import PROTOCOL, trajectory
from igsearch_env.information_gain import InformationGainConfig
from igsearch_env.protocols import Answer
from igsearch_env.scorers import weighted_mean
from igsearch_env.trajectory import Gain, Turn

Outputs = dict[str, Any]


def _column(case: Case, name: str) -> np.ndarray[Any, np.dtype[Any]]:
    return np.array([step[name] for step in case.get("steps")])


def _numbers(names: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Labels as numbers in order of appearance."""
    order = list(dict.fromkeys(names.tolist()))
    return np.array([order.index(name) for name in names.tolist()])


def _returns(case: Case, gamma: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    # The turns of a trajectory stand one after another.
    return discounted_sums(_column(case, "reward"), np.bincount(_numbers(_column(case, "traj"))), gamma)


def step_returns(case: Case) -> Outputs:
    """Discounted returns of each turn."""
    return {"returns": _returns(case, case.get("gamma"))}


def step_groups(case: Case) -> Outputs:
    """Cluster numbers by exact or similar anchors."""
    return {
        "cluster_id": anchor_clusters(
            _column(case, "anchor").tolist(), _numbers(_column(case, "group")), _similarity(case)
        )
    }


def _similarity(case: Case) -> float | None:
    if case.get("enable_similarity"):
        return float(case.get("similarity_thresh"))
    case.ignore("states are compared exactly", "similarity_thresh")
    return None


def _config(case: Case) -> GiGPOConfig:
    if case.has("epsilon") and case.get("epsilon") != 1e-6:
        raise AssertionError(f"epsilon={case.get('epsilon')}: ours is 1e-6")
    return GiGPOConfig(
        omega=case.get("step_advantage_w"),
        gamma=case.get("gamma"),
        similarity=_similarity(case),
        scale_by_std=case.get("mode") == "mean_std_norm",
        invalid_penalty=case.get("invalid_action_penalty_coef"),
    )


def total(case: Case) -> Outputs:
    """Both comparisons and their sum, per turn."""
    config = _config(case)
    penalty = config.invalid_penalty * (1 - _column(case, "is_action_valid"))
    scores = _column(case, "episode_reward") - penalty
    returns = _returns(case, config.gamma) - penalty
    groups, owners = _numbers(_column(case, "group")), _numbers(_column(case, "traj"))
    anchors = _column(case, "anchor").tolist()
    summed = turn_advantages(scores, returns, groups, owners, anchors, config)
    clusters = anchor_clusters(anchors, groups, config.similarity)
    tokens = case.outputs.get("total_tokens")
    result: Outputs = {
        "episode_adv": episode_advantages(scores, groups, owners, config),
        "step_adv": step_advantages(returns, clusters, config.scale_by_std),
        "total": summed,
    }
    if tokens is not None:
        mask = np.array(case.get("response_mask")) if case.has("response_mask") else np.ones(np.shape(tokens))
        result["total_tokens"] = summed[:, None] * mask
    return result


def episode_per_trajectory(case: Case) -> Outputs:
    """The paper's Eq. 3: statistics over trajectories."""
    sibling = next(inputs for name, inputs in case.siblings.items() if name.startswith("gigpo_"))
    penalty = sibling["invalid_action_penalty_coef"] * (1 - _column(case, "is_action_valid"))
    over = "turn" if case.get("compute_mean_std_cross_steps") else "trajectory"
    config = GiGPOConfig(episode_statistics=over, scale_by_std=not case.get("remove_std"))
    scores = _column(case, "episode_reward") - penalty
    groups, owners = _numbers(_column(case, "group")), _numbers(_column(case, "traj"))
    return {"episode_adv": episode_advantages(scores, groups, owners, config)}


def ratios(case: Case) -> Outputs:
    """The similarity itself: Python's own, row against column."""
    strings, order = case.get("strings"), case.outputs["order"]
    return {
        "order": order,
        "ratio": [[SequenceMatcher(None, strings[a], strings[b]).ratio() for b in order] for a in order],
    }


def turn_rewards(case: Case) -> Outputs:
    """IGPO's advantages per turn, from the gains and outcomes of the fixture."""
    members = case.get("trajs")
    of_outcomes, of_gains = 1.0, 1.0
    if case.has("curriculum_f1_weight"):
        of_outcomes, of_gains = case.get("curriculum_f1_weight"), case.get("curriculum_ig_weight")
    rewards = [[*(of_gains * gain for gain in row["ig"]), of_outcomes * row["outcome"]] for row in members]
    groups = _numbers(np.array([row["group"] for row in members]))
    ours = normalised_returns(
        rewards,
        groups,
        case.get("info_gain_norm_mode"),
        case.get("gamma"),
        scale_by_std=case.get("norm_adv_by_std"),
    )
    result: Outputs = {"turn_adv": [row.tolist() for row in ours]}
    if "token" in case.outputs:
        result["token"] = NotAsked("token layout is tested with the buffer")
    return result


def turn_gains(case: Case) -> Outputs:
    """IGPO's gains from token log-probs before each turn."""
    (values,) = case.get("gold_token_logprobs_before_turn")
    means = [weighted_mean(row, head_weight=1.0) for row in values]
    gains = [Gain(after - before, after, before) for before, after in pairwise(means)]
    return {"prob_diff": [gain.in_probability for gain in gains], "log_prob_diff": [gain.value for gain in gains]}


def weights(case: Case) -> Outputs:
    """IGPO's curriculum."""
    return {"weights": [curriculum_weights(step, case.get("total_steps")) for step in case.get("step")]}


def set_f1_outcomes(case: Case) -> Outputs:
    """IGPO's outcome of texts of one turn."""
    ours: list[Any] = []
    for text, golds in case.get("tests"):
        action = PROTOCOL.parse(text)
        episode = trajectory([Turn(text, action)])
        episode.prediction = action.text if isinstance(action, Answer) else None
        episode.question = replace(episode.question, golden_answers=tuple(golds.split("<|answer_split|>")))
        unclosed = text.count("<think>") != text.count("</think>")
        ours.append(NotAsked("reasoning without an end is valid here") if unclosed else set_f1_outcome(episode))
    without = NotAsked("of their evaluation")
    return {"f1": ours, "em": without, "noformatf1": without}


def turn_gae(case: Case) -> Outputs:
    """Turn-PPO's advantages per token, and the critic's target at the first token of each turn."""
    mask = np.array(case.get("response_mask"), dtype=bool)
    buffer = mask_buffer(mask.tolist())
    for t, score, gains in zip(buffer.trajectories, case.get("scores"), case.get("turn_gains"), strict=True):
        t.outcome = score
        for turn, gain in zip(t.turns, gains, strict=True):
            turn.gain = Gain(gain, gain, 0.0)
    buffer.values = np.array(case.get("values"), dtype=np.float32)[mask]
    weight = case.get("gain_weight")
    rewards: dict[str, Any] = {"turn_reward": "gain", "gain_weight": weight} if weight else {}
    config = TurnPPOConfig(
        gamma=case.get("gamma"),
        gae_lambda=case.get("lam"),
        whiten=case.get("whiten"),
        **rewards,
        information_gain=InformationGainConfig(dead_zone=0.0, negative_scale=1.0, soft_clip_form="none"),
    )
    algorithm = TurnPPO(config)
    advantages, returns = np.zeros(mask.shape), np.zeros(mask.shape)
    advantages[mask], returns[mask] = algorithm.advantages(buffer), algorithm.value_targets(buffer)
    return {"advantages": advantages, "returns": returns}
