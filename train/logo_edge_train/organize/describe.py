"""Describes a manifest in figures, a table and pictures (`logo-edge data describe`)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from logo_edge.errors import DatasetError
from logo_edge.files import replacing
from logo_edge.images.load import load_image
from logo_edge.preprocess import InputContract, preprocess
from logo_edge_train.data.manifest import NO_LABELS, SPLITS, Manifest
from logo_edge_train.recipe import OPERATIONS, AugmentConfig, TeacherAugment

UNLABELLED = "(no label)"
THUMBNAIL_PX = 96


@dataclass(frozen=True)
class Description:
    """The figures of a manifest; of a multi-label one, an image counts for each of its labels, or as NO_LABELS.

    `counts` maps split -> class -> images, for splits with rows; rows without a label count as the class UNLABELLED.
    `sure` maps class -> the share of sure rows. `groups` counts groups, `largest_group` the images of the largest one,
    and `split_groups` names groups in more than one split (there should be none). `sources` maps "package version" ->
    images. `voted_twice` rows have two votes or more: `agreement` is the share whose first two agree (a third vote
    decides otherwise), `kappa` Cohen's kappa. Both are None without such rows, `kappa` also if all votes are one class.
    """

    rows: int
    classes: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    sure: dict[str, float]
    groups: int
    largest_group: int
    split_groups: tuple[str, ...]
    sources: dict[str, int]
    voted_twice: int
    agreement: float | None
    kappa: float | None


def describe_manifest(manifest: Manifest) -> Description:
    """The description of a manifest. Raises DatasetError if it has no rows."""
    rows = manifest.rows
    if not rows:
        raise DatasetError(f"the manifest in {manifest.folder} has no rows; expected at least one image")
    without = NO_LABELS if manifest.multi_label else UNLABELLED
    named = [(name, row) for row in rows for name in row.every_label or (without,)]
    totals, group_sizes = Counter(name for name, _ in named), Counter(row.group for row in rows)
    classes = manifest.classes + ((without,) if without in totals else ())
    in_cell = Counter((row.split, name) for name, row in named)
    used_splits = [split for split in SPLITS if any(row.split == split for row in rows)]
    sure = Counter(name for name, row in named if row.sure)
    splits_per_group = Counter(group for group, _ in {(row.group, row.split) for row in rows})
    pairs = [row.votes[:2] for row in rows if len(row.votes) >= 2]
    return Description(
        rows=len(rows),
        classes=classes,
        counts={split: {name: in_cell[split, name] for name in classes} for split in used_splits},
        sure={name: sure[name] / totals[name] for name in classes},
        groups=len(group_sizes),
        largest_group=max(group_sizes.values()),
        split_groups=tuple(sorted(group for group, splits in splits_per_group.items() if splits > 1)),
        sources=dict(Counter(f"{row.package} {row.version}".strip() for row in rows).most_common()),
        voted_twice=len(pairs),
        agreement=sum(first == second for first, second in pairs) / len(pairs) if pairs else None,
        kappa=cohen_kappa(pairs),
    )


def cohen_kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Agreement of two annotators beyond chance, at most 1; None without pairs or with one class only. Cohen 1960."""
    from sklearn.metrics import cohen_kappa_score

    if len({name for pair in pairs for name in pair}) < 2:
        return None
    return float(cohen_kappa_score(*zip(*pairs, strict=True)))


def print_description(description: Description, console=None) -> None:
    """Prints the description as a table with a few lines below it, on `console` or the terminal."""
    from rich.console import Console

    from logo_edge_train.console import LiteralTable, literal

    console = console or Console()
    table = LiteralTable(title=f"{description.rows:,} images")
    splits = list(description.counts.values())
    table.add_column("class")
    for heading in (*description.counts, "all", "sure"):
        table.add_column(heading, justify="right")
    totals = {name: sum(cells[name] for cells in splits) for name in description.classes}
    for name, total in totals.items():
        table.add_row(name, *(f"{cells[name]:,}" for cells in splits), f"{total:,}", f"{description.sure[name]:.0%}")
    table.add_section()
    sure_rows = sum(description.sure[name] * total for name, total in totals.items())
    table.add_row(
        "all",
        *(f"{sum(cells.values()):,}" for cells in splits),
        f"{sum(totals.values()):,}",
        f"{sure_rows / sum(totals.values()):.0%}",
    )
    console.print(table)
    for line in _facts(description):
        console.print(literal(line))


