"""The training of `examples/make_bundled_policy.py`: the mean loss over weighted tokens, whatever the padding."""

from __future__ import annotations

import torch
from models import tiny_policy

from algorithms.common.model.policy import PolicyModule
from algorithms.common.training.supervised import weighted_cross_entropy
from examples.make_bundled_policy import padded

BATCH = [
    ([5, 9, 7, 20, 21], [0.5, 0.5, 1.0, 1.0, 0.0]),
    ([6, 8], [1.0, 1.0]),
    ([7, 30, 31], [0.0, 0.0, 0.5]),
]


@torch.no_grad()
def test_the_loss_is_the_mean_over_the_weights_of_tokens_that_something_predicts() -> None:
    policy = tiny_policy()
    ids_BT, weights_BT = padded(BATCH, pad=0)
    assert ids_BT.shape == weights_BT.shape == (3, 5)
    assert ids_BT[1, 2:].tolist() == [0, 0, 0]
    loss, losses = weighted_cross_entropy(PolicyModule(policy), ids_BT, weights_BT / weights_BT.sum())
    total, weight, written = 0.0, 0.0, []
    for ids, weights in BATCH:
        logprobs = policy.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        for place in range(1, len(ids)):
            total -= weights[place] * float(logprobs[place - 1, ids[place]])
            weight += weights[place]
            if weights[place] == 1.0:
                written.append(-float(logprobs[place - 1, ids[place]]))
    torch.testing.assert_close(float(loss), total / weight, rtol=1e-5, atol=0)
    found = losses[weights_BT[weights_BT != 0] == 1.0]
    torch.testing.assert_close(found, torch.tensor(written))
