"""The server's candidate: the teachers of a run as ONNX, together."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import torch

from logo_edge.bundle.members import pool_logits, reduce_pixels
from logo_edge_compress.candidates.make import Artifact
from logo_edge_compress.candidates.store import Candidate, Plan, Task
from logo_edge_compress.onnx.export import export_onnx
from logo_edge_compress.verify import EXPORTED, compare_logits, open_onnx, run_artifact
from logo_edge_train.evaluate import ensemble_logits
from logo_edge_train.runs import save_logits


def plan_members(task: Task, count: int) -> list[Plan]:
    """The first `count` teachers of the run, each as FP32 ONNX."""
    files = [task.run.folder / member["file"] for member in task.run.record["members"][:count]]
    return [
        Plan(f"member-{index}", "fp32", "member", make_member, (checkpoint,), {"index": index})
        for index, checkpoint in enumerate(files)
    ]


def make_member(task: Task, plan: Plan, pixels: dict[str, np.ndarray], report) -> Artifact:
    """A teacher as ONNX. If it reads fewer pixels than the largest teacher, the images are reduced for it."""
    index = plan.settings["index"]
    network, size_px = task.run.load_member(index), task.run.architecture(index).size_px
    path = export_onnx(network, size_px, task.folder / f"{plan.name}.onnx")
    with torch.no_grad():
        parent = run_artifact(
            lambda part: network(torch.from_numpy(reduce_pixels(part, size_px).copy())).numpy(), pixels["val"], None
        )
    forward = open_onnx(path)
    return Artifact((path,), lambda part: forward(reduce_pixels(part, size_px)), EXPORTED, parent)


def join_members(task: Task, members: list[Candidate]) -> Candidate:
    """The ensemble of the members, with equal weights: their logits pooled as the runtime pools them."""
    weight = 1 / len(members)
    logits = [member.logits() for member in members]
    pooled = {
        name: pool_logits(
            np.stack([part[name] for part in logits]), np.full(len(members), weight), multi_label=task.run.multi_label
        )
        for name in logits[0]
    }
    save_logits(task.folder / "fp32.logits", pooled)
    multi_label = task.run.multi_label
    teachers = ensemble_logits(task.run.member_logits("val")[: len(members)], multi_label=multi_label)
    joined = [(member.path.name, task.run.architecture(index).size_px, weight) for index, member in enumerate(members)]
    return Candidate(
        task.title,
        "fp32",
        "fp32",
        "members",
        task.folder,
        "made",
        files={name: sha256 for member in members for name, sha256 in member.files.items()},
        record={
            "members": joined,
            "network": str(task.student),
            "parity": asdict(compare_logits(teachers, pooled["val"], multi_label=multi_label)),
        },
        seconds=sum(member.seconds for member in members),
    )