def plot_description(description: Description, path: str | os.PathLike) -> None:
    """Writes a PNG: images per split and class as bars, and the share of sure labels per class."""
    from matplotlib import rc_context

    with rc_context({"text.parse_math": False}):  # names are no formulas
        _plot_bars(description, path)


def _plot_bars(description: Description, path: str | os.PathLike) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, max(4.2, 0.3 * len(description.classes))), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2.4, 1))
    colours = _colours(len(description.classes))
    width = 0.8 / len(description.classes)
    for k, (name, colour) in enumerate(zip(description.classes, colours, strict=True)):
        heights = [cells[name] for cells in description.counts.values()]
        starts = [at + (k - (len(description.classes) - 1) / 2) * width for at in range(len(heights))]
        bars = left.bar(starts, heights, 0.92 * width, label=name, color=colour)
        if len(description.classes) <= 6:
            left.bar_label(bars, fontsize=8, padding=1)
    totals = {split: sum(cells.values()) for split, cells in description.counts.items()}
    left.set_xticks(range(len(totals)), [f"{split}\n{count:,} images" for split, count in totals.items()])
    left.set_title(f"{description.rows:,} images in {description.groups:,} groups", loc="left")
    left.set_ylabel("images")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=8, frameon=False, fontsize=9)
    bars = right.barh(description.classes, [100 * share for share in description.sure.values()], color=colours)
    right.bar_label(bars, fmt="%.0f %%", fontsize=9, padding=2)
    right.set_xlim(0, 115)
    right.set_xticks(range(0, 101, 25))
    right.invert_yaxis()
    right.set_xlabel("sure labels, %")
    right.set_title("How sure the labels are", loc="left")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    _write_whole(path, lambda part: figure.savefig(part, format="png", dpi=144))


def plot_samples(manifest: Manifest, path: str | os.PathLike, *, per_class: int = 12, seed: int = 0) -> None:
    """Writes a contact sheet: `per_class` images of each class in a row, as a model sees them.

    The same seed picks the same images. Raises DatasetError if an image is missing, ImageError if one cannot be read.
    """
    import numpy as np

    if not manifest.classes:
        raise DatasetError(f"the manifest in {manifest.folder} has no labels; a contact sheet shows images by class")
    rng, lines = np.random.default_rng(seed), {}
    for name in manifest.classes:
        own = [row for row in manifest.rows if name in row.every_label]
        lines[name] = manifest.image_paths([own[i] for i in rng.permutation(len(own))[:per_class]])
    plot_files(lines, path)


def plot_augmented(
    manifest: Manifest, config: TeacherAugment, path: str | os.PathLike, *, per_class: int = 3, seed: int = 0
) -> None:
    """Writes a sheet for a person to check: augmented images of each class of the train split.

    Each line shows the same images, `per_class` of each class: unchanged, augmented by `config`, under each operation
    of a policy at half and full magnitude, and mixed with an image of the class that the line names. The kind of
    picture is proposed unless `config` has one. Raises DatasetError if a class has no image in train.
    """
    import numpy as np

    from logo_edge_train.data.augment import find_partners, make_augmentation, mix_pair, weaken
    from logo_edge_train.data.dataset import check_classes
    from logo_edge_train.data.images import KEPT_SCALE, map_images, shrink
    from logo_edge_train.organize.kinds import settle_kind

    contract, rng, rows = InputContract(size_px=THUMBNAIL_PX), np.random.default_rng(seed), manifest.split("train")
    check_classes(rows, manifest.classes, "train")
    config, picked = settle_kind(config, manifest), []
    for name in manifest.classes:
        own = [row for row in rows if name in row.every_label]
        picked += [own[i] for i in rng.permutation(len(own))[:per_class]]
    kept = partial(shrink, longest_px=round(THUMBNAIL_PX * KEPT_SCALE))
    images = [image.convert("RGBA").convert("RGBa") for image in map_images(manifest, picked, kept)]
    labels = [row.label for row in picked]

    def draw(config: AugmentConfig) -> list[np.ndarray]:
        augmentation = make_augmentation(config, contract)
        return [augmentation(image, seed + index) for index, image in enumerate(images)]

    still = weaken(config, 0.0)
    plain = draw(still)
    lines = {"as they are": plain, "as the recipe has them": draw(config)}
    for name in OPERATIONS:
        for magnitude in (0.5, 1.0):
            lines[f"{name} {magnitude:g}"] = draw(replace(still, policy=(f"{name} 1 {magnitude}",)))
    for kind, pairs in (("mixup", config.mixup_pairs), ("cutmix", config.cutmix_pairs)):
        for pair in pairs:
            partners, mixed = find_partners([pair], labels), []
            for index, label in enumerate(labels):
                others = [other for other in partners.get(label, ()) if other != index]
                view = np.full_like(plain[0], 255)
                if others:
                    view, _ = mix_pair(kind, plain[index], plain[int(rng.choice(others))], 0.6, rng)
                mixed.append(view)
            lines[f"{kind} {pair}"] = mixed
    write_sheet(lines, path)


