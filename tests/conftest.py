"""Fixtures of every room: a fake bundle that classifies colours, so that runtime tests are quick and torch-free."""

from __future__ import annotations

import json
import logging
import random
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hostile_tree import HostileTree, build_hostile_tree
from order import slowest_first
from pictures import marked

from logo_edge.bundle.calibration import Calibration, Mode
from logo_edge.bundle.record import EMBEDDING, VECTORS, Bundle, ModelEntry, list_files, write_bundle_record
from logo_edge.likeness.space import SPACE, fit_space, write_space
from logo_edge.preprocess import InputContract

LABELS = ("red", "green", "blue")  # three, and not the project's four: nothing may assume four
HEARD = {  # how loggers stand while all warnings are heard: see `heard_loggers`
    "level of the root logger": logging.WARNING,
    "level of all loggers": logging.NOTSET,
    "level of pytest's handler": logging.NOTSET,
    "level of logo_edge": logging.NOTSET,
    "disabled": (False, False, False),
    "filters": [],
}
GAIN = 6.0  # logit of a class whose channel is full


def channel_weights(classes: int) -> np.ndarray:
    """(3, K) float32: class k reads channel k modulo 3; those from the fourth on read it at half the gain."""
    weights = np.zeros((3, classes), np.float32)
    for index in range(classes):
        weights[index % 3, index] = GAIN / 255 / (1 if index < 3 else 2)
    return weights


