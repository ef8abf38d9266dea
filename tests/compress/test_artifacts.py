"""Export and INT8: the artifacts read uint8, agree with their parents, and are refused where they do not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from logo_edge.errors import VerificationError
from logo_edge_compress.export import IR_VERSION, PIXELS, export_body, export_onnx
from logo_edge_compress.quantize import METHODS, quantize_body
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
    export_body(network, SIZE, folder / "body.onnx")
    export_onnx(network, SIZE, folder / "fp32.onnx")
    with torch.no_grad():
        return network, pixels, network(torch.from_numpy(pixels)).numpy(), folder


def test_the_exported_graph_gives_the_networks_logits(student):
    _, pixels, logits, folder = student
    found = run_onnx(folder / "fp32.onnx", pixels)
    assert found.shape == (24, 5)
    assert verify(logits, found, EXPORTED, "fp32").images == 24


def test_the_batch_size_is_free(student):
    _, pixels, _, folder = student
    one = run_onnx(folder / "fp32.onnx", pixels[:1], batch_size=1)
    many = run_onnx(folder / "fp32.onnx", pixels, batch_size=7)
    assert np.abs(many[0] - one[0]).max() < 1e-4


def test_the_graph_is_pinned_for_old_runtimes_and_reads_uint8_pixels(student):
    model = onnx.load(student[3] / "fp32.onnx")
    assert model.ir_version <= IR_VERSION
    assert [entry.name for entry in model.graph.input] == [PIXELS]
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("reduce_range", [True, False])
def test_int8_keeps_most_of_the_signal_and_shrinks_the_file(student, tmp_path, method, reduce_range):
    _, pixels, logits, folder = student
    path = quantize_body(
        folder / "body.onnx", pixels, SIZE, tmp_path / "int8.onnx", method=method, reduce_range=reduce_range
    )
    parity = compare_logits(logits, run_onnx(path, pixels))
    assert parity.mean_difference < 0.5 * float(np.abs(logits - logits.mean(0)).mean() + logits.std())
    assert path.stat().st_size < 0.45 * (folder / "fp32.onnx").stat().st_size


def test_the_int8_graph_takes_the_pixels_as_they_are_quantized_already(student, tmp_path):
    _, pixels, _, folder = student
    path = quantize_body(folder / "body.onnx", pixels, SIZE, tmp_path / "int8.onnx", method="minmax", reduce_range=True)
    graph = onnx.load(path).graph
    transposed = next(node for node in graph.node if node.op_type == "Transpose").output[0]
    assert [node.op_type for node in graph.node if transposed in node.input] == ["DequantizeLinear"]
    weights = [
        onnx.numpy_helper.to_array(entry) for entry in graph.initializer if entry.data_type == onnx.TensorProto.INT8
    ]
    kernels = [array for array in weights if array.ndim == 4]
    assert len(kernels) > 10
    assert max(int(np.abs(array.astype(int)).max()) for array in kernels) <= 64, "7 bits with reduce_range"


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
