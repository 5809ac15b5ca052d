"""Cov-local: credit for the evidence that a search finds, on its query (Beyond Outcome Rewards, arXiv 2610.10179).

    phi(t)  = share of the question's evidence found by its first t searches                                   (Eq. 1)
    e_t     = max(0, phi(t) - max_{u < t} phi(u))                                                              (Eq. 3)
    l_t     = z(z(e_t)),  z(v)_i = (v_i - mean) / (std + eps)   over the group's t-th searches                 (Eq. 6)
    A_k     = A_i + lambda L_t l_t / |Q_t|   if token k is in Q_t, the query tokens of search t
            = A_i                            otherwise                                                         (Eq. 5)

A_i is GRPO's advantage of the outcome, L_t the number of tokens of the whole search (query and tags), lambda 0.5, eps
1e-6, std with n - 1. A search is compared with the t-th searches of its siblings alone: with fewer than two of them, or
if all found the same, l_t is 0. Episodes that the context cut short get no local credit. In a group in which every
rollout fails, the queries that found evidence are still reinforced, and those that found none are made less likely.

The other conditions of the paper (`--signal`, `--credit`):

    answer_match   phi(t) is 1 once a passage, in its title or text, contains a golden answer; needs no annotation
    scalar         A = z(r_i + alpha sum_t e_t) on all tokens, alpha 0.25 (Eq. 4), instead of local credit

`algorithms/ig_local.py` compares information gains in the place of annotated evidence.

The paper annotates sub-questions with the passages that support them, for questions that an LLM and Wikidata built.
Here a supporting passage is one such piece of evidence, or a page, found with any passage of its title, where data name
titles alone (HotpotQA, 2WikiMultiHopQA, MuSiQue; the bundled world names passages). Not adopted: Cov-Dep,
which needs the dependencies between sub-questions, and rounding phi to four decimals, after which a first and a second
third of the evidence differ by 1e-4, and z makes that a full difference. The paper's outcome is F1:
`--env.outcome-reward f1`. Its code is not public.

    python algorithms/cov_local.py --steps 60 --seed 0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from algorithms.common.config import check_siblings, check_unused
from algorithms.common.rollout.buffer import Float32s, RolloutBuffer
from algorithms.common.training.advantages import Float64s
from algorithms.common.training.retrieved_evidence import Signal, check_evidence, new_evidence
from algorithms.common.training.sibling_searches import local_credit
from algorithms.grpo import GRPO, GRPOConfig
from igsearch_env.errors import check_range


@dataclass(frozen=True)
class CovLocalConfig(GRPOConfig):
    """Options of Cov-local; the defaults are those of the paper."""

    signal: Signal = "coverage"
    """Evidence: the supporting passages, or pages by title (Cov), or a passage that contains a golden answer (AM)."""
    credit: Literal["local", "scalar"] = "local"
    """Where new evidence is credited: on the query that found it, or in the reward of the whole episode."""
    local_weight: float = 0.5
    """Weight of local credit (lambda); only with credit 'local'."""
    alpha: float = 0.25
    """Weight of the evidence found, in the reward; only with credit 'scalar'."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_siblings(self.rollout.group_size, "Cov-local", "use another algorithm")
        check_range("local_weight", self.local_weight, 0)
        check_range("alpha", self.alpha, 0)
        other, unused = ("scalar", "alpha") if self.credit == "local" else ("local", "local_weight")
        check_unused(self, f"credit={self.credit!r}", unused, instead=f"set --credit {other}")


class CovLocal(GRPO):
    """Cov-local: adds to GRPO, on each query, how much more evidence it found than its siblings' queries did."""

    name = "cov_local"

    def __init__(self, config: CovLocalConfig) -> None:
        super().__init__(config)
        self.options = config

    def rewards(self, buffer: RolloutBuffer) -> Float64s:
        """GRPO's rewards; with scalar credit, plus the weighted evidence found."""
        rewards, options = super().rewards(buffer), self.options
        if options.credit == "scalar":
            found = [sum(event for _, event in new_evidence(t, options.signal)) for t in buffer.trajectories]
            rewards += options.alpha * np.array(found)
        return rewards

    def advantages(self, buffer: RolloutBuffer) -> Float32s:
        """GRPO's advantages, with local credit on query tokens."""
        options = self.options
        if options.signal == "coverage":
            check_evidence(buffer, "signal='coverage'", "--signal answer_match")
        advantages = super().advantages(buffer)
        if options.credit == "scalar":
            return advantages
        evidence = (found for t in buffer.trajectories for found in new_evidence(t, options.signal))
        return advantages + options.local_weight * local_credit(buffer, evidence)


if __name__ == "__main__":
    from algorithms.common.command import main

    main(CovLocal, CovLocalConfig, __doc__)
