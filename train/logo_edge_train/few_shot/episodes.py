"""Few-shot tasks: the logos for training, selection and reports, and random episodes of them.

| task | classes | support | queries |
| --- | --- | --- | --- |
| `brands` | groups with drawings in two packages or more | views of one package's drawing | other packages' drawings |
| `types` | all labels, within one package | logos | logos of other groups |

An episode is a task as in Vinyals et al. 2016, arXiv:1606.04080: `ways` classes with `shots` examples each.
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
from logo_edge_train.architecture import Architecture
from logo_edge_train.data.augment import make_augmentation
from logo_edge_train.data.images import KEPT_SCALE, map_images, shrink
from logo_edge_train.data.lookalikes import leave_out
from logo_edge_train.data.manifest import LogoRow, Manifest
from logo_edge_train.data.pool import pool_rows
from logo_edge_train.recipe import FewShotConfig

PARTS = 3  # of a drawing: the whole, and the parts before and after its widest gap
VIEWS = tuple((part, grey) for grey in (False, True) for part in range(PARTS))  # in the order of the shots
SPLIT_PX = 1024  # longer side at which gaps of larger drawings are searched


def task_rows(manifest: Manifest, config: FewShotConfig, split: str) -> list[LogoRow]:
    """The rows of the task for training (`train`), selection (`val`) or reports (`test`), without look-alikes in train.

    They are of the splits of these names. For brands, train includes the unlabelled pool, since a drawing's name gives
    its brand. For types, test is the held-out package; train and val are all others.
    """
    if config.task == "brands":
        return pool_rows(manifest, use_unlabelled=True, max_images=0) if split == "train" else manifest.split(split)
    rows = [row for row in manifest.split(split) if (row.package == config.held_out_package) == (split == "test")]
    left_out, _ = leave_out(manifest, rows) if split == "train" else (set(), set())
    return [row for row in rows if row not in left_out]


def check_disjoint(rows: dict[str, list[LogoRow]]) -> None:
    """Raises DatasetError if a group is in two of the splits."""
    groups = {split: {row.group for row in members} for split, members in rows.items()}
    for one, other in combinations(groups, 2):
        if shared := groups[one] & groups[other]:
            names = ", ".join(sorted(shared)[:5])
            raise DatasetError(f"groups that stand in {one} and in {other}: {names}; expected each group in one split")


@dataclass(frozen=True)
class Episode:
    """Indices of an episode's rows: (N, K) of the support, (N, Q) of the queries, for N `classes`."""

    classes: tuple[str, ...]
    support: np.ndarray
    queries: np.ndarray


class BrandTasks:
    """Draws episodes of brands: all shots are views of one drawing, queries are drawings of other packages.

    Raises DatasetError if fewer than `ways` groups have drawings in two packages.
    """

    def __init__(self, rows: list[LogoRow], config: FewShotConfig):
        self.config = config
        members: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for index, row in enumerate(rows):
            members[row.group][row.package].append(index)
        self.members = {group: dict(drawings) for group, drawings in sorted(members.items()) if len(drawings) > 1}
        if len(self.members) < config.ways:
            raise DatasetError(
                f"{len(self.members)} groups have drawings in two packages; expected at least few_shot.ways, "
                f"{config.ways}"
            )
        self.ways = config.ways
        self.rows = sorted(index for drawings in self.members.values() for part in drawings.values() for index in part)
        self.views = len(VIEWS)

    def draw(self, random: np.random.Generator) -> Episode:
        groups = list(self.members)
        chosen = tuple(groups[index] for index in random.choice(len(groups), self.ways, replace=False))
        support, queries = [], []
        for group in chosen:
            packages = self.members[group]
            shown = list(packages)[random.integers(len(packages))]
            others = [index for package, drawings in packages.items() if package != shown for index in drawings]
            support.append([packages[shown][random.integers(len(packages[shown]))]] * self.config.shots)
            queries.append(_take(others, self.config.queries, random))
        return Episode(chosen, np.array(support), np.array(queries))


