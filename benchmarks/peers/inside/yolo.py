"""Trains, or goes on training, Ultralytics' classifier from scratch, and exports the best epoch to ONNX."""

from __future__ import annotations

import os
from pathlib import Path

from exchange import read_request, write_record

request = read_request()
os.environ |= request["settings"]

from ultralytics import YOLO  # noqa: E402  # reads the settings
from ultralytics.utils.torch_utils import strip_optimizer  # noqa: E402

weights = Path(request["folder"]) / "fit" / "weights"
last, best = weights / "last.pt", weights / "best.pt"
if last.exists():
    model = YOLO(str(last))
    if 0 <= model.ckpt["epoch"] < request["epochs"] - 1:  # -1: finished and stripped; the last one: only to be stripped
        model.train(resume=True)
else:
    YOLO(f"{request['model']}.yaml").train(
        data=request["data"],
        epochs=request["epochs"],
        imgsz=request["size_px"],
        project=request["folder"],
        name="fit",
        exist_ok=True,
        device="cpu",
        workers=0,
        plots=False,
        seed=0,
        verbose=False,
        pretrained=False,
    )
strip_optimizer(best)  # which train does at its end; once more changes nothing
YOLO(str(best)).export(format="onnx", imgsz=request["size_px"], device="cpu")
write_record(request, [])
