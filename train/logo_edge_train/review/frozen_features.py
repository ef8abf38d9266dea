"""Features of images by frozen networks and measures, kept on disk in blocks: only new images are computed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from safetensors.numpy import save as save_arrays

from logo_edge.files import write_file
from logo_edge.preprocess import InputContract
from logo_edge_train.architecture import Architecture
from logo_edge_train.data.images import pixels_of
from logo_edge_train.data.manifest import LogoRow, Manifest
from logo_edge_train.data.processes import each_in_processes
from logo_edge_train.keys import artifact_key, row_hashes, versions
from logo_edge_train.models import LogoNetwork, has_imagenet_weights
from logo_edge_train.organize.features import measure_file
from logo_edge_train.organize.label_proposer import place_on_curves
from logo_edge_train.pretrain.probe import features_of
from logo_edge_train.recipe import ReviewConfig
from logo_edge_train.review.fades import measure_fades
from logo_edge_train.review.lettering import describe_lettering, read_rows
from logo_edge_train.state import read_metadata

BLOCK = 512  # images in memory at a time; an interruption loses at most one block of features
MADE_WITH = ("numpy", "opencv-python-headless", "pillow", "scikit-learn", "timm", "torch")

Tick = Callable[[str, int, int], None]
"""(stage, done, total)"""


class Features:
    """The features of a manifest's images; new ones are computed and kept in `folder`."""

    def __init__(self, manifest: Manifest, config: ReviewConfig, folder: Path, device: torch.device, tick: Tick):
        self.manifest, self.config, self.folder, self.device, self.tick = manifest, config, folder, device, tick

    def read(self, names: Sequence[str], rows: list[LogoRow]) -> np.ndarray:
        """(N, F) float32: the concatenated features of the named networks (name@size_px) and measures."""
        return np.hstack([self._read(name, rows) for name in names])

    def _read(self, name: str, rows: list[LogoRow]) -> np.ndarray:
        folder = self.folder / "features" / artifact_key({}, {"input": name}, versions(MADE_WITH))[:16]
        images = [row.without_labels() for row in rows]
        hashes = [digest for _, digest in row_hashes(self.manifest, images)]
        known: dict[str, np.ndarray] = {}
        for path in sorted(folder.glob("*.safetensors")):
            known |= zip(json.loads(read_metadata(path)["images"]), load_file(path)["features"], strict=True)
        missing = {digest: row for digest, row in zip(hashes, images, strict=True) if digest not in known}
        folder.mkdir(parents=True, exist_ok=True)
        start, waiting = 0, list(missing)
        for features in self._compute(name, list(missing.values())):
            block = waiting[start : start + len(features)]
            packed = save_arrays({"features": features.astype(np.float16)}, {"images": json.dumps(block)})
            write_file(folder / f"{artifact_key({}, {'images': block}, {})[:16]}.safetensors", packed)
            known |= zip(block, features.astype(np.float16), strict=True)
            start += len(features)
            self.tick(f"features: {name}", start, len(waiting))
        return np.stack([known[digest] for digest in hashes]).astype(np.float32)

    def _compute(self, name: str, rows: list[LogoRow]) -> Iterator[np.ndarray]:
        """Yields the features of BLOCK rows at a time."""
        if not rows:
            return
        self.tick(f"features: {name}", 0, len(rows))
        blocks = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
        if name in MEASURES:
            measured = MEASURES[name](self, rows)
            yield from (np.stack([next(measured) for _ in block]) for block in blocks)
            return
        network = build_frozen(name).to(self.device)
        size_px = Architecture.parse(name).size_px
        for block in blocks:
            pixels = pixels_of(block, self.manifest, InputContract(size_px))
            yield features_of(network, pixels, self.device, LogoNetwork.stage_features)

    def map_files(self, function: Callable[[Path], object], rows: list[LogoRow]) -> Iterator[object]:
        return each_in_processes(function, self.manifest.image_paths(rows))


MEASURES: dict[str, Callable[[Features, list[LogoRow]], Iterator[np.ndarray]]] = {
    "curves": lambda features, rows: (
        place_on_curves([measured])[0] for measured in features.map_files(measure_file, rows)
    ),
    "fades": lambda features, rows: features.map_files(measure_fades, rows),
    "lettering": lambda features, rows: map(describe_lettering, read_rows(features.manifest, rows, features.folder)),
}
"""Name -> the measures of each row's image, in order."""


def build_frozen(text: str) -> LogoNetwork:
    """The network name@size_px with ImageNet weights or, if there are none, fixed random ones."""
    architecture = Architecture.parse(text)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pretrained = has_imagenet_weights(architecture.model)
        return LogoNetwork(architecture.model, 2, size_px=architecture.size_px, pretrained=pretrained)
