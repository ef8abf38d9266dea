"""The sections on a network's inside: heat maps, features, and the loss around its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from logo_edge.preprocess import preprocess
from logo_edge.probabilities import softmax
from logo_edge_report import charts, embedding, landscape, maps
from logo_edge_report.page import Exhibit, Panel, Section
from logo_edge_report.sheets import make_sheet, thumbnail
from logo_edge_train.architecture import Architecture
from logo_edge_train.checkpoints import load_network
from logo_edge_train.models import LogoNetwork

PER_CLASS = 3  # images of each class on the sheet of maps
MOST_WRONG = 8
PANELS = 6  # checkpoints shown beside each other
LANDSCAPE_LOGOS = 40
LANDSCAPE_POINTS = 13
RISE = 0.5  # nats
EVOLUTION_PANELS = 4
EVOLUTION_POINTS = 7  # every second of LANDSCAPE_POINTS
Say = Callable[[str], None]


@dataclass(frozen=True)
class Pictured:
    """One checkpoint of a run, and the snapshots of its training in order: (epoch, path)."""

    name: str
    path: Path
    architecture: Architecture
    classes: tuple[str, ...]
    snapshots: tuple[tuple[int, Path], ...] = ()

    def load(self, path: Path | None = None) -> LogoNetwork:
        """The network, or one of its snapshots, in evaluation mode."""
        return load_network(path or self.path, self.architecture, len(self.classes))

    def read(self, images: Iterable[Image.Image]) -> np.ndarray:
        """(N, S, S, C) uint8: the images as input of the network."""
        return np.stack([preprocess(image, self.architecture.contract) for image in images])

    def chosen_snapshots(self, count: int) -> list[tuple[int, Path]]:
        """At most `count` snapshots at even distances, the first and the last among them."""
        if len(self.snapshots) <= count:
            return list(self.snapshots)
        indices = np.unique(np.linspace(0, len(self.snapshots) - 1, count).round().astype(int))
        return [self.snapshots[index] for index in indices]


def maps_section(pictured: Pictured, images: Sequence[Image.Image], targets: np.ndarray) -> Section | None:
    """Grad-CAM or attention on images of every class and on the worst errors."""
    network, pixels, labels = pictured.load(), pictured.read(images), pictured.classes
    probabilities = softmax(embedding.penultimate(network, pixels)[1])
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    right, wrong = _typical(predicted == targets, targets, confidence), np.flatnonzero(predicted != targets)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:MOST_WRONG]
    exhibits = []
    heats = maps.explain(network, pixels[right], predicted[right])
    if not heats:
        return None
    for method, heat in heats.items():
        on_ink, ink = maps.heat_on_ink(pixels[right, :, :, :3], heat)
        sheet = make_sheet(
            [_tiles(images[i], [own]) for i, own in zip(right, heat, strict=True)],
            [f"{labels[predicted[i]]} {confidence[i]:.0%}" for i in right],
            [""] * len(right),
        )
        caption = (
            f"{_what(method)} on correctly classified images of every class: {on_ink:.0%} of the heat lies on the "
            f"drawing, which covers {ink:.0%} of the image."
        )
        exhibits.append(
            Exhibit(f"{_title(method)}, right answers", caption, (Panel(f"{method} of images", sheet=sheet),))
        )
    if len(wrong):
        answer, true = (maps.explain(network, pixels[wrong], chosen[wrong]) for chosen in (predicted, targets))
        both = maps.GRAD_CAM in answer
        method = maps.GRAD_CAM if both else maps.ROLLOUT
        sheet = make_sheet(
            [
                _tiles(images[i], [answer[method][n], true[method][n]] if both else [answer[method][n]])
                for n, i in enumerate(wrong)
            ],
            [f"{labels[predicted[i]]} {confidence[i]:.0%}" for i in wrong],
            [f"is {labels[targets[i]]}" for i in wrong],
        )
        caption = "The errors with the highest confidence: the image, and the patches behind the answer."
        if both:
            caption = (
                "The errors with the highest confidence: the image, the evidence for the predicted label, and the "
                "evidence for the true one (no heat: none)."
            )
        exhibits.append(Exhibit(f"{_title(method)}, errors", caption, (Panel(f"{method} of errors", sheet=sheet),)))
    return Section("maps", f"Where {pictured.name} looks", tuple(exhibits))


def _typical(correct: np.ndarray, targets: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """A few correctly classified images of each class, from the most to the least confident."""
    chosen = []
    for label in np.unique(targets):
        of_class = np.flatnonzero(correct & (targets == label))
        of_class = of_class[np.argsort(-confidence[of_class], kind="stable")]
        if len(of_class):
            chosen.extend(of_class[np.unique(np.linspace(0, len(of_class) - 1, PER_CLASS).round().astype(int))])
    return np.array(chosen or [int(confidence.argmax())])


def _tiles(image: Image.Image, heats: list[np.ndarray]) -> list[np.ndarray]:
    picture = thumbnail(image)
    return [picture, *(maps.overlay(picture, heat) for heat in heats)]


def _what(method: str) -> str:
    return {
        maps.GRAD_CAM: "The evidence for the label (Grad-CAM)",
        maps.ATTENTION: "The attention of the last block, mean over the heads,",
        maps.ROLLOUT: "The attention through all blocks (rollout)",
    }[method]


def _title(method: str) -> str:
    return method[0].upper() + method[1:]


def features_section(pictured: Pictured, images: Sequence[Image.Image], targets: np.ndarray, say: Say) -> Section:
    """The images in the plane of their features: decision regions, confidence, and their order during training."""
    pixels, labels = pictured.read(images), pictured.classes
    epochs = pictured.chosen_snapshots(PANELS - 1)
    stages = []
    for epoch, path in epochs:
        say(f"features after epoch {epoch}")
        stages.append(embedding.penultimate(pictured.load(path), pixels)[0])
    say("features")
    features, logits = embedding.penultimate(pictured.load(), pixels)
    if epochs and np.abs(stages[-1] - features).max() <= 1e-3 * np.abs(features).max():
        epochs, stages = epochs[:-1], stages[:-1]  # the last snapshot is the network itself
    say("t-SNE")
    layouts = embedding.embed([*stages, features])
    window, points = embedding.window_of(layouts), layouts[-1]
    probabilities = softmax(logits)
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    correct = predicted == targets
    regions = embedding.decision_regions(points, probabilities, embedding.window_of([points]))
    values = [embedding.separation(stage, targets) for stage in [*stages, features]]
    home = float((regions_at(regions, points, embedding.window_of([points])) == targets).mean())
    exhibits = [
        Exhibit(
            "Decision regions",
            "Each image of the split by its features before the last layer, laid out by t-SNE, over the label "
            f"predicted nearby; {int((~correct).sum())} of {len(targets)} are misclassified (ringed), and {home:.0%} "
            "lie in the region of their own class. Distances between groups mean little.",
            (
                Panel(
                    "Images by features, over decision regions",
                    charts.class_plane(
                        points, targets, labels, regions=regions, wrong=~correct, window=embedding.window_of([points])
                    ),
                ),
            ),
        ),
        Exhibit(
            "Confidence in the plane",
            _confidence_finding(confidence, correct),
            (
                Panel(
                    "Images by features, coloured by confidence",
                    charts.confidence_plane(points, confidence, correct, embedding.window_of([points])),
                ),
            ),
        ),
    ]
    if stages:
        names = [*(f"epoch {epoch}" for epoch, _ in epochs), "end"]
        exhibits.append(
            Exhibit(
                "Feature evolution",
                f"The same images and colours during training, with the mean silhouette of the classes, from "
                f"{values[0]:.2f} to {values[-1]:.2f} (1: every image is among its own class).",
                tuple(
                    Panel(
                        f"Features at {name}",
                        charts.class_plane(layout, targets, labels, window=window, small=True),
                        heading=f"{name}: {value:.2f}",
                    )
                    for name, layout, value in zip(names, layouts, values, strict=True)
                ),
            )
        )
    return Section("features", f"How {pictured.name} sorts the images", tuple(exhibits))


def regions_at(regions: np.ndarray, points: np.ndarray, window: embedding.Window) -> np.ndarray:
    """(N,) integers: the region of each point."""
    last = np.array(regions.shape[::-1]) - 1
    low, high = np.array([window[0], window[2]]), np.array([window[1], window[3]])
    column, row = np.clip(((points - low) / (high - low) * last).round().astype(int), 0, last).T
    return regions[row, column]


def _confidence_finding(confidence: np.ndarray, correct: np.ndarray) -> str:
    text = (
        f"Confidence is lowest between the groups: {confidence[correct].mean():.0%} on average where the label is right"
    )
    if not correct.all():
        text += f", {confidence[~correct].mean():.0%} where it is wrong"
    return f"{text}. A blue cross is a confident error."


def landscape_section(pictured: Pictured, images: Sequence[Image.Image], targets: np.ndarray, say: Say) -> Section:
    """The loss around the weights, and around those of earlier epochs, on a few images of every class."""
    kept = _balanced(targets, LANDSCAPE_LOGOS)
    pixels, wanted = pictured.read(images[i] for i in kept), targets[kept]
    network = pictured.load()
    say(f"loss around {pictured.name}")
    reach = landscape.find_reach(network, pixels, wanted, rise=2 * RISE, seed=0)
    steps, losses = landscape.loss_plane(
        network,
        pixels,
        wanted,
        points=LANDSCAPE_POINTS,
        reach=reach,
        seed=0,
        say=lambda text: say(f"loss around {pictured.name}: {text}"),
    )
    top = max(float(np.log(len(pictured.classes))) + RISE, 1.1 * float(losses.min()))
    centre = losses[len(steps) // 2, len(steps) // 2]
    exhibits = [
        Exhibit(
            "Loss landscape",
            f"The loss on {len(kept)} images when every filter takes a random step of up to {100 * reach:.2g} % of its "
            f"norm along two directions (Li et al. 2018): {centre:.2f} nats at the trained weights (cross), {RISE:g} "
            f"more at a mean distance of {_at(steps, losses)}. Wide, round contours mean a flat minimum.",
            (Panel("Loss on a plane through the weights", charts.loss_surface(steps, losses, top)),),
        )
    ]
    if earlier := pictured.chosen_snapshots(EVOLUTION_PANELS)[:-1]:  # the last snapshot is the network itself
        planes = {}
        for epoch, path in earlier:
            planes[f"epoch {epoch}"] = landscape.loss_plane(
                pictured.load(path),
                pixels,
                wanted,
                points=EVOLUTION_POINTS,
                reach=reach,
                seed=0,
                say=lambda text, epoch=epoch: say(f"loss after epoch {epoch}: {text}"),
            )
        planes["end"] = steps[::2], losses[::2, ::2]
        centres = {name: plane[len(plane) // 2, len(plane) // 2] for name, (_, plane) in planes.items()}
        first = next(iter(planes))
        exhibits.append(
            Exhibit(
                "The landscape during training",
                "The same plane around the weights of earlier epochs, in the same colours: from the first to the "
                f"last, the loss at the centre changes from {centres[first]:.2f} to {centres['end']:.2f} nats; it is "
                f"{RISE:g} nats higher at a distance of {_at(*planes[first])} and {_at(*planes['end'])}.",
                tuple(
                    Panel(
                        f"Loss around the weights, {name}",
                        charts.loss_surface(*plane, top, small=True),
                        heading=f"{name}: {centres[name]:.2f} nats",
                    )
                    for name, plane in planes.items()
                ),
            )
        )
    return Section("landscape", f"The loss around {pictured.name}", tuple(exhibits))


def _balanced(targets: np.ndarray, count: int) -> np.ndarray:
    """Indices of about `count` images in equal shares of every label, in order."""
    order = np.random.default_rng(0).permutation(len(targets))
    names = np.unique(targets)
    kept = [i for label in names for i in order[targets[order] == label][: max(1, count // len(names))]]
    return np.array(sorted(kept))


def rise_distance(steps: np.ndarray, losses: np.ndarray) -> float | None:
    """The distance from the centre at which the mean loss is RISE nats higher, or None where it never is."""
    distance, width = np.hypot(*np.meshgrid(steps, steps)), steps[1] - steps[0]
    centre = losses[len(steps) // 2, len(steps) // 2]
    before = 0.0
    for ring in range(1, len(steps) // 2 + 1):
        rise = losses[np.abs(distance - ring * width) < width / 2].mean() - centre
        if rise >= RISE:
            return float(width * (ring - 1 + (RISE - before) / (rise - before)))
        before = rise
    return None


def _at(steps: np.ndarray, losses: np.ndarray) -> str:
    distance = rise_distance(steps, losses)
    return f"more than {100 * steps[-1]:.2g} %" if distance is None else f"{100 * distance:.2g} %"


def find_snapshots(folder: Path, name: str) -> tuple[tuple[int, Path], ...]:
    """The snapshots of the network's training in order, (epoch, path)."""
    paths = sorted((folder / "snapshots" / name).glob("epoch-*.safetensors"))
    return tuple((int(path.stem.removeprefix("epoch-")), path) for path in paths)
