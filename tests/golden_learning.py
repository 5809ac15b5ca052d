"""What our estimators and losses give on golden cases: one function per kind, outputs by the golden's own names."""

from __future__ import annotations

from itertools import groupby
from math import inf
from typing import Any

import numpy as np
import torch
from buffers import mask_buffer
from golden_reader import Case, NotAsked
from losses import aggregated

from algorithms.common.rollout.buffer import Float32s, RolloutBuffer
from algorithms.common.training.advantages import grpo_advantages, overlong_penalty, rloo_advantages, whiten
from algorithms.common.training.config import LossConfig
from algorithms.common.training.loss import importance_weights, kl_penalty, policy_loss, token_weights, value_loss
from algorithms.grpo import GRPO, GRPOConfig
from algorithms.ig_grpo import IGGRPO, IGGRPOConfig
from algorithms.mr_search import MRSearch, MRSearchConfig, attempt_advantages
from algorithms.ppo import PPO, PPOConfig, token_rewards
from algorithms.reinforce_plus_plus import ReinforcePlusPlus, ReinforcePlusPlusConfig
from igsearch.testing.buffers import answer_turn, buffer_of, search_turn, trajectory
from igsearch_env.information_gain import InformationGainConfig
from igsearch_env.trajectory import Attempt, Trajectory

Outputs = dict[str, Any]
Flags = np.ndarray[Any, np.dtype[np.bool_]]
NORM = "seq-mean-token-sum-norm"

# ---------------------------------------------------------------- advantages


def _scalars(case: Case, groups: list[Any]) -> Float32s:
    # "drgrpo" says in its name what `norm_adv_by_std` says in the inputs.
    scale = case.get("norm_adv_by_std") if case.has("norm_adv_by_std") else not case.name.startswith("drgrpo")
    eps = case.get("eps") if case.has("eps") else 1e-6
    return grpo_advantages(case.get("scores"), groups, scale_by_std=scale, eps=eps).astype(np.float32)


def group_advantages(case: Case) -> Outputs:
    """One advantage per trajectory, and per token through a buffer, whose micro-batch puts it on policy tokens."""
    scalars = _scalars(case, case.get("uid"))
    if "token" not in case.outputs:
        return {"scalar": scalars}
    mask = np.array(case.get("policy_mask"), dtype=bool)
    buffer = mask_buffer(mask.tolist())
    flat = buffer.broadcast(scalars)
    tokens = np.zeros(mask.shape, dtype=np.float32)
    (batch,) = buffer.micro_batches(flat, range(len(mask)), max_tokens=10**9, pad_id=0)
    width = batch.ids_BT.shape[1] - 1  # without the prompt
    tokens[batch.rows, :width] = batch.advantages_BT[:, 1:].numpy()
    return {"scalar": scalars, "token": tokens}


