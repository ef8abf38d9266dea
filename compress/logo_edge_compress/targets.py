"""The targets of a compression, and the checks that refuse a request before the work begins."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from logo_edge.backends.choose import BACKENDS
from logo_edge.errors import MissingExtraError, SelectionError
from logo_edge_compress.candidates.plan import possible_names
from logo_edge_compress.convert.tensorrt import why_no_engine
from logo_edge_compress.distill.distill import check_teachers
from logo_edge_compress.pack import ARTIFACTS
from logo_edge_compress.select import Limits
from logo_edge_train.runs import Run


@dataclass(frozen=True)
class Target:
    """What a bundle is made for: its backend, and how to choose for it."""

    backend: str
    by_size: bool = False  # choose the smallest file, not the fastest
    small: bool = False  # the recipe's `max_size_mb` applies where no other limit is given


TARGETS = {
    "cpu": Target("onnxruntime", small=True),
    "openvino": Target("openvino"),
    "litert": Target("litert"),
    "jetson": Target("tensorrt"),
    "web": Target("onnxruntime", by_size=True, small=True),
    "torchscript": Target("torchscript"),
    "ncnn": Target("ncnn"),
    "mnn": Target("mnn"),
    "executorch": Target("executorch"),
    "coreml": Target("coreml", by_size=True),
    "server": Target("members"),
}


def is_measured(target: str) -> bool:
    """Whether the latencies measured on this machine are those of the target."""
    return target not in ("web", "coreml") and not (target == "jetson" and why_no_engine())


def check_carried(run: Run, carry: tuple[str, ...]) -> None:
    """Refuses at the start what no bundle of the run could carry.

    Raises SelectionError for a name that no candidate may have, MissingExtraError where a format's library is missing.
    """
    names = possible_names(run.recipe.quantize.methods)
    for name in carry:
        if name not in names:
            raise SelectionError(
                f"--carry {name}: no candidate has this name; expected one of {', '.join(sorted(names))}"
            )
        backend = name.partition("-")[2]
        if backend in ARTIFACTS and find_spec(BACKENDS[backend].library) is None:
            raise MissingExtraError(backend, BACKENDS[backend].library)


def check_targets(run: Run, targets: tuple[str, ...], limits: Limits, members: int = 0) -> None:
    """Refuses at the start what would fail after the work. `members` as for `compress`.

    Raises SelectionError for a latency limit where no target can be measured here, or for a server's bundle of fewer
    than two teachers; MissingExtraError where a target's library is not installed; RunError where the recipe distils
    the disagreement of teachers and there is one teacher.
    """
    teachers = members or len(run.record["members"])
    if "server" in targets and teachers < 2:
        others = " ".join(f"--target {target}" for target in targets if target != "server") or "--target cpu"
        raise SelectionError(
            f"--target server packs the teachers of {run.folder} together, and it has {teachers}; expected two or "
            f"more. Train with more train.teachers, or leave it out: {others}"
        )
    for target in (*ARTIFACTS, "coreml"):
        library = BACKENDS[target].library if target in BACKENDS else "coremltools"
        if target in targets and find_spec(library) is None:
            raise MissingExtraError(target, library)
    if targets != ("server",):
        check_teachers(run, run.recipe.distill)
    unmeasured = [target for target in targets if not is_measured(target)]
    if limits.latency_ms is not None and len(unmeasured) == len(targets):
        reasons = {"web": "a browser runs it", "coreml": "Apple's systems run it", "jetson": why_no_engine()}
        why = "; ".join(f"{target}: {reasons[target]}" for target in unmeasured)
        raise SelectionError(
            f"--max-latency-ms {limits.latency_ms:g} cannot be checked here ({why}); leave it out and "
            "measure on the device"
        )
