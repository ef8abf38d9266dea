"""What an interrupted fit goes on from: both networks, the optimizer's moments, the buffers of an objective that has any,
and the history, in one safetensors file."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from logo_edge.errors import RunError
from logo_edge_train.recipe import FitConfig


def save_state(
    path: Path, network: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer, history: list[dict],
    config: FitConfig, objective: nn.Module | None = None,
) -> None:  # fmt: skip
    """Writes all that a fit needs to go on after its last epoch, whole or not at all."""
    tensors = {f"network.{key}": value for key, value in network.state_dict().items()}
    tensors |= {f"ema.{key}": value for key, value in ema.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{slot}": value for slot, value in slots.items()}
    tensors |= {f"objective.{key}": value for key, value in (objective.state_dict() if objective else {}).items()}
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    metadata = {"history": json.dumps(history), "config": json.dumps(asdict(config))}
    part = path.with_suffix(".part")
    save_file(tensors, part, metadata)
    os.replace(part, path)


def read_history(path: Path) -> list[dict]:
    """The records of the epochs from which a fit would go on; none where it would begin."""
    if not path.exists():
        return []
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["history"])


def load_state(
    path: Path, network: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer, config: FitConfig,
    objective: nn.Module | None = None,
) -> list[dict]:  # fmt: skip
    """The records of the epochs that are done, their weights and moments put in place; none where there is no file.

    Raises RunError where the file is of another configuration.
    """
    if not path.exists():
        return []
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        if not _describes(metadata["config"], config):
            raise RunError(f"{path} was written by another configuration; remove it, or give this run another folder")
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open is no dict)
    modules = {"network.": network, "ema.": ema} | ({"objective.": objective} if objective else {})
    for prefix, module in modules.items():
        module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    slots: dict[int, dict] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, slot = key.split(".")
            slots.setdefault(int(index), {})[slot] = value
    if slots:
        optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    return json.loads(metadata["history"])


def _describes(text: str, config: FitConfig) -> bool:
    """Whether a state's text is that of this configuration; a setting that is newer than the state counts as its default."""
    try:
        found = {**asdict(FitConfig()), **json.loads(text)}
    except ValueError:  # of before there were such texts
        return False
    return found == json.loads(json.dumps(asdict(config)))