class TypeTasks:
    """Draws episodes of all labels within one package; no group is in the support and the queries.

    Raises DatasetError if no package has enough groups of each label.
    """

    def __init__(self, rows: list[LogoRow], config: FewShotConfig):
        self.config, self.groups = config, [row.group for row in rows]
        labels = sorted({row.label for row in rows})
        members: dict[str, dict[str, list[int]]] = defaultdict(lambda: {label: [] for label in labels})
        for index, row in enumerate(rows):
            members[row.package][row.label].append(index)
        need = config.shots + config.queries
        self.members = {
            package: rows_of
            for package, rows_of in sorted(members.items())
            if all(len({self.groups[index] for index in rows_of[label]}) >= need for label in labels)
        }
        if not self.members or len(labels) < 2:
            raise DatasetError(
                f"no package has images of {need} groups of each type ({', '.join(labels) or 'none'}); "
                "expected few_shot.shots + few_shot.queries of two types or more"
            )
        self.ways = len(labels)
        self.rows = sorted(index for rows_of in self.members.values() for part in rows_of.values() for index in part)
        self.views = 1

    def draw(self, random: np.random.Generator) -> Episode:
        package = list(self.members)[random.integers(len(self.members))]
        members = self.members[package]
        classes = tuple(list(members)[index] for index in random.permutation(self.ways))
        support = [_take(members[label], self.config.shots, random) for label in classes]
        seen = {self.groups[index] for rows_of in support for index in rows_of}
        unseen = [[index for index in members[label] if self.groups[index] not in seen] for label in classes]
        if not all(unseen):  # all groups of a label may be in the support under another label
            return self.draw(random)
        queries = [_take(rows_of, self.config.queries, random) for rows_of in unseen]
        return Episode(classes, np.array(support), np.array(queries))


TASKS = {"brands": BrandTasks, "types": TypeTasks}


def _take(items: list[int], count: int, random: np.random.Generator) -> list[int]:
    """`count` random items; items repeat only if there are fewer."""
    order = random.permutation(items)
    return np.resize(order, count).tolist()


class Drawings:
    """Views of logos in memory: each whole and in the two parts beside its widest gap, in colour and in grey.

    A mark beside a name in one package may be alone, or black, in another package.
    """

    def __init__(self, images: Iterable[Image.Image], contract: InputContract, config: FewShotConfig | None = None):
        self.contract = contract
        self.augmentation = make_augmentation(config.augment, contract) if config else None
        self.images = [_parts_of(image, contract.least_px) for image in images]

    @classmethod
    def load(
        cls, manifest: Manifest, rows: list[LogoRow], contract: InputContract, config: FewShotConfig | None = None
    ) -> Drawings:
        """The drawings of the rows; with a `config`, views can be augmented."""
        drawings = cls([], contract, config)
        drawings.images = map_images(manifest, rows, partial(_parts_of, side_px=contract.least_px))
        return drawings

    def draw(self, index: int, view: int, seed: int | None = None) -> np.ndarray:
        """(S, S, C) uint8: view `view` of VIEWS, preprocessed as in the runtime; with a seed, augmented."""
        part, grey = VIEWS[view]
        image = self.images[index][part]
        if grey:
            image = image.convert("LA" if image.has_transparency_data else "L").convert(image.mode)
        if seed is None:
            return preprocess(image, self.contract)
        return self.augmentation(image.convert("RGBA").convert("RGBa"), seed)


def _parts_of(image: Image.Image, side_px: int) -> list[Image.Image]:
    """The whole and its two parts, shrunk to the size that views of a side of `side_px` need."""
    return [shrink(part, round(side_px * KEPT_SCALE)) for part in split_drawing(shrink(image, SPLIT_PX))]


class EpisodeDataset(Dataset):
    """Augmented training episodes: (N, K, S, S, 3) uint8 support and (N * Q, V, S, S, 3) queries, class by class.

    A query of a brand has all its parts (V = 3), all in colour or all in grey. Item i depends on (seed, i) alone.
    """

    def __init__(self, manifest: Manifest, rows: list[LogoRow], config: FewShotConfig):
        self.config, self.tasks = config, TASKS[config.task](rows, config)
        contract = Architecture.parse(config.network).contract
        self.drawings = Drawings.load(manifest, [rows[index] for index in self.tasks.rows], contract, config)
        self.position_of = {index: position for position, index in enumerate(self.tasks.rows)}

    def __len__(self) -> int:
        return self.config.episodes

    def __getitem__(self, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        random = np.random.default_rng((self.config.seed, position))
        episode, views = self.tasks.draw(random), self.tasks.views

        def draw(index: int, view: int) -> np.ndarray:
            return self.drawings.draw(self.position_of[index], view % views, int(random.integers(2**31)))

        support = [[draw(index, shot) for shot, index in enumerate(shots)] for shots in episode.support]
        queries = []
        for index in episode.queries.flat:
            first = PARTS * int(random.integers(2)) if views > 1 else 0
            queries.append([draw(index, first + part) for part in range(min(PARTS, views))])
        return torch.from_numpy(np.array(support)), torch.from_numpy(np.array(queries))
