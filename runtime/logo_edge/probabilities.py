"""Logits as probabilities."""

from __future__ import annotations

import numpy as np

TINY = np.finfo(float).tiny


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Class probabilities, (B, K) float64, rows sum to 1. Guo et al. 2017, arXiv:1706.04599."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=-1, keepdims=True)
    exponentials = np.exp(scaled)
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities of labels that do not exclude each other, in the shape of the logits, float64."""
    return np.exp(log_sigmoid(logits))


def log_sigmoid(logits: np.ndarray) -> np.ndarray:
    """Logarithms of `sigmoid`, without underflow."""
    return -np.logaddexp(0.0, -logits.astype(np.float64))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """(B, K) logarithms of the class probabilities, without underflow."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """(B,) entropy in nats of (B, K) probabilities."""
    return -(probabilities * np.log(np.maximum(probabilities, TINY))).sum(axis=-1)


def binary_entropy(probabilities: np.ndarray) -> np.ndarray:
    """(B,) sum of the entropies of K independent labels, in nats, of their (B, K) probabilities."""
    return entropy(probabilities) + entropy(1 - probabilities)


def log_odds(probability: np.ndarray | float) -> np.ndarray:
    """log(p / (1 - p)), finite at 0 and 1 too."""
    return np.log(np.maximum(probability, TINY)) - np.log(np.maximum(1 - np.asarray(probability), TINY))
