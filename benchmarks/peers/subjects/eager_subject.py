"""A timm network in eager PyTorch, by hand: Pillow, torchvision, inference_mode."""

from __future__ import annotations

import json
from pathlib import Path

import timm
import torch
from by_hand import ByHand, letterbox
from torchvision.transforms import v2


def load(labels: list[str], model: str, about: str, threads: int) -> Eager:
    torch.set_num_threads(threads)
    return Eager(labels, Path(model), json.loads(Path(about).read_text()))


class Eager(ByHand):
    def __init__(self, labels: list[str], path: Path, about: dict):
        super().__init__(labels, about["labels"])
        self.network = timm.create_model(about["network"], num_classes=len(about["labels"]))
        self.network.load_state_dict(torch.load(path, weights_only=True)["network"])
        self.network.eval()
        self.path, self.size = path, about["size_px"]
        self.normalise = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32), v2.Normalize([127.0] * 3, [128.0] * 3)])

    def describe(self) -> dict:
        return {
            "size_bytes": self.path.stat().st_size,
            "precision": "fp32",
            "backend": f"torch {torch.__version__}",
            "input_px": self.size,
        }

    def read(self, path: str) -> torch.Tensor:
        return self.normalise(letterbox(path, self.size))[None]

    @torch.inference_mode()
    def classify(self, planes: torch.Tensor) -> torch.Tensor:
        return self.network(planes).softmax(1)

    def join(self, parts: list) -> torch.Tensor:
        return torch.cat(parts)