def plot_files(lines: dict[str, list[Path]], path: str | os.PathLike) -> None:
    """Writes a contact sheet of image files as a model sees them, each line under its name."""
    contract = InputContract(size_px=THUMBNAIL_PX)
    write_sheet(
        {name: [preprocess(load_image(file), contract) for file in files] for name, files in lines.items()}, path
    )


def write_sheet(lines: dict[str, list], path: str | os.PathLike) -> None:
    """Writes thumbnails line by line, each line under its name."""
    import numpy as np
    from matplotlib.figure import Figure

    step_px = THUMBNAIL_PX + 8
    sheet = np.full((len(lines) * step_px, max(map(len, lines.values())) * step_px, 3), 255, np.uint8)
    for at, thumbnails in enumerate(lines.values()):
        for column, thumbnail in enumerate(thumbnails):
            top, left = at * step_px, column * step_px
            sheet[top : top + THUMBNAIL_PX, left : left + THUMBNAIL_PX] = thumbnail
    label_inches, dots_per_inch = 0.3 + 0.09 * max(map(len, lines)), 100
    width, height = sheet.shape[1] / dots_per_inch + label_inches, sheet.shape[0] / dots_per_inch
    figure = Figure(figsize=(width, height), dpi=dots_per_inch)
    axes = figure.add_axes((label_inches / width, 0, 1 - label_inches / width, 1))
    axes.imshow(sheet, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    for at, name in enumerate(lines):
        middle = 1 - (at * step_px + THUMBNAIL_PX / 2) / sheet.shape[0]
        figure.text(0.1 / width, middle, name, va="center", fontsize=11, parse_math=False)
    _write_whole(path, lambda part: figure.savefig(part, format="png", dpi=dots_per_inch))


def _facts(description: Description) -> list[str]:
    facts = [f"{description.groups:,} groups; the largest has {description.largest_group:,} images"]
    if description.split_groups:
        first = ", ".join(description.split_groups[:5])
        facts.append(f"Warning: {len(description.split_groups):,} groups stand in more than one split: {first}")
    facts.append("sources: " + ", ".join(f"{name} ({count:,})" for name, count in description.sources.items()))
    if description.agreement is not None:
        kappa = "" if description.kappa is None else f" (Cohen's kappa {description.kappa:.3f})"
        facts.append(f"the two votes on {description.voted_twice:,} images agree in {description.agreement:.1%}{kappa}")
    return facts


def _colours(count: int) -> list:
    """Colours that differ in print and for colour-blind readers. Okabe & Ito 2008; for more, a colour map."""
    okabe_ito = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442"]
    if count <= len(okabe_ito):
        return okabe_ito[:count]
    from matplotlib import colormaps

    return [colormaps["viridis"](at / (count - 1)) for at in range(count)]


def _write_whole(path: str | os.PathLike, write: Callable[[Path], object]) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        write(part)
