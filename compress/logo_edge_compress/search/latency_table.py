"""The latency of a network, and of each option of a search, on this machine: as ONNX, one image, one thread."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from rich.progress import track
from torch import nn

from logo_edge.errors import RunError
from logo_edge.machine import describe_machine
from logo_edge.timing import Latency, measure_latency
from logo_edge_compress.onnx.export import export_module
from logo_edge_train.models import build_body
from logo_edge_train.models.composed import WIDTH, Head, Trunk, build_attention
from logo_edge_train.recipe import SearchConfig
from logo_edge_train.runs import write_json

CHOICES = ("backbones", "attentions", "heads")
STRIDE = 32  # of the backbones' last stage
ROUNDS = 3  # over all options by turns: a slow moment of the machine slows them all


@dataclass(frozen=True)
class LatencyTable:
    """The latency of each option on `machine`: median ms of one image of `size_px` on one thread.

    A network costs the sum of its three options; the cost of the call itself is counted with the backbone.
    """

    size_px: int
    machine: dict
    backbones: dict[str, float]
    attentions: dict[str, float]
    heads: dict[str, float]

    def costs(self, config: SearchConfig) -> list[np.ndarray]:
        """The ms of each option of the three choices. Raises RunError where the table is for another search space."""
        for choice in CHOICES:
            missing = set(getattr(config, choice)) - set(getattr(self, choice))
            if missing or self.size_px != config.size_px:
                raise RunError(
                    f"the latency table, for {self.size_px} px, lacks {', '.join(sorted(missing)) or 'this size'}; "
                    f"expected search.{choice} at {config.size_px} px. Remove it, so that it is measured again"
                )
        return [np.array([getattr(self, choice)[name] for name in getattr(config, choice)]) for choice in CHOICES]


def measure_options(config: SearchConfig, classes: int, path: Path) -> LatencyTable:
    """The latency table of the search's options; stored at `path`, and read if it is for this machine.

    Backbone (with its projection), attention block and head are exported separately. The cost of an empty call is
    subtracted from the latter two, because a whole network pays it only once.
    """
    options = {choice: list(getattr(config, choice)) for choice in CHOICES}
    if path.exists():
        table = LatencyTable(**json.loads(path.read_text(encoding="utf-8")))
        same = all(list(getattr(table, choice)) == names for choice, names in options.items())
        if same and (table.size_px, table.machine) == (config.size_px, describe_machine()):
            return table
    planes = torch.zeros(2, 3, config.size_px, config.size_px)
    features = torch.zeros(2, WIDTH, *[-(-config.size_px // STRIDE)] * 2)
    parts: dict[tuple[str, str], tuple[Callable[[], nn.Module], torch.Tensor]] = {("call", ""): (nn.Identity, features)}
    for name in config.backbones:
        parts["backbones", name] = (lambda name=name: Trunk(build_body(name, classes, size_px=config.size_px)), planes)
    for name in config.attentions:
        parts["attentions", name] = (lambda name=name: build_attention(name), features)
    for name in config.heads:
        parts["heads", name] = (lambda name=name: Head(name, classes), features)
    times: dict[tuple[str, str], list[float]] = {key: [] for key in parts}
    with tempfile.TemporaryDirectory() as folder:
        paths = {key: Path(folder) / f"{index}.onnx" for index, key in enumerate(parts)}
        for key, (build, example) in track(parts.items(), "export options", transient=True):
            export_module(build(), example, paths[key])
        for key in track(list(parts) * ROUNDS, "measure options", transient=True):
            times[key].append(onnx_latency(paths[key], parts[key][1][:1].numpy()).p50_ms)
    medians = {key: float(np.median(values_ms)) for key, values_ms in times.items()}
    call_ms = medians["call", ""]
    costs = {
        choice: {
            name: medians[choice, name] if choice == "backbones" else max(0.0, medians[choice, name] - call_ms)
            for name in names
        }
        for choice, names in options.items()
    }
    table = LatencyTable(config.size_px, describe_machine(), **costs)
    write_json(path, asdict(table))
    return table


def onnx_latency(path: Path, values: np.ndarray) -> Latency:
    """The latency of an ONNX file with one input, on these values and one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return measure_latency(lambda: session.run(None, {name: values}))


def latencies_by_turns(graphs: dict[Hashable, Path], rounds: int) -> dict[Hashable, float]:
    """Key -> median ms of one image on one thread, for ONNX files that read uint8 images, measured by turns."""
    times: dict[Hashable, list[float]] = {key: [] for key in graphs}
    for key, path in list(graphs.items()) * rounds:
        shape = [dim.dim_value for dim in onnx.load(path).graph.input[0].type.tensor_type.shape.dim[1:]]
        times[key].append(onnx_latency(path, np.zeros((1, *shape), np.uint8)).p50_ms)
    return {key: float(np.median(values_ms)) for key, values_ms in times.items()}
