"""Peer without a network: OpenCV features and gradient boosting, with the number of trees chosen on val.

python benchmarks/peers/classical.py train
python benchmarks/peers/classical.py measure
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import peer

from logo_edge.files import replacing
from logo_edge_bench.systems import System

NAME = "classical"
TREES = (50, 100, 200, 400)


def train(data: peer.Data, work: Path, epochs: int | None) -> None:
    """Features are kept between calls; --epochs gives a single number of trees."""
    import joblib
    from sklearn.ensemble import HistGradientBoostingClassifier

    sys.path.insert(0, str(peer.SUBJECTS))
    from classical_subject import features

    key = {"trees": [epochs] if epochs else list(TREES), "images": len(data.files("train")[0]), "labels": data.digest}
    if peer.finished(work, key):
        print(f"{NAME}: done before")
        return
    rows, targets = {}, {}
    for split in peer.SPLITS:
        paths, targets[split] = data.files(split)
        kept = work / f"{split}-{len(paths)}-{data.digest}.npy"
        if not kept.exists():
            np.save(kept, np.stack([features(str(path)) for path in paths]))
        rows[split] = np.load(kept)
    best = -1.0
    for trees in key["trees"]:
        model = HistGradientBoostingClassifier(
            max_iter=trees, learning_rate=0.08, l2_regularization=1.0, random_state=0
        )
        accuracy = model.fit(rows["train"], targets["train"]).score(rows["val"], targets["val"])
        print(f"{NAME}: {trees} trees, val {accuracy:.1%}")
        if accuracy > best:
            best = accuracy
            with replacing(work / "model.joblib") as part:
                joblib.dump({"model": model, "labels": list(data.labels)}, part)
    peer.finish(work, key)


def systems(work: Path, threads: int) -> list[System]:
    peer.need(work / "done.json", NAME)
    options = {"model": peer.need(work / "model.joblib", NAME), "threads": threads}
    return [
        System(
            "OpenCV features, gradient boosting",
            str(peer.SUBJECTS / "classical_subject.py"),
            options,
            threads,
            kind="peer",
        )
    ]


if __name__ == "__main__":
    peer.main(sys.modules[__name__])
