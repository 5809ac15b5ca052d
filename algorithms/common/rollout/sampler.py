"""`Sampler`: what samples and scores for a trainer."""

from __future__ import annotations

from collections import deque

from algorithms.common.config import TrainConfig
from algorithms.common.distributed.processes import Processes
from algorithms.common.model.kv_cache import KVCache
from algorithms.common.model.lora import merged_weights
from algorithms.common.model.policy import Policy
from algorithms.common.model.pretrained import DTYPES
from algorithms.common.rollout.decoder import Decoder
from algorithms.common.rollout.engines import Engine, EngineDecoder, make_engine


class Sampler:
    """Writes turns and scores answers with the weights as they were after the last `update`.

    `policy` scores, and writes unless an engine does: it is the trained one itself, or a copy of it where
    `rollout.dtype` asks for another precision or where a process holds only a part of the weights.
    """

    def __init__(self, trained: Policy, config: TrainConfig, processes: Processes) -> None:
        self.trained = trained
        self.config = config
        self.processes = processes
        self.policy = trained
        wanted = config.rollout.dtype
        if wanted or config.distributed.sharding != "none":
            dtype = DTYPES[wanted] if wanted else trained.compute_dtype or trained.model.dtype
            self.policy = trained.replica(dtype)
        self.engine: Engine | None = None
        self.store = KVCache()  # of every decoder in turn

    def start(self) -> None:
        """Start the engine, once the trained weights are those that the run begins with."""
        self.engine = make_engine(self.config.rollout, self.policy, self.config.policy)
        self.sync_weights()

    @property
    def exact(self) -> bool:
        """Whether its log-probs are those of the trained weights, in the precision that is trained."""
        return self.policy is self.trained and self.engine is None

    def sync_weights(self) -> None:
        """Take over the weights as they are now. Every process must call it."""
        if self.policy is not self.trained:
            self.policy.copy_weights(self.trained)
        if self.engine is not None:
            weights = merged_weights(self.trained.model)
            if self.processes.is_main or not self.engine.shared:
                self.engine.update_weights(weights)
            else:
                deque(weights, maxlen=0)  # its part of gathering what is sharded
            self.processes.barrier()

    def decoder(self, slots: int, temperature: float) -> Decoder | EngineDecoder:
        """What writes `slots` episodes at once, as far as the cache allows."""
        rollout = self.config.rollout
        longest = rollout.max_new_tokens
        if self.engine is not None:
            return EngineDecoder(self.engine, self.policy, slots=slots, max_new_tokens=longest, temperature=temperature)
        return Decoder(
            self.policy,
            slots=slots,
            max_new_tokens=longest,
            temperature=temperature,
            kv_cache_tokens=rollout.kv_cache_tokens,
            token_budget=rollout.token_budget,
            store=self.store,
        )

    def close(self) -> None:
        """Close the engine."""
        if self.engine is not None:
            self.engine.close()
