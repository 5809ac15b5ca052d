"""IGPO: information gain as the reward of each turn (arXiv 2510.14967).

    g_t   = p_t - p_{t-1},  p_t = exp(mean token log-prob of the golden answer after turn t)     searches    (Eq. 5)
    r     = g_t for a search, the outcome for the last turn
    r^    = (r - mean_group) / std_group       "separate": gains and outcomes separately; "joint": together;
                                               --no-scale-by-std: r - mean_group
    A_t   = r^_t + gamma A_{t+1}               over turns; on every policy token of turn t                  (Eq. 8, 9)

p is the policy's own probability, without gradient: IG-GRPO's scorer with the baseline `previous` and equal weights for
all answer tokens. Rewards are normalised first and accumulated afterwards: the first public code did the opposite, and
its authors fixed it (issue #5 there). Standard deviations are those of the population. As in the authors' code, a turn
without a search has no reward of its own, but gets those that follow; here this includes a search without passages.

Options of the authors' code that are off by default: `--curriculum-steps N` multiplies outcomes by w, which rises from
0.5 to 1 within N steps, and gains by 1.5 - w, before they are normalised; `--outcome set_f1` is their outcome, F1 of
word sets, or -2 for a bad format: here an invalid turn or no answer. Of their loss: the sum over the tokens of a
sequence (`--loss.aggregation seq-mean-token-sum`) and the KL term (`--loss.kl-coef 0.001`). Not adopted: the sentence
that they write before the golden answer to end the reasoning; here it follows the opening of an answer alone.

    python algorithms/igpo.py --steps 60 --seed 0
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from algorithms.common.algorithm import Algorithm
from algorithms.common.config import TrainConfig, check_siblings
from algorithms.common.rollout.buffer import Float32s, RolloutBuffer
from algorithms.common.training.potentials import check_previous
from algorithms.common.training.turn_rewards import curriculum_weights, normalised_returns
from igsearch_env.errors import ConfigurationError, check_range
from igsearch_env.information_gain import InformationGainConfig
from igsearch_env.protocols import Invalid
from igsearch_env.rewards import set_f1
from igsearch_env.trajectory import GainForm, Trajectory


@dataclass(frozen=True)
class IGPOConfig(TrainConfig):
    """Options of IGPO; the defaults are those of the paper's code."""

    gamma: float = 1.0
    """Discount factor per turn."""
    gain: GainForm = "probability"
    """Information gain as a difference of probabilities (paper), or of mean log-probs, in nats."""
    normalisation: Literal["joint", "separate"] = "joint"
    """Normalise gains and outcomes together (code) or separately (the authors' training script)."""
    scale_by_std: bool = True
    """Divide by the standard deviation as well (`norm_adv_by_std_in_grpo` in the authors' code)."""
    outcome: Literal["environment", "set_f1"] = "environment"
    """Outcome: `env.outcome_reward`, or the authors' (F1 of word sets; -2 for an invalid turn or no answer)."""
    curriculum_steps: int = 0
    """Steps in which the weight of outcomes rises from 0.5 to 1 and that of gains falls from 1 to 0.5; 0: always 1."""
    information_gain: InformationGainConfig = field(
        default_factory=lambda: InformationGainConfig(baseline="previous", head_weight=1.0)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("gamma", self.gamma, 0, 1)
        check_range("curriculum_steps", self.curriculum_steps, 0)
        if self.normalisation == "separate":
            check_siblings(self.rollout.group_size, "normalisation='separate'", "set --normalisation joint")
            if self.curriculum_steps and self.scale_by_std:
                raise ConfigurationError(
                    f"curriculum_steps={self.curriculum_steps} with normalisation='separate': dividing each by its own "
                    "deviation cancels the weights; set --normalisation joint or --no-scale-by-std"
                )
        check_previous(self.information_gain, "IGPO compares with the previous turn")


class IGPO(Algorithm):
    """IGPO: rewards each search by its information gain and the last turn by the outcome, relative to the group."""

    name = "igpo"
    needs_information_gain = True

    def __init__(self, config: IGPOConfig) -> None:
        self.config = config

    def advantages(self, buffer: RolloutBuffer) -> Float32s:
        """One advantage per policy token."""
        config = self.config
        buffer.check_gains()
        of_outcomes, of_gains = curriculum_weights(buffer.metadata.get("step"), config.curriculum_steps)
        rewards = []
        for trajectory in buffer.trajectories:
            gains = [None if t.gain is None else of_gains * t.gain.in_form(config.gain) for t in trajectory.turns[:-1]]
            outcome = trajectory.outcome if config.outcome == "environment" else set_f1_outcome(trajectory)
            rewards.append([*gains, of_outcomes * float(outcome)])
        per_turn = normalised_returns(
            rewards, buffer.group_index, config.normalisation, config.gamma, scale_by_std=config.scale_by_std
        )
        return buffer.broadcast_turns(np.concatenate(per_turn))


def set_f1_outcome(trajectory: Trajectory) -> float:
    """The authors' outcome: F1 of word sets, or -2 if a turn was invalid or there is no answer."""
    if trajectory.prediction is None or any(isinstance(turn.action, Invalid) for turn in trajectory.turns):
        return -2.0
    return set_f1(trajectory.prediction, trajectory.question.golden_answers)


if __name__ == "__main__":
    from algorithms.common.command import main

    main(IGPO, IGPOConfig, __doc__)
