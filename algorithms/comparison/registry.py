"""The list of algorithms: what a comparison on one buffer runs."""

from __future__ import annotations

from algorithms.common.algorithm import Algorithm
from algorithms.common.config import TrainConfig
from algorithms.gigpo import GiGPO, GiGPOConfig
from algorithms.grpo import GRPO, GRPOConfig
from algorithms.ig_grpo import IGGRPO, IGGRPOConfig
from algorithms.igpo import IGPO, IGPOConfig
from algorithms.mr_search import MRSearch, MRSearchConfig
from algorithms.ppo import PPO, PPOConfig
from algorithms.reinforce_plus_plus import ReinforcePlusPlus, ReinforcePlusPlusConfig
from algorithms.rloo import RLOO

ALGORITHMS: dict[str, tuple[str, Algorithm]] = {  # by name: head of its column, estimator
    "grpo": ("GRPO", GRPO(GRPOConfig())),
    "dr_grpo": ("Dr.GRPO", GRPO(GRPOConfig(scale_by_std=False))),
    "ig_grpo": ("IG-GRPO", IGGRPO(IGGRPOConfig())),
    "gigpo": ("GiGPO", GiGPO(GiGPOConfig())),
    "igpo": ("IGPO", IGPO(IGPOConfig())),
    "rloo": ("RLOO", RLOO(TrainConfig())),
    "reinforce_plus_plus": ("R++", ReinforcePlusPlus(ReinforcePlusPlusConfig())),
    "reinforce_plus_plus_baseline": ("R++base", ReinforcePlusPlus(ReinforcePlusPlusConfig(group_baseline=True))),
    "ppo": ("PPO", PPO(PPOConfig())),
    "mr_search": ("MR", MRSearch(MRSearchConfig())),
}


BASELINES = {"random": IGGRPOConfig().information_gain, "previous": IGPOConfig().information_gain}


READS = {"ig_grpo": "random", "igpo": "previous"}


WHITENED = ("reinforce_plus_plus", "reinforce_plus_plus_baseline", "ppo")
