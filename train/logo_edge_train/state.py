"""What an interrupted fit, or search, goes on from: networks, optimizers' moments, buffers of an objective that has any, history.

All in one safetensors file, written whole or not at all.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import nn

from logo_edge.errors import RunError
from logo_edge.files import write_file


def save_state(
    path: Path,
    network: nn.Module,
    ema: nn.Module,
    optimizer: torch.optim.Optimizer,
    history: list[dict],
    key: str,
    objective: nn.Module | None = None,
) -> None:
    """Writes all that a fit needs to go on after its last epoch, whole or not at all; `key` is its artifact_key."""
    metadata = {"history": json.dumps(history), "key": key}
    save_modules(path, _modules(network, ema, objective), {"optimizer": optimizer}, metadata)


def load_state(
    path: Path,
    network: nn.Module,
    ema: nn.Module,
    optimizer: torch.optim.Optimizer,
    key: str,
    objective: nn.Module | None = None,
) -> list[dict]:
    """The records of the epochs that are done, their weights and moments put in place; none where there is no file.

    Raises RunError where the file is of a fit with another key.
    """
    if not path.exists():
        return []
    metadata = read_metadata(path)
    if metadata.get("key") != key:
        raise RunError(
            f"{path} was written by a fit of other settings, data or versions; remove it, or give this run another folder"
        )
    load_modules(path, _modules(network, ema, objective), {"optimizer": optimizer})
    return json.loads(metadata["history"])


def read_history(path: Path) -> list[dict]:
    """The records of the epochs from which a fit would go on; none where it would begin."""
    return json.loads(read_metadata(path)["history"]) if path.exists() else []


def save_modules(
    path: Path, modules: dict[str, nn.Module], optimizers: dict[str, torch.optim.Optimizer], metadata: dict[str, str]
) -> None:
    """Writes the modules' tensors and the optimizers' moments, each under its name, whole or not at all."""
    tensors = {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    for name, optimizer in optimizers.items():
        for index, slots in optimizer.state_dict()["state"].items():
            tensors |= {f"{name}.{index}.{slot}": value for slot, value in slots.items()}
    # not save_file: it puts another file in the place of the part, which then is not locked, and is deleted as a leftover
    write_file(path, save({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, metadata))


def read_metadata(path: Path) -> dict[str, str]:
    """What `save_modules` was told besides."""
    with safe_open(path, "pt") as file:
        return file.metadata()


def load_modules(path: Path, modules: dict[str, nn.Module], optimizers: dict[str, torch.optim.Optimizer]) -> None:
    """Puts back in place what `save_modules` wrote."""
    tensors = load_file(path)
    for name, module in modules.items():
        module.load_state_dict({k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")})
    for name, optimizer in optimizers.items():
        slots: dict[int, dict] = {}
        for key, value in tensors.items():
            if key.startswith(f"{name}."):
                _, index, slot = key.split(".")
                slots.setdefault(int(index), {})[slot] = value
        if slots:
            optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})


def _modules(network: nn.Module, ema: nn.Module, objective: nn.Module | None) -> dict[str, nn.Module]:
    return {"network": network, "ema": ema} | ({"objective": objective} if objective else {})
