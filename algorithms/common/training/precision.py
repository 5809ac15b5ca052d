"""Warnings about training in low precision."""

from __future__ import annotations

from algorithms.common.model.config import PolicyConfig


def precision_warning(policy: PolicyConfig, lr: float) -> str | None:
    """A warning for float16, or for training all weights in bfloat16 at a small learning rate; else None.

    Float16 has no values between 0 and 6e-8, and a loss is divided by the tokens of its mini-batch. Bfloat16 has 8
    significant bits, so an update below 2^-9 of a weight is rounded away. AdamW changes a weight by about the learning
    rate, and weights are about 0.02: below 4e-5 most updates are lost.
    """
    if "float16" in (policy.dtype, policy.compute_dtype):
        return (
            "float16 has no values between 0 and 6e-8, and the loss is not scaled: small gradients of large batches "
            "underflow to 0; use bfloat16, or float32 on hardware without it"
        )
    if policy.dtype != "bfloat16" or policy.lora.rank or lr >= 1e-4:
        return None
    return (
        f"policy.dtype=bfloat16 with optimizer.lr={lr:g}: updates smaller than 2^-9 of a weight are rounded away, "
        "that is most; train float32 weights with policy.compute_dtype bfloat16, or adapters (policy.lora.rank 16)"
    )
