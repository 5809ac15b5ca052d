"""StepSearch: PPO that rewards each search for new evidence and penalises passages seen before (arXiv 2505.15107).

    c_t^k = max over the passages of search t of the TF-IDF cosine with gold document k;  M_t^k = max_{s <= t} c_s^k
    G_t   = mean_k max(c_t^k - M_{t-1}^k, 0) = mean_k M_t^k - mean_k M_{t-1}^k        information gain
    P_t   = share of the passages of search t that a search before it, or it itself, has already returned
    r     = outcome on the last policy token, - beta KL;  + w (G_t - P_t) on the last token of search t
    r     = -1 on the last token, and nothing else but KL, in an episode without an answer

Advantages, critic and KL are PPO's (`algorithms/ppo.py`), gamma = lambda = 1. The gold documents are the supporting
passages of the question (`--information-gain.source similarity`, which computes G_t; `igsearch_env/oracles.py`), so
questions must name them. w = 1 is the paper's; the released code adds 0.6 of the step rewards to them, so w = 1.6.

Not adopted: 0.618 x the search-key score in the outcome, since no questions here have annotated sub-queries. Of the
released configuration: outcome F1 (`--env.outcome-reward f1`), beta 0.001 (`--kl-in-reward 0.001`), five searches.

    python algorithms/step_search.py --steps 60 --seed 0
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from algorithms.common.rollout.buffer import RolloutBuffer
from algorithms.common.training.advantages import Float64s as Values
from algorithms.ppo import PPO, PPOConfig, add_to_turns
from igsearch_env.errors import check_range
from igsearch_env.gain_sources import progress_made
from igsearch_env.information_gain import InformationGainConfig
from igsearch_env.trajectory import ANSWERED, Trajectory


@dataclass(frozen=True)
class StepSearchConfig(PPOConfig):
    """Options of StepSearch; the source of G_t is `information_gain.source`."""

    step_weight: float = 1.0
    """w: weight of the reward of a search (paper: 1; released code: 1.6)."""
    redundancy: bool = True
    """Subtract the share of passages that were seen before (paper)."""
    no_answer_reward: float = -1.0
    """Reward of an episode that ends without an answer, in place of all others (paper: -1)."""
    information_gain: InformationGainConfig = field(default_factory=lambda: InformationGainConfig(source="similarity"))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("step_weight", self.step_weight, 0)
        check_range("no_answer_reward", self.no_answer_reward, -10, 1)


class StepSearch(PPO):
    """StepSearch: PPO with a reward for the new evidence of each search."""

    name = "step_search"
    needs_information_gain = True

    def __init__(self, config: StepSearchConfig) -> None:
        super().__init__(config)
        self.options = config

    def rewards(self, buffer: RolloutBuffer) -> Values:
        """r_t of each policy token: PPO's, and that of each search on the last token of its turn."""
        buffer.check_gains()
        rewards = super().rewards(buffer)
        add_to_turns(rewards, buffer, np.concatenate([self.turn_rewards(t) for t in buffer.trajectories]))
        return rewards

    def turn_rewards(self, trajectory: Trajectory) -> Values:
        """What each turn earns beside the outcome."""
        rewards = np.zeros(len(trajectory.turns))
        if trajectory.stop_reason != ANSWERED:
            rewards[-1] = self.options.no_answer_reward - trajectory.outcome
            return rewards
        seen = set[str]()
        for number, turn in enumerate(trajectory.turns):
            gain = progress_made(turn.gain, self.options.information_gain.source) if turn.gain else 0.0
            known = 0
            for passage in turn.passages:
                known += passage.text in seen
                seen.add(passage.text)
            penalty = known / len(turn.passages) if known and self.options.redundancy else 0.0
            rewards[number] = self.options.step_weight * (gain - penalty)
        return rewards


if __name__ == "__main__":
    from algorithms.common.command import main

    main(StepSearch, StepSearchConfig, __doc__)
