"""IG-local (ours): information gain compared with the siblings' searches, as the evidence in Cov-local's estimator.

    p_t     = P(golden answer | the episode up to and with what search t found),  p_0 = before the first search
    e_t     = max(0, p_t - max_{u < t} p_u),  0 where it is below 0.1
    l_t     = z(z(e_t)),  z(v)_i = (v_i - mean) / (std + 1e-6)    over the group's t-th searches
    A_k     = A_i + lambda L_t l_t / |Q_t|     if token k is in Q_t, the query tokens of search t
            = A_i - invalid_penalty            if token k is in a turn that neither searches nor answers
            = A_i                              otherwise

A_i is GRPO's advantage of the outcome, L_t the number of tokens of the whole search, lambda 0.5. The estimator is that
of Beyond Outcome Rewards (arXiv 2610.10179, Eq. 3, 5 and 6; `algorithms/cov_local.py`), whose evidence is annotated;
the gain is that of IG-Search (arXiv 2604.15148), as a difference of probabilities. Neither paper has this combination.

Where IG-GRPO pays every gain, a search earns here what it adds to the best that its episode knew without it: finding
the same passages again earns nothing, nor does repairing the harm of a search in between. Searches compete with their
siblings at the same step, so in a group in which every rollout fails, those that helped are still reinforced. Smaller
rises than 0.1 count as 0: standardised, noise would count as much as evidence.

One context is scored per search. With another `--information-gain.baseline` there are more: over random evidence the
probability b_t with random passages in the place of those of search t counts among what was known without it,
e_t = max(0, p_t - max(b_1, ..., b_t, p_1, ..., p_{t-1})). It was not better in our runs (docs/results.md).

    python algorithms/ig_local.py --steps 60 --seed 0
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from algorithms.common.config import check_siblings
from algorithms.common.rollout.buffer import Float32s, RolloutBuffer
from algorithms.common.training.sibling_searches import local_credit
from algorithms.grpo import GRPO, GRPOConfig
from igsearch_env.errors import check_range
from igsearch_env.information_gain import InformationGainConfig
from igsearch_env.trajectory import Trajectory, Turn

FLOOR = 0.1


@dataclass(frozen=True)
class IGLocalConfig(GRPOConfig):
    """Options of IG-local."""

    local_weight: float = 0.5
    """Weight of local credit (lambda)."""
    invalid_penalty: float = 0.5
    """Subtracted from the advantages of a turn that neither searches nor answers: queries that are rewarded grow until
    they no longer end."""
    information_gain: InformationGainConfig = field(default_factory=lambda: InformationGainConfig(baseline="previous"))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_siblings(self.rollout.group_size, "IG-local", "use another algorithm")
        check_range("local_weight", self.local_weight, 0)


class IGLocal(GRPO):
    """IG-local: adds to GRPO, on each query, how much more it raised the answer's probability than its siblings'."""

    name = "ig_local"
    needs_information_gain = True

    def __init__(self, config: IGLocalConfig) -> None:
        super().__init__(config)
        self.local_weight = config.local_weight

    def advantages(self, buffer: RolloutBuffer) -> Float32s:
        """GRPO's advantages, with local credit on query tokens."""
        buffer.check_gains()
        evidence = (rise for t in buffer.trajectories for rise in rises(t))
        return super().advantages(buffer) + self.local_weight * local_credit(buffer, evidence)


def rises(trajectory: Trajectory) -> Iterator[tuple[Turn, float]]:
    """Every search with e_t, in [0, 1] where one golden answer is scored; 0 if its gain was not measured."""
    best = 0.0
    for turn in trajectory.turns:
        if not turn.is_search:
            continue
        rise = 0.0
        if turn.gain is not None:
            after, before = math.exp(turn.gain.logprob_real), math.exp(turn.gain.logprob_baseline)
            rise = after - max(best, before)
            best = max(best, before, after)
        yield turn, rise if rise >= FLOOR else 0.0


if __name__ == "__main__":
    from algorithms.common.command import main

    main(IGLocal, IGLocalConfig, __doc__)
