"""Measures fades and edges of a logo: the share and range of slow changes, and the sharpness (OpenCV).

Images are shrunk to LONGEST_PX, never enlarged: an upscaled picture fades everywhere.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from logo_edge.images.load import load_image
from logo_edge_train.organize.features import lay_out

LONGEST_PX = 336
REACHES_PX = (4, 16)  # distances over which a fade is measured
SLOPES = (2, 4, 8, 16, 32)  # levels over a reach: edges of the bins
LARGEST_BEND = 1  # levels between the middle and the mean of both ends; anti-aliased edges bend more
RIM_PX = 7  # side of the square that the inner part is eroded by
SHARPNESS = (0.5, 0.75, 0.9, 0.97)  # quantiles of the Laplacian
EDGES = (8, 32, 96)  # levels of the Laplacian that count as an edge


def measure_fades(path: Path) -> np.ndarray:
    """(F,) float32 fade and edge measures of an image file, shares as square roots. Raises ImageError.

    For the ink and for its inner part: by reach, the share that fades, by SLOPES, the share and the tonal range of the
    largest fading region, and the range of all; quantiles and shares of the Laplacian.
    """
    image = load_image(path)
    pixels, ink = lay_out(image, min(max(image.size), LONGEST_PX))
    levels = cv2.GaussianBlur(pixels, (3, 3), 0)
    edge = _largest_channel(cv2.convertScaleAbs(cv2.Laplacian(pixels, cv2.CV_16S, ksize=1)))
    inner = cv2.erode(ink.astype(np.uint8), np.ones((RIM_PX, RIM_PX), np.uint8), borderValue=0) > 0
    slopes = [_smooth_slope(levels, edge, reach_px) for reach_px in REACHES_PX]
    measures: list[float] = []
    for region in (ink, inner):
        count = max(int(region.sum()), 1)
        for slope in slopes:
            by_level = np.bincount(slope[region], minlength=256)
            counts = np.add.reduceat(by_level, SLOPES)
            fading = region & (slope >= SLOPES[0]) & (slope < SLOPES[-1])
            measures += [*np.sqrt(counts / count), *_describe_regions(levels, fading, count)]
        reached = np.cumsum(np.bincount(edge[region], minlength=256)) / count
        measures += [*np.log1p(np.searchsorted(reached, SHARPNESS))]
        measures += [*np.sqrt(np.maximum(reached[-1] - reached[list(EDGES)], 0))]
    return np.array([*measures, np.log(max(image.size))], np.float32)


def _smooth_slope(levels: np.ndarray, edge: np.ndarray, reach_px: int) -> np.ndarray:
    """(H, W) change in levels over the reach, along the steeper axis; 0 where the change is not smooth."""
    half, steepest = reach_px // 2, np.zeros(edge.shape, np.uint8)
    padded = cv2.copyMakeBorder(levels, half, half, half, half, cv2.BORDER_REPLICATE)
    hard = (edge > EDGES[0]).astype(np.uint8)
    near, core, far = slice(0, -reach_px), slice(half, -half), slice(reach_px, None)
    for line, before, after in (
        ((reach_px + 1, 1), (near, core), (far, core)),
        ((1, reach_px + 1), (core, near), (core, far)),
    ):
        low, high = padded[before], padded[after]
        bend = _largest_channel(cv2.absdiff(cv2.addWeighted(low, 0.5, high, 0.5, 0), levels))
        smooth = (bend <= LARGEST_BEND) & (cv2.dilate(hard, np.ones(line, np.uint8)) == 0)
        steepest = np.maximum(steepest, _largest_channel(cv2.absdiff(low, high)) * smooth)
    return steepest


def _largest_channel(pixels: np.ndarray) -> np.ndarray:
    red, green, blue = cv2.split(pixels)
    return cv2.max(cv2.max(red, green), blue)


def _describe_regions(levels: np.ndarray, fading: np.ndarray, count: int) -> list[float]:
    """The largest fading region's share of `count` pixels, its tonal range and that of all, 0 to 1."""
    opened = cv2.morphologyEx(fading.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    regions, labels, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=8)
    if regions == 1:
        return [0.0, 0.0, 0.0]
    largest = int(stats[1:, cv2.CC_STAT_AREA].argmax()) + 1
    ranges = [_tonal_range(levels, mask) for mask in ((labels == largest).astype(np.uint8), opened)]
    return [float(np.sqrt(stats[largest, cv2.CC_STAT_AREA] / count)), *ranges]


def _tonal_range(levels: np.ndarray, mask: np.ndarray) -> float:
    """From the 5th to the 95th percentile of the channel where that is widest, 0 to 1."""
    counts = [cv2.calcHist([levels], [channel], mask, [256], [0, 256]).ravel().cumsum() for channel in range(3)]
    return max(int(np.subtract(*np.searchsorted(reached / reached[-1], (0.95, 0.05)))) for reached in counts) / 255
