"""The state of an interrupted fit or search: networks, optimizer moments, the objective's buffers, and the history.

One safetensors file, written atomically.
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
    """Writes the state after an epoch, atomically; `key` is the artifact_key of the fit."""
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
    """Restores weights and moments in place; returns the records of the finished epochs, [] if there is no file.

    Raises RunError if the file has another key.
    """
    if not path.exists():
        return []
    metadata = read_metadata(path)
    if metadata.get("key") != key:
        raise RunError(
            f"{path} was written by a fit of other settings, data or versions; remove it, or give this run another "
            "folder"
        )
    load_modules(path, _modules(network, ema, objective), {"optimizer": optimizer})
    return json.loads(metadata["history"])


def read_history(path: Path) -> list[dict]:
    """The records of the finished epochs; [] if there is no file."""
    return json.loads(read_metadata(path)["history"]) if path.exists() else []


def save_modules(
    path: Path, modules: dict[str, nn.Module], optimizers: dict[str, torch.optim.Optimizer], metadata: dict[str, str]
) -> None:
    """Writes the modules' tensors and the optimizers' moments, with their names as prefixes, atomically."""
    tensors = {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    for name, optimizer in optimizers.items():
        for index, slots in optimizer.state_dict()["state"].items():
            tensors |= {f"{name}.{index}.{slot}": value for slot, value in slots.items()}
    # not save_file: it would replace the locked part file by one without a lock, which is deleted as a leftover
    write_file(path, save({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, metadata))


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata that `save_modules` wrote."""
    with safe_open(path, "pt") as file:
        return file.metadata()


def load_modules(path: Path, modules: dict[str, nn.Module], optimizers: dict[str, torch.optim.Optimizer]) -> None:
    """Restores the tensors and moments that `save_modules` wrote, in place."""
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
