"""Rollout, on an example whose answer is known."""

from __future__ import annotations

import torch

from logo_edge_train.models.attention import attention_rollout


def test_rollout_keeps_rows_of_sum_one_and_identity_stays_identity():
    torch.manual_seed(0)
    attention = torch.rand(3, 2, 4, 5, 5)
    attention /= attention.sum(-1, keepdim=True)
    rolled, identity = attention_rollout(attention), torch.eye(5)
    assert rolled.shape == (2, 5, 5)
    assert torch.allclose(rolled.sum(-1), torch.ones(2, 5))
    assert torch.allclose(attention_rollout(identity.expand(attention.shape)), identity)
    mixed = [0.5 * layer.mean(1) + 0.5 * identity for layer in attention]
    assert torch.allclose(rolled, mixed[2] @ mixed[1] @ mixed[0])  # the first layer is applied first
