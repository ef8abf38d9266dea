"""Logits of a network or an ensemble on the splits of a manifest, and the metrics of these logits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from logo_edge.bundle.members import pool_logits
from logo_edge.preprocess import InputContract
from logo_edge.probabilities import binary_entropy, entropy, softmax
from logo_edge_train import distributed
from logo_edge_train.data.dataset import LogoDataset
from logo_edge_train.data.manifest import Manifest, targets_of
from logo_edge_train.metrics import (
    binary_nll,
    debiased_calibration_error,
    is_correct,
    negative_log_likelihood,
    outcomes_of,
    probabilities_of,
)
from logo_edge_train.models import attention_entropy, attention_layers
from logo_edge_train.runs import Run
from logo_edge_train.temperature import fit_temperature

ATTENTION_LOGOS = 16  # images of val for the attention entropy of each epoch


def evaluation_sets(
    manifest: Manifest,
    classes: tuple[str, ...],
    contract: InputContract,
    splits: tuple[str, ...] = ("val", "calib", "test"),
) -> dict[str, LogoDataset]:
    """The splits as the runtime sees them, without augmentation; empty splits are left out."""
    sets = {}
    for split in splits:
        if rows := manifest.split(split):
            sets[split] = LogoDataset(manifest, rows, classes, contract=contract)
    return sets


@torch.no_grad()
def predict_logits(network: nn.Module, dataset: LogoDataset, device: torch.device, batch_size: int = 32) -> np.ndarray:
    """(N, K) float32 logits of the dataset's items in order, in evaluation mode, without mixed precision.

    Each rank predicts its share and returns all logits.
    """
    network.eval()
    batches, mine = [], distributed.share(range(len(dataset)))
    for start in range(0, len(mine), batch_size):
        pixels = torch.stack([dataset[i][0] for i in mine[start : start + batch_size]])
        batches.append(network(pixels.to(device)).float().cpu().numpy())
    return np.concatenate(distributed.gather_list(batches))


def accuracy_on(dataset: LogoDataset, device: torch.device) -> Callable[[torch.nn.Module], dict]:
    """A function network -> short and confidence metrics on the dataset; for transformers, attention entropy too."""
    targets, sure = dataset.hard_targets, dataset.sure
    probed = np.unique(np.linspace(0, len(dataset) - 1, ATTENTION_LOGOS).round().astype(int))  # of all classes

    def evaluate(network: torch.nn.Module) -> dict:
        logits = predict_logits(network, dataset, device)
        figures = {**short_metrics(logits, targets, sure), **confidence_metrics(logits, targets, dataset.classes)}
        if attention_layers(network):
            pixels = torch.stack([dataset[index][0] for index in probed])
            figures["attention_entropy"] = attention_entropy(network, pixels.to(device))
        return figures

    return evaluate


def short_metrics(logits: np.ndarray, targets: np.ndarray, sure: np.ndarray) -> dict[str, float]:
    """accuracy, accuracy_sure, worst_recall (fractions of 1) and nll (nats) of (N, K) logits.

    With multi-label targets, (N, K) of 0 or 1, an image is right if exactly its labels have a logit above 0, and nll is
    the sum over the labels.
    """
    correct = is_correct(logits, targets)
    if targets.ndim == 2:
        recalls = [(logits[own, k] > 0).mean() for k, own in enumerate(targets.T.astype(bool)) if own.any()]
        nll = binary_nll(logits, targets)
    else:
        recalls = [correct[targets == k].mean() for k in np.unique(targets)]
        nll = negative_log_likelihood(softmax(logits), targets)
    return {
        "accuracy": float(correct.mean()),
        "accuracy_sure": float(correct[sure].mean()) if sure.any() else float("nan"),
        "worst_recall": float(min(recalls, default=float("nan"))),
        "nll": nll,
    }


def confidence_metrics(logits: np.ndarray, targets: np.ndarray, classes: tuple[str, ...]) -> dict:
    """Confidence and calibration of (N, K) logits at temperature 1, and the predicted share of each class.

    entropy: mean predictive entropy, nats, 0 to log K; mean_confidence: mean top probability; calibration_error: root
    mean square of the top label, bias-corrected (Kumar et al. 2019); predicted_share and true_share: {class: share}.
    With multi-label targets, (N, K) of 0 or 1: entropies are sums over the labels, the calibration error is that of all
    probabilities, and shares are those of images with the label.
    """
    probabilities = probabilities_of(logits, targets)
    predicted, true = probabilities > 0.5, targets
    if targets.ndim == 1:
        predicted, true = (np.eye(len(classes))[indices] for indices in (probabilities.argmax(1), targets))  # (N, K)
    measure = entropy if targets.ndim == 1 else binary_entropy
    return {
        "entropy": float(measure(probabilities).mean()),
        "mean_confidence": float(probabilities.max(1).mean()),
        "calibration_error": debiased_calibration_error(*outcomes_of(probabilities, targets)),
        "predicted_share": dict(zip(classes, predicted.mean(0).tolist(), strict=True)),
        "true_share": dict(zip(classes, true.mean(0).tolist(), strict=True)),
    }


def ensemble_logits(member_logits: np.ndarray, *, multi_label: bool = False) -> np.ndarray:
    """(N, K): log of the members' mean probability. member_logits: (M, N, K). Lakshminarayanan et al. 2017.

    With `multi_label`, the log-odds of the mean of their sigmoids.
    """
    if multi_label:
        return pool_logits(member_logits, np.full(len(member_logits), 1 / len(member_logits)), multi_label=True)
    return np.log(np.maximum(softmax(member_logits).mean(0), 1e-12)).astype(np.float32)


def ensemble_metrics(run: Run, manifest: Manifest, split: str) -> dict[str, float]:
    """The short metrics of the whole ensemble on one split."""
    rows = manifest.split(split)
    targets = targets_of(rows, run.classes)
    logits = ensemble_logits(run.member_logits(split), multi_label=run.multi_label)
    return short_metrics(logits, targets, np.array([row.sure for row in rows]))


def ensemble_temperature(run: Run, manifest: Manifest) -> float:
    """The temperature of the ensemble's mean probability with the least NLL on calib.

    Members are pooled first, then calibrated; a mean of calibrated members is not calibrated. Rahaman and Thiery 2021,
    arXiv:2007.08792.
    """
    return fit_temperature(
        ensemble_logits(run.member_logits("calib"), multi_label=run.multi_label),
        targets_of(manifest.split("calib"), run.classes),
    )
