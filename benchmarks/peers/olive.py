"""Peer: the networks of the timm peer, quantized to INT8 by Microsoft's Olive in its own environment (MIT).

python benchmarks/peers/olive.py train       # after timm_finetune.py train
python benchmarks/peers/olive.py measure
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import peer
import timm_finetune

from logo_edge.errors import LogoEdgeError
from logo_edge_bench.systems import System
from logo_edge_train.keys import file_hash

NAME, FILE = "olive", "int8-olive.onnx"


def train(data: peer.Data, work: Path, epochs: int | None) -> None:
    """Quantizes every trained network; with or without its first convolutions, by val."""
    images = timm_finetune.Images.read(data)
    for name, trained in _trained(work).items():
        (folder := work / name).mkdir(exist_ok=True)
        key = data.key(graph=file_hash(trained / "fp32.onnx"))
        if peer.finished(folder, key):
            continue
        shutil.copy2(trained / "fp32.onnx", folder / "fp32.onnx")
        shutil.copy2(trained / "model.json", folder / "model.json")
        peer.own_python(NAME)
        with peer.timing(folder):
            timm_finetune.choose_int8(folder, images, NAME, quantize)
        peer.finish(folder, key, peer.about(trained, "timm_finetune", "")["learned_from"], trained)


def quantize(fp32: Path, int8: Path, inputs: list[np.ndarray], in_float: list[str]) -> None:
    with tempfile.TemporaryDirectory(dir=int8.parent) as folder:
        np.save(Path(folder) / "inputs.npy", np.concatenate(inputs))
        request = {
            "fp32": str(fp32.absolute()),
            "inputs": str((Path(folder) / "inputs.npy").absolute()),
            "in_float": in_float,
            "settings": {"OLIVE_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"},
        }
        peer.run_inside(NAME, request, Path(folder))
        (Path(folder) / "olive.onnx").replace(int8)


def systems(work: Path, threads: int) -> list[System]:
    """Each network in ONNX Runtime."""
    return [
        timm_finetune.system(
            f"{timm_finetune.VARIANTS[name].title}, INT8 by Olive",
            work / name,
            FILE,
            threads,
            peer.about(work / name, NAME, f"{timm_finetune.LICENCE}; Olive: MIT"),
        )
        for name in _trained(work)
    ]


def _trained(work: Path) -> dict[str, Path]:
    """The folders of the timm peer's trained networks. Raises LogoEdgeError where there are none."""
    timm = work.with_name(work.name.replace(NAME, timm_finetune.NAME))  # the same --limit
    trained = {name: timm / name for name in timm_finetune.VARIANTS if (timm / name / "done.json").exists()}
    if not trained:
        raise LogoEdgeError(f"{timm}: nothing is trained; run first: python benchmarks/peers/timm_finetune.py train")
    return trained


if __name__ == "__main__":
    peer.main(sys.modules[__name__])
