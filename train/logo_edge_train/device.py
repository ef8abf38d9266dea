"""The device that networks are fitted and evaluated on."""

from __future__ import annotations

import torch

from logo_edge.errors import RunError
from logo_edge_train import distributed


def pick_device(name: str = "auto") -> torch.device:
    """The named torch device; for "auto" the GPU if there is one. Raises RunError if it cannot be used."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise RunError(f"device {name!r} cannot be used: {error}; expected auto, cpu or cuda") from error
    return torch.device(name)


def describe_device(device: torch.device) -> str:
    """The device's name for people, with the number of processes."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return f"{distributed.world_size()} x {name}" if distributed.world_size() > 1 else name
