"""Few-shot tasks: which logos are learned from, chosen by and reported on, and the episodes that are drawn from them.

| task | classes | support | queries |
| --- | --- | --- | --- |
| `brands` | groups with drawings in two packages or more | views of one package's drawing | other packages' drawings |
| `types` | all labels, within one package | logos | logos of other groups |

An episode is the task of Vinyals et al. 2016, arXiv:1606.04080: `ways` classes, `shots` of each to learn from.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from logo_edge.errors import DatasetError
from logo_edge.likeness.parts import split_drawing
from logo_edge.preprocess import InputContract, preprocess
from logo_edge_train.data.augment import LogoAugmentation
from logo_edge_train.data.images import KEPT_SCALE, map_images, shrink
from logo_edge_train.data.lookalikes import leave_out
from logo_edge_train.data.manifest import LogoRow, Manifest
from logo_edge_train.data.pool import pool_rows
from logo_edge_train.recipe import Architecture, FewShotConfig

PARTS = 3  # of a drawing: the whole, and what lies before and behind its widest gap
VIEWS = tuple((part, grey) for grey in (False, True) for part in range(PARTS))  # in the order in which shots take them
LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
SPLIT_PX = 1024  # longer side at which a larger drawing's gaps are looked for


def task_rows(manifest: Manifest, config: FewShotConfig, split: str) -> list[LogoRow]:
    """The rows of the task to learn from (`train`), to choose by (`val`) or to report on (`test`).

    They are those of the splits of these names; for brands the unlabelled pool is learned from too, an unlabelled drawing
    being of the brand whose name it has. No look-alike of a held-out logo is learned from. Types are reported on the
    held-out package, learned and chosen on all others.
    """
    if config.task == "brands":
        return pool_rows(manifest, use_unlabelled=True, max_images=0) if split == "train" else manifest.split(split)
    rows = [row for row in manifest.split(split) if (row.package == config.held_out_package) == (split == "test")]
    left_out, _ = leave_out(manifest, rows) if split == "train" else (set(), set())
    return [row for row in rows if row not in left_out]


def check_disjoint(rows: dict[str, list[LogoRow]]) -> None:
    """Raises DatasetError where a group stands in two of the splits."""
    groups = {split: {row.group for row in found} for split, found in rows.items()}
    for one, other in combinations(groups, 2):
        if shared := groups[one] & groups[other]:
            names = ", ".join(sorted(shared)[:5])
            raise DatasetError(f"groups that stand in {one} and in {other}: {names}; expected each group in one split")


@dataclass(frozen=True)
class Episode:
    """Rows of an episode, by their index: (N, K) of the support, (N, Q) of the queries; `classes` are the names of N."""

    classes: tuple[str, ...]
    support: np.ndarray
    queries: np.ndarray


class BrandTasks:
    """Draws episodes of brands among the rows: all shots are views of one drawing, queries are other packages' drawings.

    Raises DatasetError where fewer than `ways` groups have drawings in two packages.
    """

    def __init__(self, rows: list[LogoRow], config: FewShotConfig):
        self.config = config
        members: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for index, row in enumerate(rows):
            members[row.group][row.package].append(index)
        self.members = {group: dict(found) for group, found in sorted(members.items()) if len(found) > 1}
        if len(self.members) < config.ways:
            raise DatasetError(
                f"{len(self.members)} groups have drawings in two packages; expected at least few_shot.ways, {config.ways}"
            )
        self.ways = config.ways
        self.rows = sorted(index for found in self.members.values() for part in found.values() for index in part)
        self.views = len(VIEWS)

    def draw(self, random: np.random.Generator) -> Episode:
        groups = list(self.members)
        chosen = tuple(groups[index] for index in random.choice(len(groups), self.ways, replace=False))
        support, queries = [], []
        for group in chosen:
            packages = self.members[group]
            shown = list(packages)[random.integers(len(packages))]
            others = [index for package, found in packages.items() if package != shown for index in found]
            support.append([packages[shown][random.integers(len(packages[shown]))]] * self.config.shots)
            queries.append(_take(others, self.config.queries, random))
        return Episode(chosen, np.array(support), np.array(queries))


class TypeTasks:
    """Draws episodes of all labels within one package; no group is in the support and the queries.

    Raises DatasetError where no package has enough groups of each label.
    """

    def __init__(self, rows: list[LogoRow], config: FewShotConfig):
        self.config, self.groups = config, [row.group for row in rows]
        labels = sorted({row.label for row in rows})
        members: dict[str, dict[str, list[int]]] = defaultdict(lambda: {label: [] for label in labels})
        for index, row in enumerate(rows):
            members[row.package][row.label].append(index)
        need = config.shots + config.queries
        self.members = {
            package: found
            for package, found in sorted(members.items())
            if all(len({self.groups[index] for index in found[label]}) >= need for label in labels)
        }
        if not self.members or len(labels) < 2:
            raise DatasetError(
                f"no package has logos of {need} groups of each type ({', '.join(labels) or 'none'}); "
                "expected few_shot.shots + few_shot.queries of two types or more"
            )
        self.ways = len(labels)
        self.rows = sorted(index for found in self.members.values() for part in found.values() for index in part)
        self.views = 1

    def draw(self, random: np.random.Generator) -> Episode:
        package = list(self.members)[random.integers(len(self.members))]
        members = self.members[package]
        classes = tuple(list(members)[index] for index in random.permutation(self.ways))
        support = [_take(members[label], self.config.shots, random) for label in classes]
        seen = {self.groups[index] for found in support for index in found}
        unseen = [[index for index in members[label] if self.groups[index] not in seen] for label in classes]
        if not all(unseen):  # the few groups of a label may all be shown as another label
            return self.draw(random)
        queries = [_take(found, self.config.queries, random) for found in unseen]
        return Episode(classes, np.array(support), np.array(queries))


TASKS = {"brands": BrandTasks, "types": TypeTasks}


def _take(items: list[int], count: int, random: np.random.Generator) -> list[int]:
    """So many of the items, none more often than another needs be."""
    order = random.permutation(items)
    return np.resize(order, count).tolist()


class Drawings:
    """Logos in memory, each whole and in the two parts on either side of its widest gap, which draws views of them.

    A mark beside a name in one package may stand alone in another, and a colour logo be black there: so a drawing is also
    looked at in parts, and without its colours.
    """

    def __init__(self, images: Iterable[Image.Image], size_px: int, config: FewShotConfig | None = None):
        self.contract = InputContract(size_px)
        self.augmentation = LogoAugmentation(config.augment, self.contract) if config else None
        self.images = [_parts_of(image, size_px) for image in images]

    @classmethod
    def load(
        cls, manifest: Manifest, rows: list[LogoRow], size_px: int, config: FewShotConfig | None = None
    ) -> Drawings:
        """Those of the rows; with a `config`, views of its augmentation can be drawn."""
        drawings = cls([], size_px, config)
        drawings.images = map_images(manifest, rows, partial(_parts_of, size_px=size_px))
        return drawings

    def draw(self, index: int, view: int, seed: int | None = None) -> np.ndarray:
        """(S, S, 3) uint8: view `view` of VIEWS of a drawing as the runtime would preprocess it; with a seed, augmented."""
        part, grey = VIEWS[view]
        image = self.images[index][part]
        if seed is None:
            pixels = preprocess(image, self.contract)
        else:
            pixels = self.augmentation(image.convert("RGBA").convert("RGBa"), seed)
        if not grey:
            return pixels
        return np.repeat((pixels @ LUMINANCE).round().astype(np.uint8)[:, :, None], 3, axis=2)


def _parts_of(image: Image.Image, size_px: int) -> list[Image.Image]:
    """The whole and its two parts, none larger than views of `size_px` need."""
    return [shrink(part, round(size_px * KEPT_SCALE)) for part in split_drawing(shrink(image, SPLIT_PX))]


class EpisodeDataset(Dataset):
    """Augmented episodes to learn from: (N, K, S, S, 3) uint8 support and (N * Q, V, S, S, 3) queries, class by class.

    A query of a brand comes in all its parts (V = 3), all in colour or all in grey. Item i depends on (seed, i) alone.
    """

    def __init__(self, manifest: Manifest, rows: list[LogoRow], config: FewShotConfig):
        self.config, self.tasks = config, TASKS[config.task](rows, config)
        size_px = Architecture.parse(config.network).size_px
        self.drawings = Drawings.load(manifest, [rows[index] for index in self.tasks.rows], size_px, config)
        self.place = {index: place for place, index in enumerate(self.tasks.rows)}

    def __len__(self) -> int:
        return self.config.episodes

    def __getitem__(self, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        random = np.random.default_rng((self.config.seed, position))
        episode, views = self.tasks.draw(random), self.tasks.views

        def draw(index: int, view: int) -> np.ndarray:
            return self.drawings.draw(self.place[index], view % views, int(random.integers(2**31)))

        support = [[draw(index, shot) for shot, index in enumerate(found)] for found in episode.support]
        queries = []
        for index in episode.queries.flat:
            first = PARTS * int(random.integers(2)) if views > 1 else 0
            queries.append([draw(index, first + part) for part in range(min(PARTS, views))])
        return torch.from_numpy(np.array(support)), torch.from_numpy(np.array(queries))
