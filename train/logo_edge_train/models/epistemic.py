"""The epistemic head: one network predicts the disagreement of an ensemble, in nats; and its loss.

Two kinds. "dirichlet": a Dirichlet distribution over the ensemble's predictions (Malinin et al. 2020,
arXiv:1905.00076). The logits give its mean, the head its precision; the epistemic uncertainty is the mutual information
of label and prediction. "dispersion": the head predicts that figure directly.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

KINDS = ("dirichlet", "dispersion")
EVIDENCE_RANGE = (-3.0, 10.0)  # of the log precision: from no information to members that agree
SMOOTHING = 1e-3  # of the members' probabilities, since the Dirichlet likelihood takes their logarithms
FIRST = {"dirichlet": math.log(30.0), "dispersion": -4.0}  # the initial evidence


class EpistemicHead(nn.Module):
    """(B, F) features -> (B, 1) evidence. Its layer has the name of the kind, so that a checkpoint shows the kind."""

    def __init__(self, kind: str, features: int):
        super().__init__()
        self.kind = kind
        layer = nn.Linear(features, 1)
        nn.init.zeros_(layer.weight)
        nn.init.constant_(layer.bias, FIRST[kind])
        self.add_module(kind, layer)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.get_submodule(self.kind)(features)


def epistemic_nats(kind: str, logits: torch.Tensor, evidence: torch.Tensor) -> torch.Tensor:
    """(B,) 0 to log K: the epistemic uncertainty from (B, K) logits and (B, 1) evidence; as `export.add_epistemic`."""
    if kind == "dispersion":
        return math.log(logits.shape[1]) * evidence.sigmoid().squeeze(1)
    precision = evidence.clamp(*EVIDENCE_RANGE).exp()  # (B, 1)
    mean = logits.softmax(1)
    alphas = (mean * precision).clamp(min=1e-12)
    return ((mean * _excess(alphas)).sum(1) - _excess(precision).squeeze(1)).clamp(min=0)


def epistemic_loss(
    kind: str, logits: torch.Tensor, evidence: torch.Tensor, member_logits: torch.Tensor
) -> torch.Tensor:
    """The loss of the head, from (B, K) logits, (B, 1) evidence and the members' logits, (B, M, K).

    Dirichlet: the negative log-likelihood of the members' probabilities. Only the precision learns from it; the mean is
    detached, since the likelihood weights its error by the precision, up to e^10, which would dominate the distillation
    loss. Dispersion: the cross-entropy between the predicted share of log K and that of the members' mutual
    information; the conditional mean minimises it (Papke and Wooldridge 1996).
    """
    probabilities, classes = member_logits.softmax(2), logits.shape[1]
    if kind == "dispersion":
        share = mutual_information(probabilities) / math.log(classes)
        return functional.binary_cross_entropy_with_logits(evidence.squeeze(1), share)
    precision = evidence.clamp(*EVIDENCE_RANGE).exp()
    alphas = logits.detach().softmax(1) * (1 - SMOOTHING) * precision + SMOOTHING / classes * precision  # (B, K)
    smoothed = (1 - SMOOTHING) * probabilities + SMOOTHING / classes
    likelihood = precision.lgamma().squeeze(1) - alphas.lgamma().sum(1)
    likelihood = likelihood + ((alphas - 1) * smoothed.log().mean(1)).sum(1)
    return -likelihood.mean()


def mutual_information(probabilities: torch.Tensor) -> torch.Tensor:
    """(B,) nats, at least 0: of label and member, from (B, M, K) probabilities; as uncertainty.decompose."""
    return (_entropy(probabilities.mean(1)) - _entropy(probabilities).mean(1)).clamp(min=0)


def _entropy(probabilities: torch.Tensor) -> torch.Tensor:
    return -torch.special.xlogy(probabilities, probabilities).sum(-1)


def _excess(a: torch.Tensor) -> torch.Tensor:
    """digamma(a + 1) - log a; about 1 / 2a for large a, so no large terms cancel."""
    return torch.digamma(a + 1) - a.log()
