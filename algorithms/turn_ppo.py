"""Turn-PPO: PPO in which a whole turn is one action, with a critic of the state at the beginning of each turn.

    s_h     = everything read before turn h;  a_h = all policy tokens of turn h;  V_h = the critic's value of s_h
    r_h     = outcome in the last turn, else 0;  + w IG~_h in the turn of a search with `--turn-reward gain`
    delta_h = r_h + gamma V_{h+1} - V_h,  V = 0 after the last turn
    A_h     = delta_h + gamma lambda A_{h+1}, whitened over the turns of the batch; on every token of turn h
    R_h     = A_h + V_h, before whitening: the critic's target at the first policy token of turn h, and nowhere else

The recursion is GAE (1506.02438, Eq. 12 and 16) over turns. log pi(a_h | s_h) is the sum over the tokens of a turn, so
one advantage on all of them is the policy gradient of this decision process. Sources: Turn-PPO, arXiv 2512.17008
(critic and GAE per turn, gamma 0.99, lambda 0.9); ArCHer (2402.19446: a critic per utterance, there off-policy, whose
advantage is the reward of an utterance's tokens); the code of VAGEN (`turn_level_gae`: value at the first token of a
turn, whitened over tokens) and AgileRL (`LLMPPO`: value at the last token, whitened over turns). Turn-PPO clips one
ratio per turn, the product over its tokens; here `--loss` clips token by token, which makes no difference where each
buffer is used for a single optimizer step. `--turn-reward gain` (IG~ as in IG-GRPO) is our variant.

    python algorithms/turn_ppo.py --steps 60 --seed 0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from algorithms.common.config import check_unused
from algorithms.common.rollout.buffer import Flags, Float32s, Ints, RolloutBuffer
from algorithms.common.training.advantages import Float64s as Values
from algorithms.common.training.advantages import gae, whiten
from algorithms.ppo import PPO, PPOConfig, critic_values, token_rewards
from igsearch_env.errors import check_range


@dataclass(frozen=True)
class TurnPPOConfig(PPOConfig):
    """Options of Turn-PPO; the stabilisers of the gain are in the section `information_gain`."""

    gamma: float = 0.99
    """Discount factor per turn (paper: 0.99)."""
    gae_lambda: float = 0.9
    """lambda of generalised advantage estimation (GAE) over turns (paper: 0.9)."""
    whiten: bool = True
    """Whiten advantages over the turns of the batch."""
    turn_reward: Literal["none", "gain"] = "none"
    """Reward of a turn beside the outcome: none (paper), or the weighted information gain of its search (ours)."""
    gain_weight: float = 0.3
    """Weight of the stabilised information gain, with `turn_reward` gain (IG-GRPO's alpha: 0.3)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("gain_weight", self.gain_weight, 0)
        if self.turn_reward == "none":
            check_unused(self, "turn_reward='none'", "gain_weight", instead="set --turn-reward gain")


class TurnPPO(PPO):
    """Turn-PPO: compares what follows each turn with the value that the critic predicts at its beginning."""

    name = "turn_ppo"

    def __init__(self, config: TurnPPOConfig) -> None:
        super().__init__(config)
        self.options = config
        self.needs_information_gain = config.turn_reward == "gain"

    def advantages(self, buffer: RolloutBuffer) -> Float32s:
        """One advantage per policy token, equal for all tokens of a turn."""
        per_turn = self._gae(buffer)
        if self.options.whiten:
            per_turn = whiten(per_turn)
        return np.repeat(per_turn, written(buffer)).astype(np.float32)

    def value_targets(self, buffer: RolloutBuffer) -> Float32s:
        """R_h at the first policy token of each turn; 0 at the others, which `value_mask` excludes."""
        starts = self.value_mask(buffer)
        targets = np.zeros(len(starts), dtype=np.float32)
        targets[starts] = self._gae(buffer) + critic_values(buffer)[starts]
        return targets

    def value_mask(self, buffer: RolloutBuffer) -> Flags:
        """The first policy token of each turn: its value is that of the state in which the turn begins."""
        tokens = written(buffer)
        mask = np.zeros(int(tokens.sum()), dtype=np.bool_)
        mask[np.cumsum(tokens) - tokens] = True
        return mask

    def _gae(self, buffer: RolloutBuffer) -> Values:
        """A_h of each turn with a policy token, before whitening."""
        starts = self.value_mask(buffer)
        rewards = np.add.reduceat(token_rewards(buffer, self.options.kl_in_reward), np.flatnonzero(starts))
        if self.options.turn_reward == "gain":
            rewards += self.options.gain_weight * self._gains(buffer)
        turns_N = np.add.reduceat(starts.astype(np.int64), buffer.first_token)
        values = critic_values(buffer)[starts]
        return gae(rewards, values, turns_N, gamma=self.options.gamma, lam=self.options.gae_lambda)

    def _gains(self, buffer: RolloutBuffer) -> Values:
        """Stabilised information gain of each turn with a policy token; 0 where there is none."""
        buffer.check_gains()
        gains = [turn.gain for t in buffer.trajectories for turn in t.turns if turn.completion_ids]
        return np.array([self.options.information_gain.stabilised(gain) for gain in gains])


def written(buffer: RolloutBuffer) -> Ints:
    """Number of policy tokens of each turn that has any: a turn without one is no action."""
    return buffer.turn_tokens[buffer.turn_tokens > 0]


if __name__ == "__main__":
    from algorithms.common.command import main

    main(TurnPPO, TurnPPOConfig, __doc__)