def build_model(
    *,
    size_px: int = 16,
    classes: int = len(LABELS),
    channels: int = 3,
    batch: str | int = "batch",
    input_name: str = "pixels",
    input_type: str = "UINT8",
    output_name: str = "logits",
    output_type: str = "FLOAT",
    epistemic: bool = False,
    embedding: bool = False,
) -> bytes:
    """A serialized ONNX graph, pixels (batch, S, S, C) -> mean of each channel (batch, C) -> logits (batch, K).

    Only the colours, the first three channels, have a weight. With `epistemic` it also gives the mean of the pixels /
    255, (batch,); with `embedding` the means.
    """
    from onnx import TensorProto, helper, numpy_helper

    kind, colour = TensorProto.DataType.Value, "embedding" if embedding else "colour"
    further = [
        helper.make_node("ReduceMean", [colour], ["brightness"], axes=[1], keepdims=0),
        helper.make_node("Mul", ["brightness", "share"], ["epistemic"]),
    ]
    given = [helper.make_tensor_value_info("epistemic", TensorProto.FLOAT, [batch])] if epistemic else []
    given += [helper.make_tensor_value_info(colour, TensorProto.FLOAT, [batch, channels])] if embedding else []
    graph = helper.make_graph(
        [
            helper.make_node("Cast", [input_name], ["planes"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["planes"], [colour], axes=[1, 2], keepdims=0),
            helper.make_node("MatMul", [colour, "weights"], ["product"]),
            helper.make_node("Cast", ["product"], [output_name], to=kind(output_type)),
            *(further if epistemic else []),
        ],
        "mean-colour",
        [helper.make_tensor_value_info(input_name, kind(input_type), [batch, size_px, size_px, channels])],
        [helper.make_tensor_value_info(output_name, kind(output_type), [batch, classes]), *given],
        [
            numpy_helper.from_array(np.pad(channel_weights(classes), ((0, channels - 3), (0, 0))), "weights"),
            numpy_helper.from_array(np.float32(1 / 255), "share"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def write_bundle(
    folder: Path,
    *,
    labels: tuple[str, ...] = LABELS,
    temperature: float = 1.0,
    abstain_below: float = 0.5,
    strict_below: float | None = None,
    size_px: int = 16,
    details: bool = False,
    model: bytes | None = None,
    optional_outputs: tuple[str, ...] = (),
    embedding: bool = False,
    **calibration,
) -> Path:
    """A proper bundle in the new folder `folder`; its vectors are one image in a full colour for each label.

    `abstain_below` is that of balanced. With `embedding`, which is the mean colour, images of all colours are the space
    and its background. `calibration` holds further fields of a Calibration.
    """
    thresholds = {Mode.BEST_GUESS: 0.0, Mode.BALANCED: abstain_below, Mode.STRICT: strict_below or abstain_below}
    (folder / VECTORS).parent.mkdir(parents=True)
    contract = InputContract(size_px=size_px, details=details)
    (folder / "model.onnx").write_bytes(
        model or build_model(size_px=size_px, classes=len(labels), channels=contract.channels, embedding=embedding)
    )
    if embedding:
        colours = np.random.default_rng(0).uniform(0, 255, (500, 3)).astype(np.float32)
        write_space(fit_space(colours[:300], colours[300:]), folder / SPACE)
    vectors = []
    for index, label in enumerate(labels[:3]):
        colour = np.eye(3, dtype=int)[index] * 255
        name = f"vectors/{index}.png"
        marked(tuple(colour.tolist()), (20, 10)).save(folder / name)
        logits = colour @ channel_weights(len(labels))
        vectors.append({"image": name, "logits": logits.tolist(), "best_guess": label})
    (folder / VECTORS).write_text(json.dumps({"vectors": vectors}), encoding="utf-8")
    (folder / "card.md").write_text("# A fake\n", encoding="utf-8")
    write_bundle_record(
        Bundle(
            name="fake",
            labels=labels,
            model=ModelEntry(
                "model.onnx", "fp32", optional_outputs=(*optional_outputs, *((EMBEDDING,) if embedding else ()))
            ),
            input=contract,
            calibration=Calibration(temperature, thresholds, **calibration),
            files=list_files(folder),
            provenance={"student": "mean-colour"},
            folder=folder,
        )
    )
    return folder


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks tests of the whole system, and those with a browser, as `network`: they fetch what they need once.

    The slowest files come first, unless the order is random.
    """
    if not config.getoption("randomly_reorganize", False):
        slowest_first(items)
    system = Path(__file__).with_name("system")
    for item in items:
        if item.path.is_relative_to(system) or "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.network)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Each test, and what it is the first to set up for its file, begins with the same random numbers in any order."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def fake_model() -> Callable[..., bytes]:
    """`build_model`: the fake bundle's ONNX graph, or one that does not fit it."""
    return build_model


@pytest.fixture
def fake_bundle(tmp_path: Path) -> Callable[..., Path]:
    """A factory: the folder of a new fake bundle, told by the arguments of `write_bundle`."""
    count = 0

    def make(**options) -> Path:
        nonlocal count
        count += 1
        return write_bundle(tmp_path / f"bundle-{count}", **options)

    return make


@pytest.fixture(autouse=True)
def findings(tmp_path_factory, monkeypatch) -> Path:
    """The file of results about this machine (`cache.remembered`): a new one for each test."""
    path = tmp_path_factory.mktemp("findings") / "backends.json"
    monkeypatch.setattr("logo_edge.cache.results_file", lambda: path)
    return path


@pytest.fixture(autouse=True)
def heard_loggers(request):
    """A library that silences the loggers would let other tests wait for a warning in vain: OpenVINO raises the root
    logger's level where it refuses a graph, NNCF that of pytest's handler. All that can silence them is put back before
    and after each test, and who left it behind, also a fixture of its file, is named in the summary of warnings.
    """
    root, logger = logging.getLogger(), logging.getLogger("logo_edge")
    captured = request.config.pluginmanager.get_plugin("logging-plugin").caplog_handler

    def silencers() -> dict[str, object]:
        return {
            "level of the root logger": root.level,
            "level of all loggers": root.manager.disable,
            "level of pytest's handler": captured.level,
            "level of logo_edge": logger.level,
            "disabled": (root.disabled, logger.disabled, not logger.propagate),
            "filters": [*root.filters, *logger.filters, *captured.filters],
        }

    def put_back(where: str) -> None:
        if (found := silencers()) != HEARD:
            warnings.warn(f"{request.node.nodeid} {where} left loggers silenced: {found}", stacklevel=1)
        logging.disable(logging.NOTSET)  # this and each level also drop what loggers remember of whom they hear
        for each, level in ((root, logging.WARNING), (logger, logging.NOTSET), (captured, logging.NOTSET)):
            each.setLevel(level)
            each.filters.clear()
        for each in (root, logger):
            each.disabled, each.propagate = False, True

    put_back("or its file's fixtures")
    yield
    put_back("itself")


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium, driven by Playwright: one at a time, since its event loop runs for as long as it is open."""
    from system.browser.chromium import open_browser  # tests/ is on the path: see pyproject.toml

    with open_browser() as opened:
        yield opened


@pytest.fixture
def hostile_tree(tmp_path: Path) -> HostileTree:
    """A folder with everything that users' folders hold, read only."""
    return build_hostile_tree(tmp_path)
