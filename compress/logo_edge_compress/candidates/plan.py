"""Which candidates to make of a student: a list of steps, each of which plans from the candidates made so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx

from logo_edge.backends.choose import BACKENDS
from logo_edge_compress.candidates.make import (
    make_depthwise_fp32,
    make_dynamic,
    make_equalised,
    make_export,
    make_fp16,
    make_fp32,
    make_int8,
    make_mixed,
    make_nncf,
    make_stored,
    make_tuned,
)
from logo_edge_compress.candidates.store import Candidate, Plan, Task
from logo_edge_compress.convert.export import LACKS, PRECISIONS
from logo_edge_compress.quantize.qat import NOT_TUNED_BY, TUNED_BY, unknown_operators
from logo_edge_compress.quantize.static import METHODS
from logo_edge_train.keys import select_settings
from logo_edge_train.recipe import When

CAREFUL = EQUALISED, DEPTHWISE, MIXED = "int8-equalised", "int8-depthwise-fp32", "int8-mixed"  # names of candidates
STATIC = {f"int8-{method}" for method in METHODS}  # names of candidates


def make_candidates(task: Task, backends: set[str], make: Callable[[Plan], Candidate]) -> list[Candidate]:
    """All candidates of one student for these backends; `make` turns a plan into a candidate.

    The graphs for ONNX Runtime come first, as all others are made from them: FP32, its weights stored in FP16, then
    each of the recipe's methods, the closest static INT8 fine-tuned and, where the recipe wants them, one with
    equalised channels, one with depthwise layers in FP32 and one with sensitive layers in FP32.
    """
    candidates = [make(Plan("fp32", "fp32", "onnxruntime", make_fp32, (task.checkpoint,)))]
    if candidates[0].status == "made":
        for plan_step in (plan_graphs, plan_tuned, plan_equalised, plan_depthwise, plan_mixed, plan_exports):
            candidates += [make(plan) for plan in plan_step(task, candidates, backends)]
    return candidates


def possible_names(methods: Sequence[str]) -> set[str]:
    """The names that candidates of the recipe's methods may have, in all formats that a backend of ours runs."""
    further = {
        f"{precision}-{backend}"
        for backend in BACKENDS.keys() - {"onnxruntime"}
        for precision in PRECISIONS
        if has_precision(backend, precision)
    }
    return {"fp32", "fp16", "int8-tuned", *CAREFUL, *map(graph_name, methods), *further}


def graph_name(method: str) -> str:
    """The name of the candidate that the recipe's method makes for ONNX Runtime."""
    return f"{method.removeprefix('weights-')}-weights" if method.startswith("weights-") else f"int8-{method}"


def has_precision(backend: str, precision: str) -> bool:
    """Whether the backend's format has this precision."""
    return precision == "fp32" if backend == "torchscript" else precision != LACKS.get(backend)


def plan_graphs(task: Task, candidates: list[Candidate], backends: set[str]) -> list[Plan]:
    """FP16 and the recipe's methods."""
    config, sources = task.run.recipe.quantize, (task.body, task.fp32)
    plans = [Plan("fp16", "fp16", "onnxruntime", make_fp16, (task.fp32,))]
    for method in config.methods:
        settings = {"reduce_range": config.reduce_range, "method": method}
        name, precision = graph_name(method), "int8"
        if method in METHODS:
            make = make_int8
        elif method == "nncf":
            make, settings["minutes"] = make_nncf, config.nncf_minutes
        elif method == "dynamic":
            make = make_dynamic
        else:
            make, settings, precision = make_stored, {"method": method}, name
        fits = make in (make_int8, make_nncf)
        plans.append(Plan(name, precision, "onnxruntime", make, sources, settings, fits))
    return plans


def plan_tuned(task: Task, candidates: list[Candidate], backends: set[str]) -> list[Plan]:
    """The closest static INT8, fine-tuned, where the recipe asks for it and fine-tuning knows its operators."""
    config = task.run.recipe.quantize
    static = [candidate for candidate in candidates if candidate.name in STATIC and candidate.files]
    if not static or not config.finetune.epochs or unknown_operators(onnx.load(closest(static).path)):
        return []
    settings = select_settings(task.run.recipe, *TUNED_BY, without=NOT_TUNED_BY) | {"reduce_range": config.reduce_range}
    inputs = (closest(static).path, task.checkpoint, task.fp32)
    return [Plan("int8-tuned", "int8", "onnxruntime", make_tuned, inputs, settings)]


def plan_equalised(task: Task, candidates: list[Candidate], backends: set[str]) -> list[Plan]:
    """INT8 with equalised channels."""
    return _plan_careful(EQUALISED, make_equalised, task.run.recipe.quantize.equalise, task, candidates)


def plan_depthwise(task: Task, candidates: list[Candidate], backends: set[str]) -> list[Plan]:
    """INT8 with depthwise layers in FP32."""
    when = task.run.recipe.quantize.depthwise_fp32
    return _plan_careful(DEPTHWISE, make_depthwise_fp32, when, task, candidates)


def plan_mixed(task: Task, candidates: list[Candidate], backends: set[str]) -> list[Plan]:
    """INT8 with sensitive layers in FP32."""
    config = task.run.recipe.quantize
    return _plan_careful(MIXED, make_mixed, config.mixed, task, candidates, most=config.most_restored)


def _plan_careful(
    name: str, make: Callable, when: When, task: Task, candidates: list[Candidate], **settings
) -> list[Plan]:
    """The plan by the closest static INT8's method: always, or where static INT8 was refused and no INT8 was made."""
    config = task.run.recipe.quantize
    static = [candidate for candidate in candidates if candidate.name in STATIC]
    refused = any(candidate.status == "refused" for candidate in static)
    if when == "off" or (when == "needed" and (not refused or _made_int8(candidates))):
        return []
    compared = [candidate for candidate in static if candidate.files]
    method = closest(compared).name.removeprefix("int8-") if compared else "minmax"
    settings |= {"reduce_range": config.reduce_range, "method": method}
    return [Plan(name, "int8", "onnxruntime", make, (task.body, task.fp32), settings, fits=True)]


def plan_exports(task: Task, candidates: list[Candidate], backends: set[str]) -> list[Plan]:
    """FP32, FP16 and the closest INT8 for each further backend, as far as its format has them."""
    parents = {"fp32": task.fp32, "fp16": task.fp32}
    if int8 := _made_int8(candidates):
        parents["int8"] = closest(int8).path
    return [
        Plan(
            f"{precision}-{backend}",
            precision,
            backend,
            make_export,
            (parent, task.checkpoint),
            {"kind": backend},
            True,
        )
        for backend in sorted(backends - {"onnxruntime"})
        for precision, parent in parents.items()
        if has_precision(backend, precision)
    ]


def closest(candidates: list[Candidate]) -> Candidate:
    """The candidate whose predictions on val are nearest to its parent's."""
    return min(candidates, key=lambda candidate: candidate.kl_nats)


def _made_int8(candidates: list[Candidate]) -> list[Candidate]:
    return [candidate for candidate in candidates if candidate.precision == "int8" and candidate.status == "made"]
