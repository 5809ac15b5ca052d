"""IG-GRPO: GRPO that also rewards each search by its information gain (IG-Search, arXiv 2604.15148).

    IG_t  = s(a* | real evidence_t) - mean_j s(a* | random evidence_j)             (Eq. 2, 3; by the policy itself)
    IG~_t = soft_clip(negative_scale(dead_zone(IG_t)))                             (section on stabilisers)
    A~_p  = A_i + alpha IG~_t / |Q_t|     if token p is in Q_t, the query tokens of search t
          = A_i                           otherwise                                (Eq. 4), A_i as in GRPO

alpha = 0.3, N = 3 as published. IG~ is added after the group normalisation and is not normalised itself, so the
queries of a group in which every trajectory fails (A_i = 0) are still ranked. Unpublished, so chosen by us: the
constants of the stabilisers and the form of the soft clip. Q_t is the query text without its tags: rewarding the tags
would reward searching itself.

Variants of our own, beside the published form (results in docs/results.md):

    --gain probability    IG_t = e^s(real) - e^(mean_j s(random)): a difference of probabilities
    --credit return       sum_{k >= t} IG~_k instead of IG~_t: a search is also credited with the gains that follow
    --gain-baseline siblings   IG~_t minus the mean over the siblings' t-th searches; 0 if no sibling has one
    --closing-tag         Q_t includes the tag that ends the query; if only its words are rewarded, queries can run on

    python algorithms/ig_grpo.py --steps 60 --seed 0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from algorithms.common.config import check_siblings
from algorithms.common.rollout.buffer import Float32s, RolloutBuffer
from algorithms.common.training.advantages import discounted_sums, group_statistics, rloo_advantages
from algorithms.common.training.sibling_searches import sibling_searches
from algorithms.grpo import GRPO, GRPOConfig
from igsearch_env.errors import check_range
from igsearch_env.trajectory import GainForm


@dataclass(frozen=True)
class IGGRPOConfig(GRPOConfig):
    """Options of IG-GRPO; the stabilisers are in the section `information_gain`."""

    alpha: float = 0.3
    """Weight of the information gain of a search (paper: 0.3)."""
    gain: GainForm = "log_probability"
    """Information gain as a difference of mean log-probs, in nats (paper), or of their exponentials (ours)."""
    gain_baseline: Literal["none", "siblings"] = "none"
    """Subtract from the gain of a search: nothing (paper), or the mean gain of its siblings' searches (ours)."""
    credit: Literal["own", "return"] = "own"
    """Gains credited to a search: its own (paper), or also those of later searches in its episode (ours)."""
    query_tags: bool = False
    """Include the tags around a query in Q_t (unpublished)."""
    closing_tag: bool = False
    """Include the tag that ends a query in Q_t, so that a query is also rewarded for ending there (ours)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("alpha", self.alpha, 0)
        if self.gain_baseline == "siblings":
            check_siblings(self.rollout.group_size, "gain_baseline='siblings'", "set --gain-baseline none")


class IGGRPO(GRPO):
    """IG-GRPO: adds the information gain of each search to GRPO's advantages on its query tokens."""

    name = "ig_grpo"
    needs_information_gain = True

    def __init__(self, config: IGGRPOConfig) -> None:
        super().__init__(config)
        self.options = config

    def advantages(self, buffer: RolloutBuffer) -> Float32s:
        """GRPO's advantages, plus the weighted information gains on query tokens."""
        options = self.options
        buffer.check_gains()
        advantages = super().advantages(buffer)
        queries = buffer.query_tokens(tags=options.query_tags, closing_tag=options.closing_tag)
        paid = [search for search in queries if search.turn.gain]
        gains = np.array([options.information_gain.stabilised(search.turn.gain, options.gain) for search in paid])
        if options.credit == "return":
            rows = [search.row for search in paid]
            gains = discounted_sums(gains, np.bincount(rows, minlength=1), gamma=1.0)
        if options.gain_baseline == "siblings" and paid:
            compared = sibling_searches(buffer, paid)
            _, _, sizes = group_statistics(gains, compared)
            gains = np.where(sizes > 1, rloo_advantages(gains, compared), 0.0)
        for (_, _, tokens), gain in zip(paid, gains, strict=True):
            advantages[tokens] += options.alpha * gain / (tokens.stop - tokens.start)
        return advantages


if __name__ == "__main__":
    from algorithms.common.command import main

    main(IGGRPO, IGGRPOConfig, __doc__)
