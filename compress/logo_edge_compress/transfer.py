"""What students are taught on beyond the logos: mixtures of them, and pictures made of them that are no logos.

A teacher's answer to any picture is a lesson (Beyer et al. 2022, arXiv:2106.05237), and what an ensemble disagrees on is
mostly to be learned away from the logos.
"""

from __future__ import annotations

import numpy as np
import torch

TILES = 4  # a side


def mix_views(views: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """(B, S, S, 3) views, each with another of the batch shining through. Zhang et al. 2018, arXiv:1710.09412."""
    share, order = float(random.random()), torch.from_numpy(random.permutation(len(views))).to(views.device)
    return share * views + (1 - share) * views[order]


def estrange_views(views: torch.Tensor, share: float, random: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """The views with about `share` of them made into pictures that are no logos, and which those are, (B,) bool.

    By turns a logo's tiles in another order, and its spectrum with the phases of noise, so that its colours and textures
    are left and its shapes are not. No evaluation has pictures of these kinds.
    """
    strange = torch.from_numpy(random.random(len(views)) < share).to(views.device)
    made = views.clone()
    for count, index in enumerate(strange.nonzero().flatten().tolist()):
        make = shuffle_tiles if count % 2 == 0 else scramble_phases
        made[index] = make(views[index], random)
    return made, strange


def shuffle_tiles(view: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """(S, S, 3) -> the same: TILES x TILES of it in another order; what is left over at the right and below stays."""
    side = len(view) // TILES
    made, order = view.clone(), random.permutation(TILES * TILES)
    for place, source in enumerate(order):
        (row, column), (top, left) = divmod(place, TILES), divmod(int(source), TILES)
        made[row * side : (row + 1) * side, column * side : (column + 1) * side] = view[
            top * side : (top + 1) * side, left * side : (left + 1) * side
        ]
    return made


def scramble_phases(view: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """(S, S, 3) of 0 to 255 -> the same amplitudes of every channel at the phases of one field of noise."""
    spectrum = torch.fft.fft2(view, dim=(0, 1))
    noise = torch.from_numpy(random.standard_normal(view.shape[:2]).astype(np.float32)).to(view.device)
    phases = torch.fft.fft2(noise).angle()
    phases[0, 0] = 0.0  # the mean colour is no texture
    turned = spectrum.abs() * torch.polar(torch.ones_like(phases), phases)[..., None]
    turned[0, 0] = spectrum[0, 0]
    return torch.fft.ifft2(turned, dim=(0, 1)).real.clamp(0, 255)
