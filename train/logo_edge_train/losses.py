"""The losses of a teacher: cross-entropy or focal loss on soft labels, and the optional terms of a recipe."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from logo_edge_train import distributed
from logo_edge_train.data.augment import Intensity
from logo_edge_train.fit_config import TeacherFit
from logo_edge_train.optim import is_perturbed

NOISE_SAMPLES = 16  # draws of the logits if their variance is learned
RECALL_MOMENTUM = 0.98  # per step: averages over about 50 steps
WEIGHT_FLOOR = 0.25  # added to 1 - recall: the ratio of two class weights is at most 5
LEAST_COMPLEMENT = 1e-6  # of 1 - p, whose power has no gradient at 0


class SupervisedObjective(nn.Module):
    """(network, *items of a LogoDataset) -> the losses by name, each a mean over the batch.

    | loss | definition |
    | --- | --- |
    | cross_entropy | on smoothed soft labels, weighted per image; with `aleatoric` on logits with learned variance |
    | focal | replaces it if `focal_gamma` > 0: Lin et al. 2017, arXiv:1708.02002, summed over soft labels |
    | confident_errors | (log K - entropy) of a prediction, times the label share of the other classes |
    | prior | cross-entropy of the logo-type prior |
    | prior_consistency | KL divergence of the prediction from the prior, without gradient to the prior |
    | binary_cross_entropy | the only one with `multi_label`: summed over the labels, smoothed towards 1 / 2 |

    With `adaptive_focal`, a class with running recall r has the gamma (2 - r) x `focal_gamma` (after Li et al. 2022,
    arXiv:2201.02593) and the weight 1 - r + WEIGHT_FLOOR, scaled so that the mean weight of the images seen is 1 (Tian
    et al. 2021, arXiv:2106.14917). `confident_errors` is Maximum Entropy on Erroneous Predictions (Larrazabal et al.
    2023, arXiv:2112.12218): the penalty of Pereyra et al. 2017, arXiv:1701.06548, on errors only. With votes, a
    prediction is an error to the extent that votes differ from it.

    The running recalls and the `intensity` change only in `end_step` and `end_epoch`, so that all parts of a batch, on
    all ranks, have the same loss. Its buffers are part of the state of a fit.
    """

    def __init__(
        self,
        config: TeacherFit,
        classes: Sequence[str] = (),
        intensity: Intensity | None = None,
        *,
        multi_label: bool = False,
    ):
        super().__init__()
        self.config, self.classes, self.intensity, self.multi_label = config, tuple(classes), intensity, multi_label
        if config.adaptive_focal:
            self.register_buffer("seen", torch.zeros(len(classes), dtype=torch.float64))  # running label mass by class
            self.register_buffer(
                "hit", torch.zeros(len(classes), dtype=torch.float64)
            )  # the part of it that is predicted correctly
        self._predictions: list[tuple[torch.Tensor, ...]] = []  # of this step, by part of the batch

    def forward(
        self,
        network: nn.Module,
        pixels: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        positions: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        config = self.config
        if self.multi_label:
            smoothed = targets * (1 - config.label_smoothing) + config.label_smoothing / 2
            losses = binary_cross_entropy(network(pixels).float(), smoothed)
            return {"binary_cross_entropy": (losses * weights).mean()}
        smoothed = targets * (1 - config.label_smoothing) + config.label_smoothing / targets.shape[1]  # (B, K or K + 1)
        prediction = network(pixels, whole=True) if config.aleatoric or config.prior_consistency else None
        if config.aleatoric:
            log_probabilities = noisy_log_softmax(prediction.logits.float(), prediction.log_variance.float())
        else:
            logits = prediction.logits if prediction else network(pixels)
            log_probabilities = match_width(logits.float(), targets).log_softmax(1)
        if config.focal_gamma:
            gammas, class_weights = (part.to(log_probabilities) for part in self.focus(targets.shape[1]))
            complement = (-log_probabilities.expm1()).clamp(min=LEAST_COMPLEMENT)  # (B, K), 1 - p
            modulated = class_weights * complement.pow(gammas) * log_probabilities
            losses = {"focal": -((smoothed * modulated).sum(1) * weights).mean()}
        else:
            losses = {"cross_entropy": -((smoothed * log_probabilities).sum(1) * weights).mean()}
        if config.confident_errors:
            losses["confident_errors"] = config.confident_errors * penalise_errors(log_probabilities, targets).mean()
        if config.prior_consistency:
            log_prior = prediction.prior_logits.float().log_softmax(1)
            fixed = log_prior.detach()
            divergence = (fixed.exp() * (fixed - log_probabilities)).sum(1)
            losses["prior"] = -config.prior_consistency * ((smoothed * log_prior).sum(1) * weights).mean()
            losses["prior_consistency"] = config.prior_consistency * divergence.mean()
        if not is_perturbed() and (config.adaptive_focal or self.intensity):
            self._predictions.append((targets, log_probabilities.detach(), positions))
        return losses

    def focus(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The current (K,) gammas and (K,) class weights of the focal loss."""
        gamma = self.config.focal_gamma
        if not self.config.adaptive_focal:
            return torch.full((count,), gamma), torch.ones(count)
        missed = 1 - self.recalls()
        weights = missed + WEIGHT_FLOOR
        shares = self.seen / self.seen.sum() if self.seen.sum() else torch.full_like(weights, 1 / count)
        return gamma * (1 + missed), weights / (shares * weights).sum()

    def recalls(self) -> torch.Tensor:
        """(K,) float64: the running recall of each class; 0 for a class not seen yet."""
        return self.hit / self.seen.clamp(min=1e-12)

    @torch.no_grad()
    def end_step(self) -> None:
        """Updates the recalls and the intensity from the batches of this step, on all ranks."""
        if not self._predictions:
            return
        targets, log_probabilities, positions = (torch.cat(parts) for parts in zip(*self._predictions, strict=True))
        self._predictions = []
        if self.config.adaptive_focal:
            predicted = nn.functional.one_hot(log_probabilities.argmax(1), targets.shape[1])
            mass = torch.stack([targets.double().sum(0), (targets * predicted).double().sum(0)])  # (2, K)
            seen, hit = distributed.gather(mass[None]).sum(0).cpu()
            self.seen.lerp_(seen, 1 - RECALL_MOMENTUM)
            self.hit.lerp_(hit, 1 - RECALL_MOMENTUM)
        if self.intensity:
            losses = -(targets * log_probabilities).sum(1)
            self.intensity.record(distributed.gather(positions).cpu(), distributed.gather(losses).cpu())

    def end_epoch(self, epoch: int) -> dict:
        """Updates the intensity at the end of an epoch (from 0); returns figures for the epoch's record."""
        figures = self.intensity.end_epoch(epoch) if self.intensity else {}
        if self.config.adaptive_focal:
            figures["running_recall"] = dict(zip(self.classes, self.recalls().tolist(), strict=True))
        return figures


