"""TorchScript, for programs built on libtorch."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch

from logo_edge_compress.audit import Audit
from logo_edge_compress.convert.request import Request
from logo_edge_compress.convert.source import Source
from logo_edge_compress.distill.distill import load_student
from logo_edge_compress.onnx.export import export_torchscript
from logo_edge_compress.verify import EXPORTED, open_artifact, run_artifact
from logo_edge_train.keys import file_hash
from logo_edge_train.runs import read_run

LAYERS = ("aten::_convolution", "aten::conv2d", "aten::linear", "aten::addmm", "aten::matmul")


def convert(request: Request, source: Source) -> dict:
    """Writes the student of the run as a module and returns its verification and parent."""
    network = load_student(source.student.parent, len(read_run(source.run).classes)).network
    with torch.no_grad():
        parent = run_artifact(lambda pixels: network(torch.from_numpy(pixels)).numpy(), request.images.verifying, None)
    path = export_torchscript(network, source.input.size_px, request.path.with_suffix(".pt"))
    record = replace(request, parent=parent).verify(open_artifact("torchscript", path), EXPORTED, path.name, "torch")
    record |= request.audit(audit(path), path.name)
    return record | {"parent": {"file": source.student.name, "sha256": file_hash(source.student)}}


def audit(path: Path) -> Audit:
    """The audit of the module at `path`: its graph has one type, that of its weights."""
    module = torch.jit.load(path)
    nodes = list(module.inlined_graph.nodes())
    operators = Counter(node.kind() for node in nodes)
    tensors = [
        node.t("value")
        for node in nodes
        if node.kind() == "prim::Constant" and node.hasAttribute("value") and node.kindOf("value") == "t"
    ]
    sizes: Counter = Counter()
    for tensor in [*tensors, *module.parameters(), *module.buffers()]:
        sizes[str(tensor.dtype).removeprefix("torch.")] += tensor.nbytes
    layers = [node.kind() for node in nodes if node.kind() in LAYERS]
    kind = max(sizes, key=sizes.__getitem__)
    return Audit({f"{name} {index}": kind for index, name in enumerate(layers)}, dict(operators), dict(sizes))
