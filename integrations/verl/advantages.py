"""Advantage estimators of verl that apply the algorithms of this project, one value per token.

verl hands an estimator the rewards and the mask, but not the episodes, without which an information gain can't be
credited to the tokens of its query. So two functions of verl are wrapped: around the original call, the episodes of the
batch are available to the estimator. They come from the batch itself, or in verl's v1 trainer, whose batch has tensors
alone, from its TransferQueue. Calls with estimators of others are unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from importlib import import_module
from typing import Any

import torch
from verl.trainer.ppo.core_algos import register_adv_est

from algorithms.common.algorithm import Algorithm
from algorithms.common.rollout.sequences import token_sequence
from algorithms.comparison.registry import ALGORITHMS
from igsearch_env.errors import ConfigurationError
from integrations.credit import find_algorithm, load_episode, token_advantages
from integrations.verl.fields import EPISODE

PREFIX = "igsearch_"
ESTIMATORS: dict[str, Algorithm] = {}
"""The registered algorithms, by their names in `algorithm.adv_estimator`."""

_batch: ContextVar[Sequence[str] | None] = ContextVar("episodes of the batch", default=None)
_BY_NAME = ("verl.trainer.ppo.ray_trainer", "verl.trainer.ppo.v1.utils", "verl.experimental.separation.ray_trainer")
_BY_KEY = ("verl.trainer.ppo.v1.utils", "verl.trainer.ppo.v1.trainer_base")


def register_algorithm(name: str, algorithm: str | Algorithm) -> None:
    """Register an algorithm as the estimator `igsearch_<name>`; does nothing if it is registered.

    Raises `ConfigurationError` for an algorithm that needs a critic or a reference policy, `ValueError` of verl if the
    name belongs to another estimator.
    """
    chosen = find_algorithm(algorithm)
    if ESTIMATORS.get(f"{PREFIX}{name}") is not chosen:
        register_adv_est(f"{PREFIX}{name}")(_estimator(chosen))
        ESTIMATORS[f"{PREFIX}{name}"] = chosen


def register_estimators() -> None:
    """Register every algorithm without a critic, and let estimators read the episodes of the batch."""
    for entry in ALGORITHMS.values():
        if entry.algorithm.critic is None:
            register_algorithm(entry.name, entry.algorithm)
    for module in _BY_NAME:
        _wrap(module, "compute_advantage", _episodes_in_batch)
    for module in _BY_KEY:
        _wrap(module, "compute_advantage_for_multi_trajectories", _episodes_in_queue)


def _estimator(algorithm: Algorithm) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    def estimate(
        token_level_rewards: torch.Tensor,
        response_mask: torch.Tensor,
        index: Sequence[Any],
        config: Any = None,
        non_tensor_batch: Mapping[str, Sequence[str]] | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Advantages and returns, both (batch, response length); `index` is the group of each row."""
        episodes = _batch.get() if non_tensor_batch is None else non_tensor_batch.get(EPISODE)
        if episodes is None or any(not isinstance(episode, str) for episode in episodes):
            raise ConfigurationError(
                f"adv_estimator={PREFIX}{algorithm.name}: the batch has no episodes in {EPISODE!r}; play "
                "it with the agent loop 'igsearch' and set VERL_USE_EXTERNAL_MODULES=integrations.verl"
            )
        kept = response_mask.bool().cpu()
        rows = _without_padding(episodes, kept)
        trajectories = [load_episode(episodes[row], f"episode {row}") for row in rows]
        values = token_advantages(algorithm, trajectories, [index[row] for row in rows])
        advantages = torch.zeros(kept.shape, dtype=torch.float32)
        for row, trajectory, of_row in zip(rows, trajectories, values, strict=True):
            own = torch.zeros(kept.shape[1], dtype=torch.bool)
            mask = torch.from_numpy(token_sequence(trajectory).mask[len(trajectory.prompt_ids) :])[: len(own)]
            own[: len(mask)] = mask
            if (kept[row] & ~own).any():
                raise ConfigurationError(
                    f"row {row} of the batch has policy tokens where its episode has none: response_mask belongs to "
                    "another response; keep the order of the batch between rollout and advantages"
                )
            advantages[row, own] = torch.tensor(of_row[: int(own.sum())], dtype=torch.float32)
        advantages = (advantages * kept).to(response_mask.device)
        return advantages, advantages.clone()

    return estimate


def _without_padding(episodes: Sequence[str], kept: torch.Tensor) -> list[int]:
    """Rows that are no padding: verl pads a batch with copies of a row without policy tokens, which are no siblings."""
    real = {text for text, mask in zip(episodes, kept, strict=True) if mask.any()}
    return [row for row, text in enumerate(episodes) if text not in real or kept[row].any()]


# ---------------------------------------------------------------- the episodes of a batch


def _wrap(module: str, name: str, episodes: Callable[..., Any]) -> None:
    """Wrap a function of verl where it is looked up; modules that this version of verl does not have are left out."""
    try:
        found = import_module(module)
    except ImportError:
        return
    original = getattr(found, name, None)
    if original is None or hasattr(original, "with_episodes"):
        return

    @wraps(original)
    def wrapped(data: Any, *arguments: Any, **named: Any) -> Any:
        estimator = named.get("adv_estimator", "")
        if getattr(estimator, "value", estimator) not in ESTIMATORS:
            return original(data, *arguments, **named)
        with _available(episodes(data, named)):
            return original(data, *arguments, **named)

    wrapped.with_episodes = True  # type: ignore[attr-defined]
    setattr(found, name, wrapped)


@contextmanager
def _available(episodes: Any) -> Iterator[None]:
    token = _batch.set(_batch.get() if episodes is None else list(episodes))
    try:
        yield
    finally:
        _batch.reset(token)


def _episodes_in_batch(data: Any, named: Mapping[str, Any]) -> Any:
    return data.non_tensor_batch.get(EPISODE)


def _episodes_in_queue(data: Any, named: Mapping[str, Any]) -> Any:
    """Episodes of a training batch of verl's v1 trainer, by its keys, in the order of `data`."""
    if EPISODE in data.non_tensor_batch:
        return data.non_tensor_batch[EPISODE]
    queue = import_module("verl.trainer.ppo.v1.trainer_base").tq
    stored = queue.kv_batch_get(keys=named["batch_keys"], partition_id="train", select_fields=["extra_fields"])
    return [fields.get(EPISODE) for fields in stored.pop("extra_fields").tolist()]
