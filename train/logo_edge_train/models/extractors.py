"""Fixed, differentiable statistics of a logo's pixels: ink, colours, lettering and contours.

Inputs: colours (B, 3, S, S) and ink (B, 1, S, S), both 0 to 1; S is a multiple of 16. The number of statistics does not
depend on S; lengths are relative to S.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from itertools import pairwise

import torch
from torch.nn import functional

INK_CONTRAST = 24 / 255  # a pixel with a larger distance to the background, in any channel, is ink
PEAK_CONTRAST = 0.05  # lower limit of a logo's strongest contrast, so that noise on a blank is not amplified
ALIKE = 0.08  # colours closer than this (root mean square over R, G, B) look the same
STRIPS = 16
LAGS = (2, 3, 4, 6, 8, 12, 16, 24)  # limits of seven bands, in 64ths of S
DIRECTIONS = 8
FLATTEST = 1e-3  # added to slopes; not smaller, since ONNX optimizers replace values near 0 by 0
TINY = 1e-6


def soft_ink(colours: torch.Tensor) -> torch.Tensor:
    """(B, 1, S, S): 0 on the background, 0.5 at INK_CONTRAST, 1 from 1.5 x INK_CONTRAST."""
    return (contrast(colours) / INK_CONTRAST - 0.5).clamp(0, 1)


def find_ink(pixels: torch.Tensor) -> torch.Tensor:
    """(B, S, S) bool: the pixels of (B, S, S, 3) uint8 that are ink."""
    return soft_ink(pixels.permute(0, 3, 1, 2) / 255)[:, 0] > 0.5


def contrast(colours: torch.Tensor) -> torch.Tensor:
    """(B, 1, S, S): the distance to the background: the mean of the middle two values of the four corners."""
    corners = colours[:, :, :: colours.shape[2] - 1, :: colours.shape[3] - 1].flatten(2)  # (B, 3, 4)
    background = (corners.sum(2) - corners.amax(2) - corners.amin(2)) / 2
    return (colours - background[:, :, None, None]).abs().amax(1, keepdim=True)


def measure_colour(colours: torch.Tensor, ink: torch.Tensor) -> torch.Tensor:
    """(B, 20): the share of ink, the number and frequency of colours, the share of fading ink by steepness."""
    size = colours.shape[-1]
    fades = [measure_ramps(colours, ink, step) for step in (max(1, size // 64), max(1, size // 24))]
    return torch.cat([ink.mean((1, 2, 3))[:, None], count_colours(colours, ink), *fades], 1)


def count_colours(colours: torch.Tensor, ink: torch.Tensor) -> torch.Tensor:
    """(B, 7): the log of the effective number of colours, then a histogram of the ink by the frequency of its colour.

    Taken from flat positions on a grid of about 16 x 16. The first bin is ink whose colour covers nearly all of it;
    each next bin is half as frequent. The number of colours is the diversity of order 1 with similarities between
    colours: Leinster and Cobbold 2012, doi:10.1890/10-2402.1.
    """
    flat = 1 - (local_variation(colours) / 0.1).clamp(max=1)  # edges have mixed colours
    step = max(1, colours.shape[-1] // 16)
    sampled = colours[:, :, step // 2 :: step, step // 2 :: step].flatten(2)  # (B, 3, n)
    weight = (ink * (flat + 0.05))[:, :, step // 2 :: step, step // 2 :: step].flatten(1)  # (B, n)
    weight = weight / (weight.sum(1, keepdim=True) + TINY)
    squared = sum((plane[:, :, None] - plane[:, None]).square() for plane in sampled.unbind(1)) / 3  # (B, n, n)
    common = (
        ((-squared / ALIKE**2).exp() * weight[:, None]).sum(2).clamp(min=1e-3)
    )  # (B, n), the share of ink in similar colours
    return torch.cat([-(weight * common.log()).sum(1, keepdim=True), soft_histogram(-common.log2(), weight, 6)], 1)


def measure_ramps(colours: torch.Tensor, ink: torch.Tensor, step: int) -> torch.Tensor:
    """(B, 6): the share of ink with flat colour, then of fading ink by steepness; each bin is about twice as steep.

    A position fades if a channel rises, or falls, along x or y over four consecutive steps of `step` px, all on ink, by
    at least 0.5 of 255 each (then 1.5, 3.5, 7.5, 15.5). Edges, lines and noise do not fade in this sense.
    """
    reach = 2 * step
    size = colours.shape[-1] - 2 * reach
    both = torch.cat([colours, ink], 1)
    rises, insides = [], []
    for axis in (2, 3):
        lines = both.narrow(5 - axis, reach, size)
        points = [lines.narrow(axis, offset * step, size)[:, :, ::2, ::2] for offset in range(5)]  # (B, 4, s, s) each
        steps = [after[:, :3] - before[:, :3] for before, after in pairwise(points)]
        least, most = reduce(torch.minimum, steps), reduce(torch.maximum, steps)
        insides.append(reduce(torch.minimum, [point[:, 3] for point in points]))  # (B, s, s)
        rises.append((least.relu() + (-most).relu()).amax(1) * insides[-1])
    rise, inside = torch.maximum(*rises).flatten(1), torch.maximum(*insides).flatten(1)
    shares = soft_histogram((255 * rise + 0.5).log2() + 1, inside, 6)
    return shares / (ink.sum((1, 2, 3))[:, None] / 4 + 1)  # every second position of every second line is used


def measure_text(colours: torch.Tensor, ink: torch.Tensor) -> torch.Tensor:
    """(B, 65): the strokes across rows and columns, the orientation of edges, and their regularity."""
    peak = contrast(colours).amax((1, 2, 3)).clamp(min=PEAK_CONTRAST)[:, None, None]
    right, down, falling, rising = (edges / peak for edges in oriented_edges(colours))  # (B, S, S) each
    strokes = torch.cat([count_strokes(right), count_strokes(down.transpose(1, 2))], 1)
    energies = torch.stack([edges.sum((1, 2)) for edges in (right, down, falling, rising)], 1)  # (B, 4)
    total = energies.sum(1, keepdim=True)
    density = (total / (ink.sum((1, 2, 3))[:, None] + 1)).log1p()
    regular = torch.cat([measure_regularity(right), measure_regularity(down.transpose(1, 2))], 1)
    return torch.cat([strokes, energies / (total + TINY), density, regular], 1)


def count_strokes(edges: torch.Tensor) -> torch.Tensor:
    """(B, 16): the log of the number of edges along a line, by strip of lines, sorted from most to least."""
    crossed = functional.avg_pool1d(edges.sum(2), edges.shape[1] // STRIPS)  # (B, 16)
    return crossed.log1p().sort(1, descending=True).values


def measure_regularity(edges: torch.Tensor) -> torch.Tensor:
    """(B, 14): the highest, then the lowest autocorrelation of the edges along the lines in each band of lags, -1 to 1.

    Taken from eight strips of lines, weighted by their variance.
    """
    size = edges.shape[2]
    profile = functional.avg_pool2d(edges, (size * 2 // STRIPS, 1))  # (B, 8, S)
    correlation = autocorrelation(profile - profile.mean(2, keepdim=True)).sum(1)  # (B, S)
    correlation = correlation / (correlation[:, :1] + TINY)
    first = [max(1, size * lag // 64) for lag in LAGS]
    bands = [correlation[:, start : max(start + 1, stop)] for start, stop in pairwise(first)]
    return torch.stack([band.amax(1) for band in bands] + [band.amin(1) for band in bands], 1)


def autocorrelation(values: torch.Tensor) -> torch.Tensor:
    """(..., n) of (..., n): the sum of x[i] x[i + k] for every lag k from 0 to n - 1.

    The transform of the power spectrum, as products with cosines and sines, since ONNX has no complex numbers.
    """
    count = values.shape[-1]
    positions = torch.arange(count, device=values.device)
    angles = (math.pi / count) * positions[:, None] * torch.arange(count + 1, device=values.device)  # (n, n + 1)
    power = (values @ angles.cos()).square() + (values @ angles.sin()).square()  # (..., n + 1)
    doubled = torch.ones_like(angles[0]) * 2  # frequencies other than the first and the last count twice
    doubled[0] = doubled[-1] = 1
    return (power * doubled) @ angles.cos().T / (2 * count)


def measure_shape(colours: torch.Tensor, ink: torch.Tensor) -> torch.Tensor:
    """(B, 28): directions and curvature of the contour, detail at four scales, symmetry, area and compactness."""
    silhouette = functional.avg_pool2d(ink, 2)[:, 0]  # (B, s, s)
    size = silhouette.shape[-1]
    smooth = functional.avg_pool2d(silhouette, 5, stride=1, padding=2)  # so that pixel steps are not corners
    across, along = central_differences(smooth)  # (B, s - 2, s - 2) each
    slope = (across.square() + along.square() + FLATTEST**2).sqrt()
    contour = slope - FLATTEST  # (B, s - 2, s - 2), the contour length at each position
    perimeter = contour.sum((1, 2))[:, None]
    angles = [2 * math.pi * k / DIRECTIONS for k in range(DIRECTIONS)]
    facing = [((across * math.cos(a) + along * math.sin(a)).relu() / slope).pow(8) for a in angles]
    directions = torch.stack([(share * contour).sum((1, 2)) for share in facing], 1)
    bend = central_differences(across / slope)[0] + central_differences(along / slope)[1]  # 1 / radius, of s px
    inner = contour[:, 1:-1, 1:-1].flatten(1)
    bends = soft_histogram((bend.abs() * size + 1).log2().flatten(1), inner, 7) / (inner.sum(1, keepdim=True) + TINY)
    scales = [functional.avg_pool2d(colours, scale) for scale in (1, 2, 4, 8)]
    detail = torch.stack([local_variation(scaled).mean((1, 2, 3)) * scaled.shape[-1] for scaled in scales], 1).log1p()
    small = functional.avg_pool2d(silhouette, size // 8)  # (B, 8, 8)
    alike = [(small * image).sum((1, 2)) for image in mirror_images(small)]
    symmetry = torch.stack(alike, 1) / (small.square().sum((1, 2))[:, None] + TINY)
    area = silhouette.sum((1, 2))[:, None]
    compactness = (perimeter.square() / (4 * math.pi * area + 1)).log1p()
    return torch.cat([directions / (perimeter + TINY), bends, detail, symmetry, area / size**2, compactness], 1)


def mirror_images(squares: torch.Tensor) -> list[torch.Tensor]:
    """The seven other symmetry images of (..., s, s): mirrored and turned about the centre.

    Left-right, up-down, both diagonals, then turned by one, two and three quarters.
    """
    turned = [squares.rot90(quarters, (-2, -1)) for quarters in (1, 2, 3)]
    diagonal = squares.transpose(-2, -1)
    return [squares.flip(-1), squares.flip(-2), diagonal, diagonal.flip(-2, -1), *turned]


def oriented_edges(colours: torch.Tensor) -> list[torch.Tensor]:
    """Four (B, S, S): the change of colour to the right, down, and along both diagonals; 0 at the far ends."""
    here, right = colours[:, :, :-1, :-1], colours[:, :, :-1, 1:]
    below, beyond = colours[:, :, 1:, :-1], colours[:, :, 1:, 1:]
    pairs = ((right, here, 1), (below, here, 1), (beyond, here, math.sqrt(2)), (right, below, math.sqrt(2)))
    return [functional.pad((one - other).abs().amax(1) / length, (0, 1, 0, 1)) for one, other, length in pairs]


def local_variation(colours: torch.Tensor) -> torch.Tensor:
    """(B, 1, S, S): the largest change of a channel to the right or down; 0 beyond the last row and column."""
    right = functional.pad((colours[..., 1:] - colours[..., :-1]).abs(), (0, 1))
    down = functional.pad((colours[..., 1:, :] - colours[..., :-1, :]).abs(), (0, 0, 0, 1))
    return torch.maximum(right, down).amax(1, keepdim=True)


def central_differences(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two (B, s - 2, s - 2) of (B, s, s): half the change from left to right, and from top to bottom."""
    across = (values[:, 1:-1, 2:] - values[:, 1:-1, :-2]) / 2
    return across, (values[:, 2:, 1:-1] - values[:, :-2, 1:-1]) / 2


def soft_histogram(positions: torch.Tensor, weights: torch.Tensor, bins: int) -> torch.Tensor:
    """(B, bins): the sum of weights by position, both (B, n); a position between two bin centres is split."""
    positions = positions.clamp(0, bins - 1)
    return torch.stack([((1 - (positions - k).abs()).relu() * weights).sum(1) for k in range(bins)], 1)


Measure = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (colours, ink) -> (B, number of statistics)
MEASURES: tuple[Measure, ...] = (measure_colour, measure_text, measure_shape)


def count_statistics(measure: Measure) -> int:
    """How many statistics the measure gives."""
    return measure(torch.zeros(1, 3, 64, 64), torch.zeros(1, 1, 64, 64)).shape[1]
