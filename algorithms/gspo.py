"""GSPO and GSPO-token: importance ratios and clipping of whole sequences (arXiv 2507.18071).

    s_i     = exp( 1/|y_i| sum_t log pi(y_{i,t}) / pi_old(y_{i,t}) )                                        (Eq. 7)
    J       = 1/G sum_i min(s_i A_i, clip(s_i, 1 - low, 1 + high) A_i)                                      (Eq. 5)
    s_{i,t} = sg[s_i] pi(y_{i,t}) / sg[pi(y_{i,t})]             sg: no gradient; its value is s_i           (Eq. 14)
    J_token = 1/G sum_i 1/|y_i| sum_t min(s_{i,t} A_{i,t}, clip(s_{i,t}) A_{i,t})                          (Eq. 13)

y_i are the policy tokens of an episode, without what it read. The loss is the project's with `ratio` "sequence", which
is GSPO-token: with one advantage per episode, values and gradients are those of GSPO. The defaults of `loss` are the
paper's: low 3e-4, high 4e-4, seq-mean-token-mean. What is compared is chosen by

    --advantages grpo      A_i of GRPO (GSPO, as published)
    --advantages ig_grpo   A_{i,t} of IG-GRPO, whose query tokens differ from the others (GSPO-token)

In the first update after a rollout every ratio is 1 and GSPO is GRPO with this aggregation, so use several updates per
rollout; the paper has four mini-batches (--optimizer.num-minibatches 4). It clips far more tokens than GRPO does.

    python algorithms/gspo.py --steps 60 --seed 0 --optimizer.num-minibatches 4
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from algorithms.common.config import check_unused
from algorithms.common.rollout.buffer import Float32s, RolloutBuffer
from algorithms.common.training.config import LossConfig
from algorithms.grpo import GRPO
from algorithms.ig_grpo import IGGRPO, IGGRPOConfig


@dataclass(frozen=True)
class GSPOConfig(IGGRPOConfig):
    """Options of GSPO."""

    advantages: Literal["grpo", "ig_grpo"] = "grpo"
    """Advantages: GRPO's, one per episode (GSPO), or IG-GRPO's, one per token (GSPO-token)."""
    loss: LossConfig = field(
        default_factory=lambda: LossConfig(
            ratio="sequence", clip_ratio_low=3e-4, clip_ratio_high=4e-4, aggregation="seq-mean-token-mean"
        )
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.advantages == "grpo":
            of_gains = ("alpha", "gain", "gain_baseline", "credit", "query_tags", "closing_tag")
            check_unused(self, "advantages='grpo'", *of_gains, instead="set --advantages ig_grpo")


class GSPO(IGGRPO):
    """GSPO: the advantages of GRPO or IG-GRPO, in a loss with one importance ratio per sequence."""

    name = "gspo"

    def __init__(self, config: GSPOConfig) -> None:
        super().__init__(config)
        self.needs_information_gain = config.advantages == "ig_grpo"

    def advantages(self, buffer: RolloutBuffer) -> Float32s:
        """One advantage per policy token."""
        return super().advantages(buffer) if self.needs_information_gain else GRPO.advantages(self, buffer)


if __name__ == "__main__":
    from algorithms.common.command import main

    main(GSPO, GSPOConfig, __doc__)
