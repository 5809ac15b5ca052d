"""MT-GRPO, CW-GRPO and GSPO-token on golden cases: one function per kind, outputs by the golden's own names."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
import torch
from golden_reader import Case
from losses import aggregated

from algorithms import cw_grpo, mt_grpo
from algorithms.common.training.advantages import grpo_advantages
from algorithms.common.training.config import LossConfig
from algorithms.common.training.loss import policy_loss
from algorithms.gspo import GSPOConfig

Outputs = dict[str, Any]


def _turn_lengths(mask: list[int]) -> list[int]:
    """Number of policy tokens of each turn of a row: of each run of ones."""
    return [len(list(run)) for written, run in groupby(mask) if written]


def _on_tokens(per_turn: np.ndarray[Any, Any], lengths: list[list[int]]) -> list[list[float]]:
    """One value per turn, trajectory by trajectory -> rows of one value per policy token."""
    values = iter(per_turn.tolist())
    return [[value for count in row for value in [next(values)] * count] for row in lengths]


def turn_and_outcome(case: Case) -> Outputs:
    """MT-GRPO, whose turns are named by letters: s a search with a result, i an invalid action, a an answer."""
    outcomes, earned, kinds = (case.get(key) for key in ("outcome_rewards", "turn_rewards", "turns"))
    groups = np.arange(len(outcomes)) // case.get("group_size")
    # The original's only turn reward is that of the first result; later ones must not matter.
    rewards = [
        [None if kind != "s" else reward if "s" not in row[:n] else 9.0 for n, kind in enumerate(row)]
        for row, reward in zip(kinds, earned, strict=True)
    ]
    per_turn = mt_grpo.turn_advantages(outcomes, rewards, groups, case.get("turn_advantage_coef"), every=False)
    combined = np.add(outcomes, earned)
    names = {"turn_adv": earned, "outcome_adv": outcomes, "combined_adv": combined}
    return {
        **{name: grpo_advantages(values, groups, eps=1e-4) for name, values in names.items()},
        "token": _on_tokens(per_turn, [_turn_lengths(row) for row in case.get("policy_mask")]),
    }


def contributions(case: Case) -> Outputs:
    """CW-GRPO: GRPO's advantages, weighted by the contributions of the rounds."""
    plain = grpo_advantages(case.get("rewards"), case.get("group"), scale_by_std=case.get("norm_adv_by_std"))
    lengths = case.get("round_tokens")
    per_round = cw_grpo.turn_advantages(plain, case.get("contribution"), case.get("gamma"))
    ends = np.cumsum([len(row) for row in lengths])
    return {
        "round_adv": [row.tolist() for row in np.split(per_round, ends[:-1])],
        "token": _on_tokens(per_round, lengths),
    }


def token_advantages_in_a_sequence_ratio(case: Case) -> Outputs:
    """GSPO-token: the losses and their gradient, for advantages that differ between the tokens of a sequence."""
    mask = torch.tensor(case.get("mask"), dtype=torch.float32)
    old, advantages = (torch.tensor(case.get(key), dtype=torch.float32) for key in ("old_log_prob", "advantages"))
    logprobs = torch.tensor(case.get("log_prob"), dtype=torch.float32, requires_grad=True)
    published = GSPOConfig().loss
    config = LossConfig(
        ratio=published.ratio,
        aggregation=published.aggregation,
        clip_ratio_low=case.get("clip_low"),
        clip_ratio_high=case.get("clip_high"),
    )
    tokens = policy_loss(logprobs, old, advantages, mask, config).loss_BT
    loss = aggregated(tokens, mask, config.aggregation)
    loss.backward()  # type: ignore[no-untyped-call]
    return {"loss": loss.item(), "token_loss": (tokens * mask).detach(), "grad_wrt_logprob": logprobs.grad}
