"""Out-of-fold predictions of an ensemble of linear heads on frozen features, which go on wherever they were stopped.

Features are kept in blocks of images, heads one by one, each under the artifact_key of what it was made of. So a corrected
label costs new heads, and a new image its own features.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from safetensors.numpy import save as save_arrays
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler

from logo_edge.errors import DatasetError
from logo_edge.files import write_file
from logo_edge.manifest import LogoRow, Manifest, targets_of
from logo_edge.metrics import softmax
from logo_edge.preprocess import InputContract
from logo_edge_train.dataset import pixels_of
from logo_edge_train.fetch import renders_folder
from logo_edge_train.keys import artifact_key, data_hash, row_hashes, versions
from logo_edge_train.measure import each_over_images, measure_file
from logo_edge_train.models import LogoNetwork, has_imagenet_weights
from logo_edge_train.probe import features_of
from logo_edge_train.propose import place_on_curves
from logo_edge_train.recipe import Architecture, ReviewConfig
from logo_edge_train.state import read_metadata

BLOCK = 512  # images whose pixels are in memory at a time, and whose features an interruption may cost
MEASURES = "measures"  # in the place of a network's name
MADE_WITH = ("numpy", "opencv-python-headless", "pillow", "scikit-learn", "timm", "torch")
MOST_STEPS = 500  # of the solver of a head

Tick = Callable[[str, int, int], None]
"""What is being made, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Reviewed:
    """The labelled rows of train and val, and what models say of them that have not learned from them.

    `probabilities` is (M, N, K), of M members: each has an input and a division into folds. `heads` holds those that
    each member has fitted, one a fold: weight (F, K) and bias (K,); `inputs` names their inputs.
    """

    rows: list[LogoRow]
    classes: tuple[str, ...]
    probabilities: np.ndarray
    inputs: list[str]
    heads: list[list[dict[str, np.ndarray]]]


class Features:
    """The frozen features of a manifest's images; those that `folder` does not hold are computed and kept there."""

    def __init__(self, manifest: Manifest, config: ReviewConfig, folder: Path, device: torch.device, tick: Tick):
        self.manifest, self.config, self.folder, self.device, self.tick = manifest, config, folder, device, tick

    def read(self, text: str, rows: list[LogoRow]) -> np.ndarray:
        """(N, F) float32: what a head on the network `text` (name@size_px) reads of the rows."""
        inputs = (text, MEASURES) if self.config.measures else (text,)
        return np.hstack([self._read(name, rows) for name in inputs])

    def _read(self, name: str, rows: list[LogoRow]) -> np.ndarray:
        place = self.folder / "features" / artifact_key({}, {"input": name}, versions(MADE_WITH))[:16]
        images = [LogoRow(row.package, row.version, row.icon) for row in rows]  # whatever their labels
        hashes = [digest for _, digest in row_hashes(self.manifest, images)]
        known: dict[str, np.ndarray] = {}
        for path in sorted(place.glob("*.safetensors")):
            known |= zip(json.loads(read_metadata(path)["images"]), load_file(path)["features"], strict=True)
        missing = {digest: row for digest, row in zip(hashes, images, strict=True) if digest not in known}
        place.mkdir(parents=True, exist_ok=True)
        start, waiting = 0, list(missing)
        for features in self._compute(name, list(missing.values())):
            block = waiting[start : start + len(features)]
            packed = save_arrays({"features": features.astype(np.float16)}, {"images": json.dumps(block)})
            write_file(place / f"{artifact_key({}, {'images': block}, {})[:16]}.safetensors", packed)
            known |= zip(block, features.astype(np.float16), strict=True)
            start += len(features)
            self.tick(f"features: {name}", start, len(waiting))
        return np.stack([known[digest] for digest in hashes]).astype(np.float32)

    def _compute(self, name: str, rows: list[LogoRow]) -> Iterator[np.ndarray]:
        """Yields the features of BLOCK rows at a time."""
        blocks = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
        if not blocks:
            return
        self.tick(f"features: {name}", 0, len(rows))
        if name == MEASURES:
            measured = each_over_images(measure_file, self.manifest.image_paths(rows, renders_folder()))
            yield from (place_on_curves([next(measured) for _ in block]) for block in blocks)
            return
        network = build_frozen(name).to(self.device)
        size_px = Architecture.parse(name).size_px
        for block in blocks:
            yield features_of(
                network,
                pixels_of(block, self.manifest, InputContract(size_px)),
                self.device,
                LogoNetwork.stage_features,
            )


def build_frozen(text: str) -> LogoNetwork:
    """The network name@size_px with ImageNet weights or, where there are none, the same random ones each time."""
    architecture = Architecture.parse(text)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pretrained = has_imagenet_weights(architecture.model)
        return LogoNetwork(architecture.model, 2, size_px=architecture.size_px, pretrained=pretrained)


