"""The order in which a fit sees its images: shuffled, balanced over the classes, easy images first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from logo_edge_train.organize.features import LogoMeasurements

REPEAT = 2**20  # epochs between the views of an image that repeats within an epoch: even, and more than any fit has
CURRICULUM_START = 0.5  # the share of each class that the first epoch learns from
DIFFICULTY = ("complexity", "n_colours", "edge_density")  # measurements of how hard an image is


class EpochOrder:
    """epoch -> (N,) positions epoch * N + index, in an order that depends on (seed, epoch) alone.

    With `classes`, (N,) integers, every K consecutive positions have one image of each of the K classes. This balances
    each batch of a multiple of K, and each rank's share of it. An epoch omits images of common classes and repeats
    images of rare ones in other views. With `difficulty`, (N,) ranks of 0 to 1 within a class, an epoch takes the
    images up to a limit that rises from CURRICULUM_START to 1 over `curriculum_epochs` (linear pacing; Hacohen and
    Weinshall 2019, arXiv:1904.03626).
    """

    def __init__(
        self,
        count: int,
        seed: int,
        *,
        classes: np.ndarray | None = None,
        difficulty: np.ndarray | None = None,
        curriculum_epochs: float = 0.0,
    ):
        self.count, self.seed, self.curriculum_epochs = count, seed, curriculum_epochs
        self.classes = np.zeros(count, int) if classes is None else classes
        self.difficulty = np.zeros(count) if difficulty is None else difficulty

    def __call__(self, epoch: int) -> np.ndarray:
        random = np.random.default_rng((self.seed, epoch))
        taught = self.difficulty <= self.limit(epoch)
        pools = [np.flatnonzero(taught & (self.classes == label)) for label in np.unique(self.classes)]
        positions = np.empty(self.count, np.int64)
        for lane, pool in enumerate(pools):
            slots = positions[lane :: len(pools)]
            rounds = [
                (epoch + again * REPEAT) * self.count + pool[random.permutation(len(pool))]
                for again in range(-(-len(slots) // len(pool)))
            ]
            slots[:] = np.concatenate(rounds)[: len(slots)]
        return positions

    def limit(self, epoch: int) -> float:
        """The greatest difficulty of the epoch's images."""
        progress = epoch / self.curriculum_epochs if epoch < self.curriculum_epochs else 1.0
        return CURRICULUM_START + (1 - CURRICULUM_START) * progress


def rank_difficulty(measurements: Sequence[LogoMeasurements], classes: np.ndarray) -> np.ndarray:
    """(N,) in 0 to 1: each image's rank within its class by the mean of its ranks in each of DIFFICULTY.

    Ranks are within the class, so that a curriculum leaves no class out.
    """
    difficulty = np.zeros(len(classes))
    for label in np.unique(classes):
        own = np.flatnonzero(classes == label)
        ranks = [rank_shares(np.array([getattr(measurements[i], name) for i in own])) for name in DIFFICULTY]
        difficulty[own] = rank_shares(np.mean(ranks, axis=0))
    return difficulty


def rank_shares(values: np.ndarray) -> np.ndarray:
    """(N,) in 0 to 1: the mean share of the other values that are smaller, equal ones counting half."""
    return (rankdata(values) - 1) / max(1, len(values) - 1)