def _on_tokens(mask: Flags, flat: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A flat vector of policy tokens in the place of each; 0 elsewhere."""
    tokens = np.zeros(mask.shape, dtype=np.float32)
    tokens[mask] = flat
    return tokens


def _where_asked(mask: Flags, flat: np.ndarray[Any, Any], golden: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A flat vector of policy tokens in the place of each, amid what the original left on tokens that it masks."""
    tokens = np.array(golden, dtype=np.float64)
    tokens[mask] = flat
    return tokens


def _mask(case: Case, key: str) -> Flags:
    """A mask, or that of the fixture which it names ("policy_mask (info_mask)")."""
    value = case.get(key)
    return np.array(case.get(value.split()[0]) if isinstance(value, str) else value, dtype=bool)


def _set_groups(buffer: RolloutBuffer, names: list[Any]) -> None:
    """Trajectories of one name are a group, wherever they stand."""
    order = list(dict.fromkeys(names))
    buffer.__dict__["group_index"] = np.array([order.index(name) for name in names])


def _rewarded(mask: Flags, rewards: list[float]) -> RolloutBuffer:
    """A buffer with these holes, whose rows earned these rewards (with their last policy token, as in the original)."""
    buffer = mask_buffer(mask.tolist())
    for t, reward in zip(buffer.trajectories, rewards, strict=True):
        t.outcome = reward
    return buffer


def leave_one_out(case: Case) -> Outputs:
    """RLOO, per trajectory and per token; every score of a singleton case is a group of its own."""
    scores = case.get("scores")
    alone = "singleton" in case.name
    scalars = rloo_advantages(scores, list(range(len(scores))) if alone else case.get("uid")).astype(np.float32)
    if alone:
        golden = case.outputs["scalar"]
        return {"scalar": scalars if isinstance(golden, list) else scalars.item()}
    mask = np.array(case.get("policy_mask"), dtype=bool)
    return {"scalar": scalars, "token": _on_tokens(mask, np.repeat(scalars, mask.sum(1)))}


def reinforce_plus_plus(case: Case) -> Outputs:
    """REINFORCE++ on a buffer with holes, with or without the group's baseline."""
    mask = _mask(case, "mask") if case.has("mask") else np.array(case.get("policy_mask"), dtype=bool)
    buffer = _rewarded(mask, case.get("scores"))
    _set_groups(buffer, case.get("uid"))
    gamma = case.get("gamma") if case.has("gamma") else 1.0
    config = ReinforcePlusPlusConfig(gamma=gamma, group_baseline="baseline" in case.name)
    tokens = _on_tokens(mask, ReinforcePlusPlus(config).advantages(buffer))
    result: Outputs = {"token": tokens, "advantages": tokens}
    if "scalar" in case.outputs:
        result["scalar"] = [row[on][0] for row, on in zip(tokens, mask, strict=True)]
    if "returns" in case.outputs:
        result["returns"] = NotAsked("the returns at masked tokens mean nothing")
    return result


def whitening(case: Case) -> Outputs:
    """Masked values; verl applies the statistics to the others too, which nothing reads."""
    values, mask = np.array(case.get("values")), np.array(case.get("mask"), dtype=bool)
    ours = whiten(values[mask])
    golden = np.array(case.outputs["out"])
    return {"out": np.where(mask, _on_tokens(mask, ours), golden)}


def search_r1_advantages(case: Case) -> Outputs:
    """Search-R1 puts advantages on what was read, too; its loss mask drops them. Here a plain product."""
    scalars = _scalars(case, case.get("uid"))
    name = case.get("eos_mask")
    mask = np.array(case.get(name) if isinstance(name, str) else name)
    return {"scalar": scalars, "token": scalars[:, None] * mask}


def singleton_advantages(case: Case) -> Outputs:
    """Every score is a group of its own."""
    scalars = _scalars(case, list(range(len(case.get("scores")))))
    golden = case.outputs["scalar"]
    return {"scalar": scalars if isinstance(golden, list) else scalars.item()}


def modulation(case: Case) -> Outputs:
    """IG-GRPO on a buffer whose searches have the case's gains and query lengths, amid other tokens."""
    config = IGGRPOConfig(
        alpha=case.get("alpha"),
        information_gain=InformationGainConfig(
            dead_zone=case.get("delta"),
            negative_scale=case.get("lam"),
            soft_clip=case.get("clip"),
            soft_clip_form=case.get("soft_clip_form"),
        ),
    )
    groups = []
    for number, (rewards, gains, lengths) in enumerate(
        zip(case.get("rewards"), case.get("raw_ig"), case.get("query_len"), strict=True)
    ):
        members = []
        for reward, own_gains, own_lengths in zip(rewards, gains, lengths, strict=True):
            turns = [
                search_turn(range(length + 3), (2, 2 + length), gain, observation_ids=(7, 7, 7))
                for gain, length in zip(own_gains, own_lengths, strict=True)
            ]
            members.append(trajectory([*turns, answer_turn((5, 6))], reward, number))
        groups.append(members)
    buffer = buffer_of(groups)
    plain = GRPO(GRPOConfig()).advantages(buffer)
    modulated = IGGRPO(config).advantages(buffer)
    elsewhere = np.ones(len(plain), dtype=bool)
    at_queries: list[float] = []
    for _, _, tokens in buffer.query_tokens():
        elsewhere[tokens] = False
        if np.ptp(modulated[tokens]) != 0:
            raise AssertionError(f"the query's tokens have different advantages: {modulated[tokens]}")
        at_queries.append(modulated[tokens.start].item())
    if not np.array_equal(modulated[elsewhere], plain[elsewhere]):
        raise AssertionError("a token outside the queries does not keep GRPO's advantage")
    values, of_trajectory = iter(at_queries), iter(plain[buffer.first_token].tolist())
    return {
        "A_hat": [[next(of_trajectory) for _ in rewards] for rewards in case.get("rewards")],
        "ig_tilde": [
            [[config.information_gain.stabilise(gain) for gain in own] for own in gains] for gains in case.get("raw_ig")
        ],
        "query_token_advantage": [[[next(values) for _ in own] for own in gains] for gains in case.get("raw_ig")],
    }


def hole_aware_gae(case: Case) -> Outputs:
    """PPO's advantages and value targets on a buffer with holes; at holes the original's numbers mean nothing."""
    mask = _mask(case, "response_mask")
    buffer = _rewarded(mask, case.get("scores"))
    buffer.values = np.array(case.get("values"), dtype=np.float32)[mask]
    algorithm = PPO(PPOConfig(gamma=case.get("gamma"), gae_lambda=case.get("lam")))
    return {
        "advantages": _where_asked(mask, algorithm.advantages(buffer), case.outputs["advantages"]),
        "returns": _where_asked(mask, algorithm.value_targets(buffer), case.outputs["returns"]),
    }


def kl_in_reward(case: Case) -> Outputs:
    """PPO's token rewards, with a reference whose log-probs lie as far away as the case says."""
    mask = _mask(case, "mask")
    buffer = _rewarded(mask, case.get("scores"))
    buffer.reference_logprobs = buffer.logprobs - np.array(case.get("kl_k1"), dtype=np.float32)[mask]
    return {"token_level_rewards": _on_tokens(mask, token_rewards(buffer, case.get("beta")))}


# What MR-Search's script leaves at these values and its paper does not have.
_MR_SEARCH_PLAIN = {"alpha": 0.0, "beta": 1.0, "improve_gamma": 0.0, "penalty_lambda": 0.0}


def attempts(case: Case) -> Outputs:
    """MR-Search's advantages per attempt, and per token of a buffer whose tokens belong to attempts."""
    for key, plain in _MR_SEARCH_PLAIN.items():
        if case.has(key) and case.get(key) != plain:
            case.ignore("nothing is compared", *case.inputs)
            return {name: NotAsked(f"{key}={case.get(key)}: neither in the paper nor here") for name in case.outputs}
    mask = np.array(case.get("policy_mask"), dtype=bool)
    steps = np.array(case.get("step_ids"))[:, : mask.shape[1]]  # the original has a column more
    case.ignore("the rewards again, on the last token of each attempt", "token_level_rewards")
    case.ignore("tokens without a policy token after them are not compared", "attention_mask")
    earned = [row[: own.max() + 1] for row, own in zip(case.get("episode_em"), steps, strict=True)]
    members = [_attempted(*row) for row in zip(mask.tolist(), steps.tolist(), earned, strict=True)]
    buffer = buffer_of([members])
    _set_groups(buffer, case.get("group"))
    gamma = case.get("discount")
    tokens = MRSearch(MRSearchConfig(gamma=gamma)).advantages(buffer)
    result: Outputs = {"token": _where_asked(mask, tokens, case.outputs["token"])}
    if "per_episode_adv" in case.outputs:
        per_attempt = attempt_advantages(earned, buffer.group_index, gamma)
        # A table of the original has a 0 for each attempt that a rollout never came to.
        widths = [len(row) for row in case.outputs["per_episode_adv"]]
        result["per_episode_adv"] = [
            [*row.tolist(), *[0.0] * (width - len(row))] for row, width in zip(per_attempt, widths, strict=True)
        ]
    return result


def _attempted(mask: list[bool], steps: list[int], rewards: list[float]) -> Trajectory:
    """A trajectory of one row: runs of policy tokens of one attempt are turns, the tokens between were read."""
    member = trajectory([])
    for (written, step), run in groupby(enumerate(zip(mask, steps, strict=True)), key=lambda token: token[1]):
        ids = tuple(100 + column for column, _ in run)
        while len(member.attempts) < step:
            number = len(member.attempts)
            member.attempts.append(Attempt(len(member.turns), "y", rewards[number]))
        if written:
            member.turns.append(search_turn(ids))
        elif member.turns:
            member.turns[-1].observation_ids += ids
        else:
            member.prompt_ids += ids
    for reward in rewards[len(member.attempts) :]:
        member.attempts.append(Attempt(len(member.turns), "y", reward))
    return member


def length_penalty(case: Case) -> Outputs:
    """DAPO's penalty of the golden's lengths."""
    lengths = [length for length, _ in case.outputs["length_penalty"]]
    penalties = overlong_penalty(
        lengths,
        max_length=case.get("max_resp_len"),
        buffer_length=case.get("overlong_buffer_len"),
        factor=case.get("penalty_factor"),
    )
    return {"length_penalty": list(zip(lengths, penalties.tolist(), strict=True))}


# ---------------------------------------------------------------- losses


def _tensor(case: Case, key: str) -> torch.Tensor:
    return torch.tensor(case.get(key), dtype=torch.float32)


def _aggregated(case: Case, loss: torch.Tensor, mask: torch.Tensor, mode: str) -> float:
    horizon = case.get("loss_scale_factor") if case.has("loss_scale_factor") else None
    total = aggregated(loss, mask, mode, horizon=horizon).item()
    if mode == NORM and not case.name.endswith("__2026-08"):
        # Before August 2026 verl did not divide this mode by the number of sequences (verl#3741); we do.
        total *= int((mask.sum(-1) > 0).sum())
    return total


def _clipped(case: Case, ratio: str, mode: str) -> Outputs:
    mask = _tensor(case, "mask")
    config = LossConfig(
        clip_ratio_low=case.get("clip_low"),
        clip_ratio_high=case.get("clip_high"),
        dual_clip=case.get("clip_ratio_c") if case.has("clip_ratio_c") else None,
        ratio=ratio,
        aggregation=mode,
        horizon=mask.shape[-1],
    )
    tokens = policy_loss(
        _tensor(case, "log_prob"), _tensor(case, "old_log_prob"), _tensor(case, "advantages"), mask, config
    )
    return {
        "loss": _aggregated(case, tokens.loss_BT, mask, mode),
        "actor/pg_clipfrac": aggregated(tokens.clipped_BT, mask, "token-mean"),
        "actor/ppo_kl": aggregated(tokens.approx_kl_BT, mask, "token-mean"),
        "actor/pg_clipfrac_lower": aggregated(tokens.dual_clipped_BT, mask, "token-mean"),
    }


def clipped_loss(case: Case) -> Outputs:
    """PPO's clipped loss."""
    return _clipped(case, "token", case.get("loss_agg_mode"))


def importance(case: Case) -> Outputs:
    """verl's truncated importance weights, and its clipped loss with them."""
    mask = _tensor(case, "mask").bool()
    old = _tensor(case, "trainer_log_prob")
    weights = importance_weights(
        old - _tensor(case, "sampler_log_prob"), mask, case.get("rollout_is"), case.get("rollout_is_threshold")
    )
    if "loss" not in case.outputs:
        return {"weights": weights.masked_fill(~mask, 0.0), "rollout_is_mean": weights[mask].mean().item()}
    config = LossConfig(
        clip_ratio_low=case.get("clip_low"),
        clip_ratio_high=case.get("clip_high"),
        dual_clip=case.get("clip_ratio_c"),
        aggregation=case.get("loss_agg_mode"),
    )
    loss = policy_loss(_tensor(case, "log_prob"), old, _tensor(case, "advantages") * weights, mask, config).loss_BT
    return {"loss": aggregated(loss, mask, config.aggregation).item()}


def sequence_loss(case: Case) -> Outputs:
    """GSPO, which verl always aggregates as seq-mean-token-mean."""
    return _clipped(case, "sequence", "seq-mean-token-mean")


def aggregation(case: Case) -> Outputs:
    """A loss matrix, aggregated."""
    return {"loss": _aggregated(case, _tensor(case, "loss_mat"), _tensor(case, "mask"), case.get("loss_agg_mode"))}


def trl_losses(case: Case) -> Outputs:
    """TRL's loss types are aggregations; it counts every row as a sequence, whether or not it has a token."""
    mask, epsilon = _tensor(case, "mask"), case.get("epsilon")
    config = LossConfig(
        clip_ratio_low=epsilon, clip_ratio_high=case.get("epsilon_high") if case.has("epsilon_high") else epsilon
    )
    logprobs = _tensor(case, "log_prob")
    loss = policy_loss(logprobs, _tensor(case, "old_log_prob"), _tensor(case, "advantages"), mask, config).loss_BT
    if case.get("beta"):
        loss = loss + case.get("beta") * kl_penalty(logprobs, _tensor(case, "ref_log_prob"), "k3")

    def total(mode: str, tokens: int) -> float:
        horizon = case.get("max_completion_length")
        weights = token_weights(mask, mode, horizon=horizon, tokens=tokens, sequences=len(mask))
        return (loss * weights).sum().item()

    tokens = int(mask.sum())
    modes = {
        "grpo": ("seq-mean-token-mean", tokens),
        "bnpo": ("token-mean", tokens),
        "dr_grpo": (NORM, tokens),
        "dapo": ("token-mean", case.get("num_items_in_batch")),
    }
    # "dr_grpo_maxlen6" is the type with its input written behind it.
    return {
        key: total(*modes[kind]) for key in case.outputs for kind in modes if key == kind or key.startswith(f"{kind}_")
    }


def clipped_value_loss(case: Case) -> Outputs:
    """The critic's loss, as a mean over the tokens of a mask (all of them without one), and how many are clipped."""
    values, old, returns = (_tensor(case, key) for key in ("vpreds", "old_values", "returns"))
    clip = case.get("cliprange_value")
    # Not the fixture's mask, which is of other tensors.
    names = [name for name in ("mask", "eos_mask", "response_mask", "loss_mask") if name in case.inputs]
    mask = torch.from_numpy(_mask(case, names[0])) if names else torch.ones(values.shape, dtype=torch.bool)
    loss = value_loss(values, old, returns, clip)
    mode = case.inputs.get("loss_agg_mode", "token-mean")
    return {
        "vf_loss": aggregated(loss, mask, mode),
        "clipfrac": aggregated((loss > value_loss(values, old, returns, inf)).float(), mask, "token-mean"),
    }


def kl(case: Case) -> Outputs:
    """A KL estimate per token, and its mean over the fixture's mask."""
    estimate = kl_penalty(_tensor(case, "log_prob"), _tensor(case, "ref_log_prob"), case.name.split("_")[1])
    outputs: Outputs = {"kl": estimate}
    if "token_mean" in case.outputs:
        outputs["token_mean"] = aggregated(estimate, _tensor(case, "mask"), "token-mean")
    return outputs


def kl_gradient(case: Case) -> Outputs:
    """The gradient of a KL estimate with respect to the policy's log-probs."""
    logprobs = _tensor(case, "log_prob").requires_grad_()
    kl_penalty(logprobs, _tensor(case, "ref_log_prob"), case.name.split("_")[2]).sum().backward()  # type: ignore[no-untyped-call]
    return {"grad_wrt_logprob": logprobs.grad}
