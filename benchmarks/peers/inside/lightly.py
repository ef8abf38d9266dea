"""Distils the features of one timm network into another with LightlyTrain, on a folder of images without labels."""

from __future__ import annotations

import os
from pathlib import Path

from exchange import read_request, write_record

request = read_request()
os.environ |= request["settings"]

import lightly_train  # noqa: E402  # reads the settings
import timm  # noqa: E402
import torch  # noqa: E402


def load(part: str) -> torch.nn.Module:
    network = timm.create_model(request[part], num_classes=request["classes"])
    network.load_state_dict(torch.load(request[f"{part}_weights"], weights_only=True))
    return network


out = Path(request["folder"]) / "lightly"
lightly_train.pretrain(
    out=out,
    data=request["data"],
    model=load("student"),
    method="distillationv3",
    method_args={"teacher": load("teacher")},
    epochs=request["epochs"],
    batch_size=request["batch"],
    num_workers=0,
    accelerator="cpu",
    devices=1,
    transform_args={
        "image_size": (request["size_px"], request["size_px"]),
        "normalize": {"mean": [request["mean"] / 255] * 3, "std": [request["std"] / 255] * 3},
    },
    resume_interrupted=(out / "checkpoints" / "last.ckpt").exists(),
    overwrite=True,
)
pretrained = Path(request["folder"]) / "pretrained.pt"
pretrained.write_bytes((out / "exported_models" / "exported_last.pt").read_bytes())
write_record(request, [pretrained])
