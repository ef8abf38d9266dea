"""Peer: Ultralytics YOLO11n-cls, trained, exported and run by its own package, as its users do.

Its licence is AGPL-3.0: it has its own environment and process, and no part of it enters this project. Its pretrained
weights come from a hub that cannot be reached here, so it is trained from scratch; the tables say so.

    python benchmarks/peers/yolo.py train        # 60 epochs; resumes
    python benchmarks/peers/yolo.py measure
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import peer

from logo_edge.errors import LogoEdgeError
from logo_edge_bench.systems import System

NAME = "yolo"
EPOCHS, SIZE_PX = 60, 128
PACKAGES = ["ultralytics-opencv-headless==8.4.190", "onnxslim==0.1.98"]  # the latter for its export's simplify step
TRAIN = """
import json, sys
from pathlib import Path
from ultralytics import YOLO
from ultralytics.utils.torch_utils import strip_optimizer
data, work, epochs, size = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
last, best = (work / "fit" / "weights" / name for name in ("last.pt", "best.pt"))
if last.exists():
    model = YOLO(str(last))
    if 0 <= model.ckpt["epoch"] < epochs - 1:  # -1: finished and stripped; the last epoch: only stripping is left
        model.train(resume=True)
else:
    YOLO("yolo11n-cls.yaml").train(data=data, epochs=epochs, imgsz=size, project=str(work), name="fit", exist_ok=True,
                                   device="cpu", workers=0, plots=False, seed=0, verbose=False, pretrained=False)
strip_optimizer(best)  # which train does at its end; once more changes nothing
YOLO(str(best)).export(format="onnx", imgsz=size, device="cpu")
"""


def train(data: peer.Data, work: Path, epochs: int | None) -> None:
    """Trains from scratch, goes on with last.pt where it was interrupted, and exports the best epoch to ONNX.

    What was trained with other settings is deleted.
    """
    key = {"epochs": epochs or EPOCHS, "images": len(data.files("train")[0]), "labels": data.digest, "size_px": SIZE_PX}
    if peer.finished(work, key):
        print(f"{NAME}: done before")
        return
    begun = work / "begun.json"
    if not begun.exists() or json.loads(begun.read_text(encoding="utf-8")) != key:
        shutil.rmtree(work / "fit", ignore_errors=True)
        begun.write_text(json.dumps(key) + "\n", encoding="utf-8")
    python = peer.own_python(work, PACKAGES, share=True)
    arguments = [str(data.root.absolute()), str(work.absolute()), str(key["epochs"]), str(SIZE_PX)]
    done = subprocess.run([python, "-c", TRAIN, *arguments], env=_training_environment(work), check=False)
    if done.returncode:
        raise LogoEdgeError(f"{NAME}: training ended with status {done.returncode}; run it again to go on")
    peer.finish(work, key)


def systems(work: Path, threads: int) -> list[System]:
    """Its default predict on the PyTorch weights, and predict on the exported ONNX."""
    python = peer.need(work / "environment" / "bin" / "python", "yolo")
    peer.need(work / "done.json", "yolo")
    return [
        System(
            f"YOLO11n-cls, predict, {label}",
            str(peer.SUBJECTS / "yolo_subject.py"),
            {"model": peer.need(work / "fit" / "weights" / file, "yolo"), "size_px": SIZE_PX, "threads": threads},
            threads,
            kind="peer",
            python=python,
            note="from scratch, its weights cannot be had here",
            environment=_settings(work),
        )
        for label, file in [("PyTorch", "best.pt"), ("ONNX", "best.onnx")]
    ]


def _training_environment(work: Path) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | _settings(work)


def _settings(work: Path) -> dict[str, str]:
    """No look for updates, no pip, no accounts, its settings inside the work folder."""
    return {
        "YOLO_CONFIG_DIR": str(work.absolute()),
        "YOLO_OFFLINE": "True",
        "YOLO_AUTOINSTALL": "False",
        "WANDB_MODE": "disabled",
    }


if __name__ == "__main__":
    peer.main(sys.modules[__name__])
