"""Classifies images and files by a few examples of each class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from logo_edge.errors import DatasetError, ImageError
from logo_edge.images.load import load_image
from logo_edge.names import shown
from logo_edge.tables.find import walk_images
from logo_edge_train.architecture import Architecture
from logo_edge_train.data.images import ImageFiles
from logo_edge_train.few_shot.episodes import VIEWS, Drawings
from logo_edge_train.few_shot.methods import FewShotNetwork, embed_pixels
from logo_edge_train.few_shot.run import build_network
from logo_edge_train.recipe import Recipe


def frozen_network() -> FewShotNetwork:
    """Ridge on ImageNet features, which needs no training."""
    network, _ = build_network(replace(Recipe().few_shot, method="ridge"), None)
    return network.eval()


def classify_images(
    network: FewShotNetwork,
    support: dict[str, Sequence[Image.Image]],
    images: Iterable[Image.Image],
    device: torch.device,
) -> list[dict[str, float]]:
    """Each image's {class: logit}, the highest first; logits are no probabilities. `support`: images of each class.

    For brands, a support image gives as many views as the network's shots. Raises DatasetError with fewer than two
    classes, or if one has no image.
    """
    if len(support) < 2 or not all(support.values()):
        counts = ", ".join(f"{name} ({len(examples)})" for name, examples in support.items())
        raise DatasetError(f"classes to distinguish: {counts or 'none'}; expected two or more, each with an image")
    config, contract = network.config, Architecture.parse(network.config.network).contract
    support_views = range(min(config.shots, len(VIEWS)) if config.task == "brands" else 1)
    query_views = range(len(VIEWS) if config.task == "brands" else 1)
    queries_drawn = Drawings(images, contract)
    if not queries_drawn.images:
        return []
    support_drawn = Drawings((image for examples in support.values() for image in examples), contract)
    labels = torch.tensor([label for label, examples in enumerate(support.values()) for _ in examples]).to(device)
    embedded = [
        embed_pixels(
            network,
            np.stack([drawings.draw(index, view) for index in range(len(drawings.images)) for view in views]),
            device,
        )
        for drawings, views in ((support_drawn, support_views), (queries_drawn, query_views))
    ]
    with torch.no_grad():
        queries = embedded[1].unflatten(0, (-1, len(query_views)))
        logits = network.classify(embedded[0], labels.repeat_interleave(len(support_views)), queries, len(support))
    return [dict(sorted(zip(support, row, strict=True), key=lambda item: -item[1])) for row in logits.double().tolist()]


def classify_files(network: FewShotNetwork, support: Path, paths: Sequence[Path], device: torch.device) -> list[dict]:
    """One record per path: {path, label, runner_up, margin, logits} or {path, error}.

    `support` has a subfolder for each class. The margin is the best logit minus the next. Raises ImageError if an image
    of the support cannot be read, DatasetError with fewer than two classes with images.
    """
    folders = [folder for folder in sorted(support.iterdir()) if folder.is_dir() and not folder.name.startswith(".")]
    known = {shown(folder.name): ImageFiles(tuple(walk_images(folder))) for folder in folders}
    errors: dict[Path, str] = {}

    def readable() -> Iterator[Image.Image]:
        for path in paths:
            try:
                yield load_image(path)
            except ImageError as error:
                errors[path] = str(error)

    answers, records = iter(classify_images(network, known, readable(), device)), []
    for path in paths:
        if path in errors:
            records.append({"path": shown(str(path)), "error": shown(errors[path])})
            continue
        logits = next(answers)
        (label, first), (runner_up, second), *_ = logits.items()
        answer = {"label": label, "runner_up": runner_up, "margin": first - second, "logits": logits}
        records.append({"path": shown(str(path)), **answer})
    return records
