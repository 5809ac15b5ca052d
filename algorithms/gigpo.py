"""GiGPO: group-in-group policy optimisation (arXiv 2505.10978), with a second comparison between turns in one state.

    A_{i,t} = A^E_i + omega A^S_{i,t}                                              on the policy tokens of turn t
    A^E_i   = (r_i - mean_group) / (std_group + eps)                               over whole episodes    (Eq. 3)
    R_{i,t} = sum_{k >= t} gamma^{k-t} r_{i,k}                                     return of a turn       (Eq. 6)
    A^S     = (R - mean) / (std + eps)   among the turns of a group that start from the same anchor state (Eq. 7)

The anchor state of a turn is the observation right before it: the question, the passages of the last search, or the
empty text after an invalid action. Two anchors match if they are equal or if difflib's ratio to the first member of a
cluster is at least `--similarity` (authors' search script: 0.9). A turn whose anchor matches no other has A^S = 0.

Paper and code differ, and the defaults follow the code (verl-agent's search script): both comparisons divide by the
standard deviation (`--no-scale-by-std`: subtract means only, "mean_norm"); A^E computes its statistics over turns, so
long episodes weigh more (`--episode-statistics trajectory`: Eq. 3); `invalid_penalty` is subtracted in the turn of an
invalid action, after discounting. The authors rebuild the prompt at each turn; here each turn sees the whole history.

    python algorithms/gigpo.py --steps 60 --seed 0
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from algorithms.common.algorithm import Algorithm
from algorithms.common.config import TrainConfig
from algorithms.common.rollout.buffer import Flags, Float32s, Ints, RolloutBuffer
from algorithms.common.training.advantages import Float64s as Values
from algorithms.common.training.advantages import discounted_sums, group_statistics, grpo_advantages
from algorithms.common.training.anchor_states import anchor_clusters
from algorithms.common.training.turn_rewards import invalid_turns
from igsearch_env.errors import check_range
from igsearch_env.protocols import Invalid
from igsearch_env.trajectory import Trajectory


@dataclass(frozen=True)
class GiGPOConfig(TrainConfig):
    """Options of GiGPO; the defaults are those of the authors' search script."""

    omega: float = 1.0
    """Weight of A^S, the comparison within anchor states."""
    gamma: float = 0.95
    """Discount factor per turn."""
    similarity: float | None = 0.9
    """Minimum difflib ratio at which two anchors match; None: they must be equal."""
    scale_by_std: bool = True
    """Divide A^E and A^S by their standard deviations."""
    episode_statistics: Literal["turn", "trajectory"] = "turn"
    """Compute the mean and standard deviation of A^E over turns (code) or trajectories (paper)."""
    invalid_penalty: float = 0.01
    """Penalty of an invalid action, subtracted from the scores of its turn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("omega", self.omega, 0)
        check_range("gamma", self.gamma, 0, 1)
        check_range("invalid_penalty", self.invalid_penalty, 0)
        if self.similarity is not None:
            check_range("similarity", self.similarity, 0, 1)


class GiGPO(Algorithm):
    """GiGPO: compares each trajectory with its group, and each turn with those that share its anchor state."""

    name = "gigpo"

    def __init__(self, config: GiGPOConfig) -> None:
        self.config = config

    def advantages(self, buffer: RolloutBuffer) -> Float32s:
        """One advantage per policy token."""
        counts, trajectories = buffer.turn_counts, buffer.trajectories
        penalties = self.config.invalid_penalty * invalid_turns(buffer)
        rewards = np.zeros(len(penalties))
        rewards[np.cumsum(counts) - 1] = buffer.outcomes
        per_turn = turn_advantages(
            np.repeat(buffer.outcomes, counts) - penalties,
            discounted_sums(rewards, counts, self.config.gamma) - penalties,
            np.repeat(buffer.group_index, counts),
            np.repeat(np.arange(len(trajectories)), counts),
            [anchor for t in trajectories for anchor in anchor_states(t)],
            self.config,
            without_siblings_S=np.repeat(buffer.lost_siblings, counts),
        )
        return buffer.broadcast_turns(per_turn)


def anchor_states(trajectory: Trajectory) -> list[str]:
    """Anchor state of each turn: the question, then the last observation; empty after an invalid action."""
    later = ["" if isinstance(t.action, Invalid) else t.observation.strip() for t in trajectory.turns[:-1]]
    return [trajectory.question.text, *later]


def turn_advantages(
    scores_S: Values,
    returns_S: Values,
    groups_S: Ints,
    episodes_S: Ints,
    anchors_S: Sequence[str],
    config: GiGPOConfig,
    *,
    without_siblings_S: Flags | None = None,
) -> Values:
    """A^E + omega A^S of S turns, from episode scores, returns, group and episode numbers, and anchor states.

    `without_siblings_S`: turns of episodes that have lost all siblings to failed retrievals; their A^E is 0.
    """
    clusters = anchor_clusters(anchors_S, groups_S, config.similarity)
    per_step = step_advantages(returns_S, clusters, config.scale_by_std)
    per_episode = episode_advantages(scores_S, groups_S, episodes_S, config)
    if without_siblings_S is not None:
        per_episode = np.where(without_siblings_S, 0.0, per_episode)
    return per_episode + config.omega * per_step


def episode_advantages(scores_S: Values, groups_S: Ints, episodes_S: Ints, config: GiGPOConfig) -> Values:
    """A^E of each turn."""
    if config.episode_statistics == "turn":
        return grpo_advantages(scores_S, groups_S, scale_by_std=config.scale_by_std)
    _, first, where = np.unique(episodes_S, return_index=True, return_inverse=True)
    means, deviations, sizes = (x[where] for x in group_statistics(scores_S[first], groups_S[first]))
    alone = sizes == 1
    centred = np.where(alone, scores_S, scores_S - means)
    return centred / (np.where(alone, 1.0, deviations) + 1e-6) if config.scale_by_std else centred


def step_advantages(returns_S: Values, clusters_S: Ints, scale_by_std: bool) -> Values:
    """A^S of each turn: its return compared with those of its cluster; 0 if the cluster has no other turn."""
    alone = np.bincount(clusters_S)[clusters_S] == 1
    return np.where(alone, 0.0, grpo_advantages(returns_S, clusters_S, scale_by_std=scale_by_std))


if __name__ == "__main__":
    from algorithms.common.command import main

    main(GiGPO, GiGPOConfig, __doc__)
