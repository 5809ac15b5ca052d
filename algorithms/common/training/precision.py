"""What training in low precision loses."""

from __future__ import annotations

from algorithms.common.model.pretrained import PolicyConfig


def precision_warning(policy: PolicyConfig, lr: float) -> str | None:
    """What goes wrong in float16, or when all weights are trained in bfloat16 by small steps; None if nothing does.

    Float16 has nothing between 0 and 6e-8, and a loss is divided by the tokens of its mini-batch. A bfloat16 has 8
    significant bits, so what changes it by less than 2^-9 of itself is rounded away. AdamW changes a weight by about
    the learning rate, and weights are about 0.02: below 4e-5 most updates are lost.
    """
    if "float16" in (policy.dtype, policy.compute_dtype):
        return (
            "float16 has nothing between 0 and 6e-8, and the loss is not scaled: gradients of large batches lose their "
            "small parts; take bfloat16, or float32 where there is none"
        )
    if policy.dtype != "bfloat16" or policy.lora.rank or lr >= 1e-4:
        return None
    return (
        f"policy.dtype=bfloat16 with optimizer.lr={lr:g}: updates smaller than 2^-9 of a weight are rounded away, and "
        "most will be; train float32 weights with policy.compute_dtype bfloat16, or adapters (policy.lora.rank 16)"
    )
