"""IG-GRPO: GRPO whose query tokens also earn the information gain of their search (IG-Search, arXiv 2604.15148).

    IG_t  = s(a* | real evidence_t) - mean_j s(a* | random evidence_j)             (Eq. 2, 3; by the policy itself)
    IG~_t = soft_clip(negative_scale(dead_zone(IG_t)))                             (section on stabilisers)
    A~_p  = A_i + alpha IG~_t / |Q_t|     if token p is in Q_t, the query tokens of search t
          = A_i                           otherwise                                (Eq. 4), A_i as in GRPO

alpha = 0.3, N = 3 as published. IG~ is added after the group normalisation and is not normalised itself, so a group
that fails entirely (A_i = 0) still ranks its queries. Not public, hence ours: the stabilisers' constants and the
form of the soft clip. Q_t is the query text without its tags: paying the tag would pay for searching as such.

    python algorithms/ig_grpo.py --steps 60 --seed 0
"""

from __future__ import annotations

from dataclasses import dataclass

from algorithms.common.buffer import Floats, RolloutBuffer
from algorithms.grpo import GRPO, GRPOConfig
from igsearch_env.errors import check_range


@dataclass(frozen=True)
class IGGRPOConfig(GRPOConfig):
    """Options of IG-GRPO; the stabilisers are in the section `information_gain`."""

    alpha: float = 0.3
    """Weight of the information gain of a search (paper: 0.3)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("alpha", self.alpha, 0)


class IGGRPO(GRPO):
    """The estimator."""

    name = "ig_grpo"
    needs_information_gain = True

    def __init__(self, config: IGGRPOConfig) -> None:
        super().__init__(config)
        self.alpha = config.alpha
        self.stabilise = config.information_gain.stabilise

    def advantages(self, buffer: RolloutBuffer) -> Floats:
        """GRPO's advantages, modulated on query tokens."""
        advantages = super().advantages(buffer)
        for turn, tokens in buffer.query_tokens():
            if turn.gain is not None:
                advantages[tokens] += self.alpha * self.stabilise(turn.gain.value) / (tokens.stop - tokens.start)
        return advantages


if __name__ == "__main__":
    from algorithms.common.trainer import main

    main(IGGRPO, IGGRPOConfig, __doc__)
