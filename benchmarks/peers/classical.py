"""Peer without a network: OpenCV features and gradient boosting, with the number of trees chosen on val.

python benchmarks/peers/classical.py train
python benchmarks/peers/classical.py measure
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import peer

from logo_edge.files import replacing
from logo_edge_bench.systems import System

NAME = "classical"
TREES = (50, 100, 200, 400)


def train(data: peer.Data, work: Path, epochs: int | None) -> None:
    """Features are kept between calls; --epochs gives a single number of trees."""
    sys.path.insert(0, str(peer.SUBJECTS))
    from classical_subject import features

    key = data.key(trees=[epochs] if epochs else list(TREES))
    if peer.finished(work, key):
        return
    with peer.timing(work):
        _train(data, work, key["trees"], features)
    peer.finish(work, key, f"{key['images']} labelled logos")


def _train(data: peer.Data, work: Path, numbers: list[int], features: Callable[[str], np.ndarray]) -> None:
    import joblib
    from sklearn.ensemble import HistGradientBoostingClassifier

    rows, targets = {}, {}
    for split in peer.SPLITS:
        paths, targets[split] = data.files(split)
        kept = work / f"{split}.npy"
        if not kept.exists():
            np.save(kept, np.stack([features(str(path)) for path in paths]))
        rows[split] = np.load(kept)
    best = -1.0
    for trees in numbers:
        model = HistGradientBoostingClassifier(
            max_iter=trees, learning_rate=0.08, l2_regularization=1.0, random_state=0
        )
        accuracy = model.fit(rows["train"], targets["train"]).score(rows["val"], targets["val"])
        print(f"{NAME}: {trees} trees, val {accuracy:.1%}")
        if accuracy > best:
            best = accuracy
            with replacing(work / "model.joblib") as part:
                joblib.dump({"model": model, "labels": list(data.labels)}, part)


def systems(work: Path, threads: int) -> list[System]:
    about = peer.about(work, NAME, "BSD-3-Clause, Apache-2.0")
    options = {"model": peer.need(work / "model.joblib", NAME), "threads": threads}
    return [
        System(
            "OpenCV features, gradient boosting",
            str(peer.SUBJECTS / "classical_subject.py"),
            options,
            threads,
            kind="peer",
            about=about,
        )
    ]


if __name__ == "__main__":
    peer.main(sys.modules[__name__])
