"""An ensemble in one bundle: several models see the same image and give one prediction and their disagreement."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from logo_edge.backends.base import Backend
from logo_edge.bundle.record import EPISTEMIC, MemberEntry
from logo_edge.decision import logo_score
from logo_edge.probabilities import binary_entropy, entropy, log_odds, sigmoid, softmax


class Ensemble:
    """The members of a bundle as one Backend; its output `epistemic` is their disagreement."""

    def __init__(
        self,
        members: Sequence[MemberEntry],
        backends: Sequence[Backend],
        output_name: str,
        *,
        multi_label: bool = False,
    ):
        self.members, self.backends, self.output_name, self.multi_label = members, backends, output_name, multi_label
        self.outputs = frozenset((output_name, EPISTEMIC))
        self.survives_fork = all(backend.survives_fork for backend in backends)
        self.weights = np.array([member.weight for member in members])

    def run(self, pixels: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        by_size: dict[int, np.ndarray] = {}
        for member in self.members:
            if member.size_px not in by_size:
                by_size[member.size_px] = reduce_pixels(pixels, member.size_px)
        logits = np.stack(
            [
                backend.run(by_size[member.size_px], [self.output_name])[0]
                for member, backend in zip(self.members, self.backends, strict=True)
            ]
        )
        outputs = {self.output_name: pool_logits(logits, self.weights, multi_label=self.multi_label)}
        if EPISTEMIC in names:
            outputs[EPISTEMIC] = mutual_information(logits, self.weights, multi_label=self.multi_label)
        return [outputs[name] for name in names]


def reduce_pixels(pixels: np.ndarray, size_px: int) -> np.ndarray:
    """(B, S, S, C) uint8 -> (B, size_px, size_px, C) by Pillow's antialiased bilinear filter; `pixels` itself at S."""
    if pixels.shape[1] == size_px:
        return pixels
    planes = pixels.transpose(0, 3, 1, 2).reshape(-1, *pixels.shape[1:3])  # (B C, S, S): Pillow has no 7 channels
    size = (size_px, size_px)
    reduced = np.stack([np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR)) for plane in planes])
    return np.ascontiguousarray(reduced.reshape(len(pixels), -1, *size).transpose(0, 2, 3, 1))


def pool_logits(logits: np.ndarray, weights: np.ndarray, *, multi_label: bool = False) -> np.ndarray:
    """(B, K) float32 logits of the ensemble: softmax and logo score are the weighted means of the members'.

    logits: (M, B, K); weights: (M,), summing to 1. Lakshminarayanan et al. 2017, arXiv:1612.01474. The temperature is
    fitted to the pooled logits, not to the members: Rahaman and Thiery 2021, arXiv:2007.08792. With `multi_label`,
    their sigmoid is the mean of the members'.
    """
    if multi_label:
        return log_odds(np.tensordot(weights, sigmoid(logits), 1).clip(1e-12, 1 - 1e-12)).astype(np.float32)
    mean = np.tensordot(weights, softmax(logits), 1)  # (B, K)
    scores = weights @ logo_score(logits)  # (B,); a constant of each row changes no probability
    return (np.log(np.maximum(mean, 1e-12)) + scores[:, None]).astype(np.float32)


def mutual_information(logits: np.ndarray, weights: np.ndarray, *, multi_label: bool = False) -> np.ndarray:
    """(B,) float32 nats, 0 to log K: the entropy of the members' mean probabilities less their mean entropy.

    The probabilities are those before temperature. Depeweg et al. 2018, arXiv:1710.07283. With `multi_label` it is the
    sum over the labels, 0 to K log 2.
    """
    probabilities, measure = (sigmoid(logits), binary_entropy) if multi_label else (softmax(logits), entropy)
    mean = np.tensordot(weights, probabilities, 1)  # (B, K)
    information = measure(mean) - weights @ measure(probabilities)
    return np.maximum(information, 0.0).astype(np.float32)  # rounding may leave -1e-17