def review_labels(features: Features) -> Reviewed:
    """The out-of-fold predictions for the labelled rows of train and val; those of calib and test take no part.

    No group is divided between the rows that a head has learned from and those that it predicts. Raises DatasetError
    where there are not two classes, or one lacks a second group.
    """
    config, rows = features.config, features.manifest.split("train", "val")
    classes = tuple(sorted({row.label for row in rows}))
    if len(classes) < 2:
        raise DatasetError(
            f"the labelled rows of train and val have {f'one class, {classes[0]}' if classes else 'no class'}; expected "
            "at least two. Label some images of each class first"
        )
    targets, data = targets_of(rows, classes), data_hash(row_hashes(features.manifest, rows))
    divisions = [divide_groups(rows, targets, classes, config, division) for division in range(config.divisions)]
    total = len(config.networks) * sum(fold_of.max() + 1 for fold_of in divisions)
    probabilities, inputs, heads, fitted = [], [], [], 0
    for at, text in enumerate(config.networks):
        read = features.read(text, rows)
        for division, fold_of in enumerate(divisions):
            logits, own = np.zeros((len(rows), len(classes))), []
            for fold in range(fold_of.max() + 1):
                features.tick("out-of-fold heads", fitted, total)
                settings = {"network": text, "measures": config.measures, "penalty": config.penalty, "folds": config.folds,
                            "division": config.seed + division, "fold": fold}  # fmt: skip
                key = artifact_key({"data": data}, settings, versions(MADE_WITH))
                path = features.folder / "heads" / f"{at}-{division}-{fold}.safetensors"
                left_out = fold_of == fold
                if not path.exists() or read_metadata(path)["key"] != key:
                    head = fit_head(read[~left_out], targets[~left_out], config.penalty)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_file(path, save_arrays(head, {"key": key}))
                own.append(load_file(path))
                logits[left_out] = apply_head(own[-1], read[left_out])
                fitted += 1
            probabilities.append(softmax(logits))
            inputs.append(text)
            heads.append(own)
    features.tick("out-of-fold heads", fitted, total)
    return Reviewed(rows, classes, np.stack(probabilities), inputs, heads)


def predict_pool(features: Features, reviewed: Reviewed, pool: list[LogoRow]) -> tuple[np.ndarray, np.ndarray]:
    """Logits (M, N, K) of the N rows of the pool, by the heads of all folds, and the features (N, F) of one input."""
    read = {text: features.read(text, pool) for text in features.config.networks}
    members = [
        apply_head(head, read[text])
        for text, heads in zip(reviewed.inputs, reviewed.heads, strict=True) for head in heads
    ]  # fmt: skip
    return np.stack(members), read[reviewed.inputs[0]]


def divide_groups(
    rows: Sequence[LogoRow], targets: np.ndarray, classes: tuple[str, ...], config: ReviewConfig, division: int
) -> np.ndarray:
    """(N,) the fold of each row: whole groups, the classes in about equal shares; at most `config.folds`, at least two.

    Raises DatasetError where a class would be missing among the other folds.
    """
    groups = np.array([row.group for row in rows])
    few = [name for at, name in enumerate(classes) if len(set(groups[targets == at])) < 2]
    if few:
        raise DatasetError(
            f"in train and val, class {', '.join(few)} has images of one group only; expected at least two groups for each "
            "class, as a group is judged by models that have not seen it. Label more images of it, or leave it out"
        )
    folds = min(config.folds, int(np.bincount(targets).max()), len(set(groups)))
    split = StratifiedGroupKFold(folds, shuffle=True, random_state=config.seed + division)
    fold_of = np.zeros(len(rows), int)
    with warnings.catch_warnings():  # a class of few logos is in few folds, which is all that can be done
        warnings.filterwarnings("ignore", "The least populated class in y", UserWarning)
        for fold, (_, left_out) in enumerate(split.split(groups, targets, groups)):
            fold_of[left_out] = fold
    lacking = [name for at, name in enumerate(classes) if len(set(fold_of[targets == at])) < 2]
    if lacking:
        raise DatasetError(
            f"in train and val, all groups of class {', '.join(lacking)} fell into one fold; label more images of it"
        )
    return fold_of


def fit_head(features: np.ndarray, targets: np.ndarray, penalty: float) -> dict[str, np.ndarray]:
    """Weight (F, K) and bias (K,) float32 of a logistic regression on the standardised (N, F) features, for raw ones."""
    scaler, regression = StandardScaler().fit(features), LogisticRegression(C=1 / penalty, max_iter=MOST_STEPS)
    with warnings.catch_warnings():  # nearly converged is as good here
        warnings.filterwarnings("ignore", "lbfgs failed to converge", UserWarning)
        regression.fit(scaler.transform(features), targets)
    weight, bias = regression.coef_, regression.intercept_  # (K, F); (1, F) of two classes, that of the second
    if len(weight) == 1:
        weight, bias = np.concatenate([0 * weight, weight]), np.concatenate([0 * bias, bias])
    weight = weight / scaler.scale_
    return {
        "weight": np.ascontiguousarray(weight.T, np.float32),
        "bias": (bias - weight @ scaler.mean_).astype(np.float32),
    }


def apply_head(head: dict[str, np.ndarray], features: np.ndarray) -> np.ndarray:
    """(N, K) logits of (N, F) features."""
    return features @ head["weight"] + head["bias"]