def binary_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(B,) nats: the cross-entropies of (B, K) independent labels, summed; targets are 0 to 1."""
    return nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(1)


def match_width(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The (..., K) logits; followed by a 0 if the targets, (..., K + 1), have the class of pictures that are not logos.

    log sum exp(logits) is then the log-odds that a picture is a logo. Outlier exposure (Hendrycks et al. 2019,
    arXiv:1812.04606), with an extra class instead of uniform targets.
    """
    if targets.shape[-1] == logits.shape[-1]:
        return logits
    return torch.cat([logits, logits.new_zeros(*logits.shape[:-1], 1)], -1)


def supervised_objective(label_smoothing: float, *, aleatoric: bool = False) -> SupervisedObjective:
    """Cross-entropy on smoothed soft labels, without further terms."""
    return SupervisedObjective(TeacherFit(label_smoothing=label_smoothing, aleatoric=aleatoric))


def penalise_errors(log_probabilities: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(B,) nats, at least 0: (log K - entropy) times the label share of the classes that are not predicted."""
    wrong = 1 - targets.gather(1, log_probabilities.argmax(1, keepdim=True)).squeeze(1)  # (B,)
    missing = math.log(log_probabilities.shape[1]) + (log_probabilities.exp() * log_probabilities).sum(1)
    return wrong * missing


def noisy_log_softmax(logits: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """(B, K): log of the mean softmax over NOISE_SAMPLES draws of Gaussian logits; mean and log variance are (B, K).

    Kendall and Gal 2017, arXiv:1703.04977, equation 12.
    """
    noise = torch.randn(NOISE_SAMPLES, *logits.shape, device=logits.device) * (log_variance / 2).exp()  # (T, B, K)
    return (logits + noise).log_softmax(2).logsumexp(0) - math.log(NOISE_SAMPLES)
