"""The algorithms that are compared. A new algorithm needs its own file and its entry in `ALGORITHMS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from algorithms.common.algorithm import Algorithm
from algorithms.common.config import TrainConfig
from algorithms.cov_local import CovLocal, CovLocalConfig
from algorithms.cw_grpo import CWGRPO, CWGRPOConfig
from algorithms.gigpo import GiGPO, GiGPOConfig
from algorithms.graft import GRAFT, GRAFTConfig
from algorithms.grpo import GRPO, GRPOConfig
from algorithms.gspo import GSPO, GSPOConfig
from algorithms.ig_grpo import IGGRPO, IGGRPOConfig
from algorithms.ig_grpo_potential import IGGRPOPotential, IGGRPOPotentialConfig
from algorithms.ig_local import IGLocal, IGLocalConfig
from algorithms.igpo import IGPO, IGPOConfig
from algorithms.mr_search import MRSearch, MRSearchConfig
from algorithms.mt_grpo import MTGRPO, MTGRPOConfig
from algorithms.ppo import PPO, PPOConfig
from algorithms.reinforce_plus_plus import ReinforcePlusPlus, ReinforcePlusPlusConfig
from algorithms.rloo import RLOO
from algorithms.step_search import StepSearch, StepSearchConfig
from algorithms.tips import TIPS, TIPSConfig
from algorithms.turn_ppo import TurnPPO, TurnPPOConfig
from igsearch_env.information_gain import InformationGainConfig


@dataclass(frozen=True)
class Entry:
    """An algorithm, or a variant of one."""

    name: str
    label: str
    """Title of its column in tables."""
    kind: Callable[[Any], Algorithm]
    """Class of the algorithm."""
    config: TrainConfig
    """Its options."""
    options: str | None = ""
    """Options of its command in comparisons of runs; None: it is compared only on one buffer."""
    gains: InformationGainConfig | None = None
    """Settings of the information gain that it uses; None: it uses none."""
    on_queries: bool = False
    """Whether it differs from others on query tokens, so that these represent their turn."""
    whitened: bool = False
    """Whether it whitens over the batch, which shifts all advantages equally, also across 0."""
    equality: str = ""
    """Why its advantages equal those of another algorithm, up to a factor, on every buffer."""

    @cached_property
    def algorithm(self) -> Algorithm:
        """The algorithm with these options."""
        return self.kind(self.config)

    @property
    def reads(self) -> str | None:
        """Which gains it uses, a key of `INFORMATION_GAINS`: the baseline of measured ones, else the source."""
        if self.gains is None:
            return None
        return self.gains.baseline if self.gains.needs_scorer else self.gains.source

    @property
    def command(self) -> str | None:
        """File and options that train it, as `examples/compare_algorithms.py` accepts them."""
        return None if self.options is None else f"{self.algorithm.name} {self.options}".strip()


ALGORITHMS = {
    entry.name: entry
    for entry in (
        Entry("grpo", "GRPO", GRPO, GRPOConfig()),
        Entry(
            "dr_grpo",
            "Dr.GRPO",
            GRPO,
            GRPOConfig(scale_by_std=False),
            options=None,
            equality="GRPO without the division by the group's deviation",
        ),
        Entry("ig_grpo", "IG-GRPO", IGGRPO, IGGRPOConfig(), gains=IGGRPOConfig().information_gain, on_queries=True),
        Entry("gigpo", "GiGPO", GiGPO, GiGPOConfig()),
        Entry("graft", "GRAFT", GRAFT, GRAFTConfig()),
        Entry("cov_local", "Cov-local", CovLocal, CovLocalConfig(), on_queries=True),
        Entry(
            "ig_local", "IG-local", IGLocal, IGLocalConfig(), gains=IGLocalConfig().information_gain, on_queries=True
        ),
        Entry(
            "ig_grpo_potential",
            "IG-GRPO pot",
            IGGRPOPotential,
            IGGRPOPotentialConfig(),
            gains=IGGRPOPotentialConfig().information_gain,
        ),
        Entry("igpo", "IGPO", IGPO, IGPOConfig(), gains=IGPOConfig().information_gain),
        Entry("rloo", "RLOO", RLOO, TrainConfig(), equality="Dr. GRPO times n / (n - 1)"),
        Entry("reinforce_plus_plus", "R++", ReinforcePlusPlus, ReinforcePlusPlusConfig(), whitened=True),
        Entry(
            "reinforce_plus_plus_baseline",
            "R++base",
            ReinforcePlusPlus,
            ReinforcePlusPlusConfig(group_baseline=True),
            options="--group-baseline",
            whitened=True,
        ),
        Entry(
            "ppo",
            "PPO",
            PPO,
            PPOConfig(),
            whitened=True,
            equality="its critic returns 0 and nothing is discounted",
        ),
        Entry("turn_ppo", "T-PPO", TurnPPO, TurnPPOConfig(), whitened=True),
        Entry(
            "turn_ppo_gain",
            "T-PPO+IG",
            TurnPPO,
            TurnPPOConfig(turn_reward="gain"),
            options="--turn-reward gain",
            gains=TurnPPOConfig().information_gain,
            whitened=True,
        ),
        # On one buffer with the gains of the others over `previous`: of the first golden answer alone.
        Entry("tips", "TIPS", TIPS, TIPSConfig(), gains=IGPOConfig().information_gain, whitened=True),
        Entry(
            "step_search",
            "StepS",
            StepSearch,
            StepSearchConfig(),
            gains=StepSearchConfig().information_gain,
            whitened=True,
        ),
        # Its episodes have three attempts: a third of the questions is an equal budget.
        Entry("mr_search", "MR", MRSearch, MRSearchConfig(), options="--rollout.questions-per-step 5"),
        Entry("mt_grpo", "MT-GRPO", MTGRPO, MTGRPOConfig()),
        Entry("cw_grpo", "CW-GRPO", CWGRPO, CWGRPOConfig(), gains=CWGRPOConfig().information_gain),
        Entry("gspo", "GSPO", GSPO, GSPOConfig(), equality="GRPO: GSPO differs in the loss"),
    )
}

# Settings of the information gains that the algorithms use.
INFORMATION_GAINS = {entry.reads: entry.gains for entry in ALGORITHMS.values() if entry.reads and entry.gains}
