"""The update against the textbook: float32 logits of every position, log-softmax and gather of all of them.

Each side runs in a process of its own, so that peak memory is its own:

    python benchmarks/update.py --side ours|textbook
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from algorithms.common.base.command_line import parse_options
from algorithms.common.model.policy import Policy
from algorithms.common.training.loss import LossConfig, policy_loss
from benchmarks.measure import Line, peak_gigabytes, seconds
from benchmarks.policies import random_policy

VOCABULARY, SEQUENCES, LENGTH = 151_936, 2, 2_048


@dataclass(frozen=True)
class Args:
    """One side of the comparison."""

    side: str = "ours"
    """ours or textbook."""
    share: float = 0.25
    """Share of the tokens that the policy wrote."""
    repeats: int = 1
    """Timed passes."""


def main(args: Args) -> None:
    """Print seconds and peak memory of forward and backward, and a checksum of the gradient."""
    policy = random_policy("qwen2.5-0.5b", 1, vocabulary=VOCABULARY)
    torch.manual_seed(1)
    ids_BT = torch.randint(300, 1_200, (SEQUENCES, LENGTH))
    first = max(1, LENGTH - int(args.share * LENGTH))  # nothing stands before the first token
    mask_BT = (torch.arange(LENGTH) >= first).expand(SEQUENCES, -1)
    advantages_BT = torch.randn(SEQUENCES, LENGTH)
    idle = peak_gigabytes()

    def step() -> None:
        policy.model.zero_grad()
        logprobs_BT = _logprobs(policy, ids_BT, mask_BT, args.side)
        loss = policy_loss(logprobs_BT, logprobs_BT.detach(), advantages_BT, mask_BT, LossConfig())
        (loss.loss_BT * mask_BT / mask_BT.sum()).sum().backward()  # type: ignore[no-untyped-call]

    times = [seconds(step) for _ in range(args.repeats)]
    gradient = float(policy.model.get_input_embeddings().weight.grad.double().norm())
    print(json.dumps({"seconds": times, "peak_gb": peak_gigabytes(), "idle_gb": idle, "gradient": gradient}))


def _logprobs(policy: Policy, ids_BT: torch.Tensor, mask_BT: torch.Tensor, side: str) -> torch.Tensor:
    if side == "ours":
        chosen, _ = policy.token_logprobs(ids_BT, mask_BT)
        return torch.zeros(ids_BT.shape).masked_scatter(mask_BT, chosen)
    logits_BTV = policy.model(input_ids=ids_BT, use_cache=False).logits.float()
    logps_BTV = torch.log_softmax(logits_BTV[:, :-1], dim=-1)
    chosen_BT = logps_BTV.gather(-1, ids_BT[:, 1:, None]).squeeze(-1)
    return torch.cat([chosen_BT.new_zeros(len(ids_BT), 1), chosen_BT], dim=1)


def lines(repeats: int) -> list[Line]:
    """Memory and time at a vocabulary of 151,936 and 2,048 tokens, a quarter of them, or all, the policy's."""
    result = []
    for share in (0.25, 1.0):
        sides: dict[str, list[dict[str, float | list[float]]]] = {"ours": [], "textbook": []}
        for _ in range(max(1, repeats // 2)):
            for side, runs in sides.items():
                runs.append(_in_process(side, share))
        peak = {side: statistics.median(_number(run["peak_gb"]) for run in runs) for side, runs in sides.items()}
        time = {
            side: statistics.median(t for run in runs for t in _numbers(run["seconds"])) for side, runs in sides.items()
        }
        gradients = [_number(sides[side][0]["gradient"]) for side in ("ours", "textbook")]
        what = f"vocabulary {VOCABULARY:,}, {SEQUENCES} x {LENGTH:,} tokens, {share:.0%} of them the policy's"
        result += [
            Line(
                f"update: peak memory over the textbook's, {what}",
                peak["ours"] / peak["textbook"],
                target=0.5,
                at_most=True,
                detail=f"{peak['ours']:.2f} GB and {peak['textbook']:.2f} GB of the whole process; gradient norms "
                f"differ by {abs(gradients[0] / gradients[1] - 1):.1e}",
            ),
            Line(
                f"update: textbook's time over ours, {what}",
                time["textbook"] / time["ours"],
                target=1.0,
                detail=f"{time['ours']:.2f} s and {time['textbook']:.2f} s",
            ),
        ]
    return result


def _in_process(side: str, share: float) -> dict[str, float | list[float]]:
    command = [sys.executable, "-m", "benchmarks.update", "--side", side, "--share", str(share)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    result: dict[str, float | list[float]] = json.loads(done.stdout.splitlines()[-1])
    return result


def _number(value: float | list[float]) -> float:
    assert not isinstance(value, list)
    return value


def _numbers(value: float | list[float]) -> list[float]:
    assert isinstance(value, list)
    return value


if __name__ == "__main__":
    main(parse_options(Args, description=__doc__))
