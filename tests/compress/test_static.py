"""Export and INT8: the artifacts read uint8, agree with their parents, and are refused where they do not."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from logo_edge.errors import VerificationError
from logo_edge_compress.onnx.export import export_onnx
from logo_edge_compress.onnx.graph import IR_VERSION, PIXELS
from logo_edge_compress.quantize.rounding import round_rows
from logo_edge_compress.quantize.static import METHODS, quantize_body, round_body
from logo_edge_compress.verify import EXPORTED, QUANTIZED, Tolerance, compare_logits, run_onnx, verify
from logo_edge_train.models import LogoNetwork

SIZE = 48


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """(network, pixels (24, S, S, 3), its logits, folder with body.onnx and fp32.onnx) of a small ReLU network."""
    folder = tmp_path_factory.mktemp("artifacts")
    torch.manual_seed(0)
    network = LogoNetwork("mobilenetv4_conv_small_050", 5).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (24, SIZE, SIZE, 3), dtype=np.uint8)
    export_onnx(network, SIZE, folder / "fp32.onnx", body=folder / "body.onnx")
    with torch.no_grad():
        return network, pixels, network(torch.from_numpy(pixels)).numpy(), folder


def test_the_exported_graph_gives_the_networks_logits(student):
    _, pixels, logits, folder = student
    logits_of_artifact = run_onnx(folder / "fp32.onnx", pixels)
    assert logits_of_artifact.shape == (24, 5)
    assert verify(logits, logits_of_artifact, EXPORTED, "fp32").images == 24


def test_the_batch_size_is_free(student):
    _, pixels, _, folder = student
    one = run_onnx(folder / "fp32.onnx", pixels[:1], batch_size=1)
    many = run_onnx(folder / "fp32.onnx", pixels, batch_size=7)
    assert np.abs(many[0] - one[0]).max() < 1e-4


def test_the_graph_is_pinned_for_old_runtimes_and_reads_uint8_pixels(student):
    model = onnx.load(student[3] / "fp32.onnx")
    assert model.ir_version <= IR_VERSION
    assert [value.name for value in model.graph.input] == [PIXELS]
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


@pytest.fixture(scope="module")
def quantize(student, tmp_path_factory):
    """(method, reduce_range) -> the INT8 graph, beside its rounded.onnx; each is made once."""
    _, pixels, _, folder = student
    body = folder / "body.onnx"

    @cache
    def round_once(reduce_range: bool) -> Path:
        return round_body(body, pixels, tmp_path_factory.mktemp("rounded") / "rounded.onnx", reduce_range=reduce_range)

    @cache
    def make(method: str, reduce_range: bool) -> Path:
        rounded = round_once(reduce_range)
        return quantize_body(
            body, rounded, pixels, SIZE, rounded.with_name(f"{method}.onnx"), method=method, reduce_range=reduce_range
        )

    return make


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("reduce_range", [True, False])
def test_int8_keeps_most_of_the_signal_and_shrinks_the_file(student, quantize, method, reduce_range):
    _, pixels, logits, folder = student
    path = quantize(method, reduce_range)
    parity = compare_logits(logits, run_onnx(path, pixels))
    assert parity.mean_difference < 0.5 * float(np.abs(logits - logits.mean(0)).mean() + logits.std())
    assert path.stat().st_size < 0.45 * (folder / "fp32.onnx").stat().st_size


def test_the_int8_graph_takes_the_pixels_as_they_are_quantized_already(quantize):
    graph = onnx.load(quantize("minmax", True)).graph
    transposed = next(node for node in graph.node if node.op_type == "Transpose").output[0]
    assert [node.op_type for node in graph.node if transposed in node.input] == ["DequantizeLinear"]
    weights = [
        onnx.numpy_helper.to_array(value) for value in graph.initializer if value.data_type == onnx.TensorProto.INT8
    ]
    kernels = [array for array in weights if array.ndim == 4]
    assert len(kernels) > 10
    wide = [array for array in kernels if array.shape[1] > 1]
    assert max(int(np.abs(array.astype(int)).max()) for array in wide) <= 64, "7 bits with reduce_range"


def test_weights_are_rounded_such_that_flat_regions_keep_their_value():
    random = np.random.default_rng(0)
    rows = random.normal(size=(16, 27))
    rows[:, 0] *= 20  # one tap takes the whole range
    flat = np.ones((27, 200)) + random.normal(0, 0.05, (27, 200))
    scale = np.abs(rows).max(axis=1, keepdims=True) / 64
    rounded = round_rows(rows, scale[:, 0], 64, flat @ flat.T)
    nearest = np.round(rows / scale) * scale
    assert np.allclose(rounded / scale, np.round(rounded / scale), atol=1e-6), "on the grid"
    assert np.abs((rounded - rows) @ flat).mean() < 0.25 * np.abs((nearest - rows) @ flat).mean()


def test_rounded_weights_survive_the_quantizer_unchanged(quantize):
    path = quantize("minmax", True)
    model, rounded = onnx.load(path), onnx.load(path.with_name("rounded.onnx"))
    kernels = {conv.name: conv.input[1] for conv in rounded.graph.node if conv.op_type == "Conv"}
    constants = {value.name: onnx.numpy_helper.to_array(value) for value in model.graph.initializer}
    targets = {value.name: onnx.numpy_helper.to_array(value) for value in rounded.graph.initializer}
    makers = {node.output[0]: node for node in model.graph.node}
    for conv in (node for node in model.graph.node if node.op_type == "Conv"):
        integers, scale = (constants[name] for name in makers[conv.input[1]].input[:2])
        assert np.allclose(integers * scale.reshape(-1, 1, 1, 1), targets[kernels[conv.name]], atol=1e-5)


def test_corrected_biases_keep_the_mean_of_the_logits(student, quantize):
    _, pixels, logits, _ = student
    logits_of_artifact = run_onnx(quantize("minmax", True), pixels)
    assert np.abs(logits_of_artifact.mean(0) - logits.mean(0)).max() < 0.2 * logits.std()


def test_an_artifact_that_computes_something_else_is_refused():
    random = np.random.default_rng(0)
    parent = random.normal(0, 3, (50, 4))
    with pytest.raises(VerificationError, match="top-1 agreement"):
        verify(parent, random.normal(0, 3, (50, 4)), QUANTIZED, "broken.onnx")


def test_an_artifact_that_gives_nan_is_refused():
    parent = np.zeros((4, 3))
    with pytest.raises(VerificationError):
        verify(parent, np.full((4, 3), np.nan), Tolerance(1.0, 0.0, 1.0), "nan.onnx")


def test_equal_logits_are_at_parity():
    logits = np.random.default_rng(1).normal(size=(9, 4))
    parity = verify(logits, logits.copy(), EXPORTED, "same")
    assert (parity.max_difference, parity.top1_agreement, parity.images) == (0.0, 1.0, 9)
    assert parity.kl_nats == pytest.approx(0, abs=1e-12)
