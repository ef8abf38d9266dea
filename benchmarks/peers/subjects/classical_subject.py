"""OpenCV features and scikit-learn's gradient boosting."""

from __future__ import annotations

from pathlib import Path

import cv2
import joblib
import numpy as np
import sklearn
from by_hand import ByHand

SIZE = 128
CELLS, ORIENTATIONS = 8, 9


def load(labels: list[str], model: str, threads: int) -> Classical:
    cv2.setNumThreads(threads)
    return Classical(labels, Path(model))


class Classical(ByHand):
    def __init__(self, labels: list[str], path: Path):
        self.path = path
        saved = joblib.load(path)
        super().__init__(labels, saved["labels"])
        self.model = saved["model"]

    def describe(self) -> dict:
        return {
            "size_bytes": self.path.stat().st_size,
            "precision": "float64",
            "input_px": SIZE,
            "backend": f"opencv {cv2.__version__}, scikit-learn {sklearn.__version__}",
        }

    def read(self, path: str) -> np.ndarray:
        return features(path)[None]

    def classify(self, rows: np.ndarray) -> np.ndarray:
        return self.model.predict_proba(rows)


def features(path: str) -> np.ndarray:
    """(F,) float32: HOG, colour histograms, number of colours, gradients, edges, corners and shape moments."""
    image = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    if image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    aspect = image.shape[1] / image.shape[0]
    if image.shape[2] == 4:
        alpha = image[:, :, 3:].astype(np.float32) / 255
        image = (image[:, :, :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    scale = SIZE / max(image.shape[:2])
    width, height = (max(1, round(side * scale)) for side in image.shape[1::-1])
    square = np.full((SIZE, SIZE, 3), 255, np.uint8)
    top, left = (SIZE - height) // 2, (SIZE - width) // 2
    square[top : top + height, left : left + width] = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    grey, hsv = cv2.cvtColor(square, cv2.COLOR_BGR2GRAY), cv2.cvtColor(square, cv2.COLOR_BGR2HSV)
    ink = grey < 250
    colours = cv2.calcHist([hsv], [0, 1], None, [12, 4], [0, 180, 0, 256]).ravel() / square[:, :, 0].size
    coarse = (square // 32).reshape(-1, 3).astype(np.int32) @ [64, 8, 1]
    shares = np.sort(np.bincount(coarse, minlength=512))[::-1] / len(coarse)
    edges = cv2.Canny(grey, 60, 160)
    slope, angle = cv2.cartToPolar(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    slopes = np.histogram(slope, [0, 1, 4, 16, 64, 256, 2000])[0] / slope.size
    parts, _, stats, _ = cv2.connectedComponentsWithStats(ink.astype(np.uint8))
    areas = np.sort(stats[1:, cv2.CC_STAT_AREA])[::-1][:8] / ink.size
    moments = cv2.HuMoments(cv2.moments(255 - grey)).ravel()
    hu = -np.sign(moments) * np.log10(np.abs(moments) + 1e-12)
    corners = cv2.goodFeaturesToTrack(grey, 200, 0.05, 3)
    return np.concatenate(
        [
            oriented_gradients(slope, angle),
            colours,
            shares[:16],
            [(shares > 0.002).sum(), aspect, ink.mean(), edges.mean() / 255],
            slopes,
            [parts - 1, 0 if corners is None else len(corners)],
            np.pad(areas, (0, 8 - len(areas))),
            hu,
        ]
    ).astype(np.float32)


def oriented_gradients(slope: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """(CELLS * CELLS * ORIENTATIONS,) gradients by direction and cell, of length 1; one block of Dalal and Triggs 2005.

    OpenCV 5 has no HOG of its own any more.
    """
    side = slope.shape[0] // CELLS
    cell = np.arange(slope.shape[0]) // side
    direction = (angle % np.pi * (ORIENTATIONS / np.pi)).astype(int) % ORIENTATIONS
    bin_index = (cell[:, None] * CELLS + cell[None]) * ORIENTATIONS + direction
    sums = np.bincount(bin_index.ravel(), slope.ravel(), CELLS * CELLS * ORIENTATIONS)
    return sums / (np.linalg.norm(sums) + 1e-6)
