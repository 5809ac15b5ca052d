"""The section `rollout` of a configuration, and `Sampler`, which generates and scores for a trainer."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial

import torch

from algorithms.common.distributed.processes import Processes
from algorithms.common.model.kv_cache import CachedPrefixes
from algorithms.common.model.lora import adapter_weights, merged_weights
from algorithms.common.model.policy import Policy
from algorithms.common.model.pretrained import DTYPES
from algorithms.common.model.turn_end import TurnEnd
from algorithms.common.rollout.answer_scorer import PolicyScorer
from algorithms.common.rollout.config import BUILTIN, RolloutConfig, not_asynchronous
from algorithms.common.rollout.decoder import Decoder
from algorithms.common.rollout.engine_decoder import EngineDecoder
from algorithms.common.rollout.engines.base import Engine, engine_class, with_tied_head
from algorithms.common.rollout.probe import check_adapter, check_weights
from algorithms.common.rollout.turn_decoder import TurnDecoder

EVAL_SLOTS = 128  # questions that are answered concurrently in an evaluation


class Sampler:
    """Writes turns and scores answers with the weights of the last `sync_weights`.

    `policy` scores, and writes unless an engine does: it is the trained policy itself, or a copy of it if
    `rollout.dtype` sets another precision, if a process holds only a shard of the weights, or if the trained weights
    may change while it samples (`rollout.max_staleness`) and no engine with weights of its own does. The built-in
    decoder has a copy of the weights that autocast would cast for every token (`Policy.with_cast_weights`).

    Args:
        trained: the policy that is trained.
        config: the section `rollout`.
        stop_strings: `Protocol.stop_strings`.
        processes: of the run.
        sharded: whether this process holds only a shard of the trained weights.
    """

    def __init__(
        self,
        trained: Policy,
        config: RolloutConfig,
        stop_strings: Sequence[str],
        processes: Processes,
        *,
        sharded: bool = False,
    ) -> None:
        self.trained = trained
        self.config = config
        self.processes = processes
        self.sharded = sharded
        self.policy = trained
        if config.dtype or sharded or samples_from_copy(config):
            dtype = DTYPES[config.dtype] if config.dtype else trained.compute_dtype or trained.model.dtype
            self.policy = trained.replica(dtype)
        elif trained.compute_dtype is not None and config.engine == BUILTIN:
            self.policy = trained.with_cast_weights()
        self.turn_end = TurnEnd(self.policy.tokenizer, stop_strings)
        self.engine: Engine | None = None
        self.version = 0  # training steps whose update its weights have seen
        self.transfers = 0  # of weights to the engine

    def start(self, version: int = 0, *, transfer: bool = True) -> None:
        """Start the engine; call it once the trained weights are those that the run begins with.

        `version`: as of `sync_weights`. `transfer`: False if the engine has the weights already, because it serves or
        loads the same model.
        """
        self.engine = make_engine(self.config, self.policy, self.turn_end)
        if not transfer:
            return
        if self.engine is not None and self.engine.takes_adapters:
            check = partial(check_adapter, self.engine, self.policy, self.turn_end)
            self.processes.run_on_main(check) if self.engine.shared else check()
        self.sync_weights(version)

    @property
    def exact(self) -> bool:
        """Whether its log-probs are those that the trainer would compute, so that they need not be recomputed.

        In less than float32 they are not: the passes of sampling and training have different shapes and round
        differently, by up to 0.06 nats in bfloat16.
        """
        precision = self.trained.compute_dtype or self.trained.model.dtype
        return self.policy is self.trained and self.engine is None and precision in (torch.float32, torch.float64)

    @property
    def asynchronous(self) -> bool:
        """Whether each episode of a rollout continues on its own, without waiting for the turns of the others."""
        if self.config.asynchronous is not None:
            return self.config.asynchronous
        return self.engine is not None and self.engine.streams

    def sync_weights(self, version: int = 0) -> None:
        """Copy the current trained weights to the sampler, which must not be sampling. Every process must call it.

        `version`: the number of training steps whose update they have seen.

        Raises `EngineError` if an engine does not sample from them afterwards.
        """
        if self.policy is not self.trained:
            self.policy.copy_weights(self.trained)
        if self.engine is not None:
            model = self.trained.model
            weights = (
                adapter_weights(model) if self.engine.takes_adapters else with_tied_head(model, merged_weights(model))
            )
            if self.processes.is_main or not self.engine.shared:
                self.engine.update_weights(weights)
            else:
                deque(weights, maxlen=0)  # takes part in gathering sharded tensors
            if self.transfers == 0 or self.engine.own_weights:
                check = partial(check_weights, self.engine, self.policy, self.turn_end, self.transfers)
                self.processes.run_on_main(check) if self.engine.shared else check()
            self.transfers += 1
            names = self.processes.gather(self.engine.weights_name)  # and all wait for the last one
            if self.engine.shared:
                self.engine.weights_name = names[0]
        self.version = version

    def sleep(self) -> None:
        """Give up the memory that only rollouts need, until `sync_weights`; call it between a rollout and an update."""
        if self.engine is not None:
            self.engine.sleep()

    def wake(self) -> None:
        """End `sleep` without an update: an engine that sleeps gets the weights again. Every process must call it."""
        if self.engine is not None and self.engine.asleep:
            self.sync_weights(self.version)

    def decoder(self, slots: int, temperature: float) -> TurnDecoder:
        """A decoder for `slots` concurrent episodes, as far as the KV cache allows."""
        config = self.config
        if self.engine is not None:
            return EngineDecoder(
                self.engine,
                self.policy,
                self.turn_end,
                slots=slots,
                max_new_tokens=config.max_new_tokens,
                temperature=temperature,
                asynchronous=self.asynchronous,
            )
        return Decoder(
            self.policy,
            self.turn_end,
            slots=slots,
            max_new_tokens=config.max_new_tokens,
            temperature=temperature,
            kv_cache_tokens=config.kv_cache_tokens,
            pass_tokens=config.token_budget,
            asynchronous=self.asynchronous,
        )

    def scorer(self, prefixes: CachedPrefixes | None = None) -> PolicyScorer:
        """A scorer with the current weights; `prefixes`: sequences that they have already read.

        With `rollout.max_staleness`, the trained policy scores, which is not sampling at the same time, and `prefixes`
        of the sampler are of no use to it. A sharded policy can't: the sampler's copy scores, with its own weights.
        """
        if self.config.max_staleness and not self.sharded:
            return PolicyScorer(self.trained, pass_tokens=self.config.token_budget)
        return PolicyScorer(self.policy, pass_tokens=self.config.token_budget, prefixes=prefixes)

    def close(self) -> None:
        """Close the engine."""
        if self.engine is not None:
            self.engine.close()


def samples_from_copy(config: RolloutConfig) -> bool:
    """Whether the sampler needs a copy of the weights because the trained ones may change while it samples.

    An engine with weights of its own has them already. transformers' continuous batching generates with the model that
    it is given, so it gets the copy.
    """
    return config.max_staleness > 0 and (config.engine == BUILTIN or not engine_class(config.engine).own_weights)


def make_engine(config: RolloutConfig, policy: Policy, turn_end: TurnEnd) -> Engine | None:
    """The engine of a configuration; None for the built-in decoder.

    An engine with weights of its own has those of the policy only after `update_weights`: call it before the first
    rollout of a run that resumes or trains adapters.
    """
    if config.engine == BUILTIN:
        return None
    dtype = config.dtype or str(policy.compute_dtype or policy.model.dtype).removeprefix("torch.")
    found = engine_class(config.engine)
    if config.asynchronous and not found.streams:
        raise not_asynchronous(config.engine)
    return found(policy, turn_end, config.engine_settings(dtype))
