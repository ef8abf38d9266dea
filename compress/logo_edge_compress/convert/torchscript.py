"""TorchScript, for programs built on libtorch."""

from __future__ import annotations

from dataclasses import replace

import torch

from logo_edge_compress.convert.request import Request
from logo_edge_compress.convert.source import Source
from logo_edge_compress.distill.distill import load_student
from logo_edge_compress.onnx.export import export_torchscript
from logo_edge_compress.verify import EXPORTED, open_artifact, run_artifact
from logo_edge_train.keys import file_hash
from logo_edge_train.runs import read_run


def convert(request: Request, source: Source) -> dict:
    """Writes the student of the run as a module and returns its verification and parent."""
    network = load_student(source.student.parent, len(read_run(source.run).classes)).network
    with torch.no_grad():
        parent = run_artifact(lambda pixels: network(torch.from_numpy(pixels)).numpy(), request.images.verifying, None)
    path = export_torchscript(network, source.input.size_px, request.path.with_suffix(".pt"))
    record = replace(request, parent=parent).verify(open_artifact("torchscript", path), EXPORTED, path.name, "torch")
    return record | {"parent": {"file": source.student.name, "sha256": file_hash(source.student)}}
