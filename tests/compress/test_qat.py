"""Fine-tuning computes the INT8 artifact as ONNX Runtime does, learns from its parent and writes integers back."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch.nn import functional

from logo_edge.errors import VerificationError
from logo_edge_compress.onnx.export import export_body
from logo_edge_compress.onnx.graph import save_model
from logo_edge_compress.quantize.qat import QuantizedNetwork
from logo_edge_compress.quantize.static import quantize_body
from logo_edge_compress.verify import run_onnx
from logo_edge_train.models import LogoNetwork

SIZE = 48
STUDENTS = ("mobilenetv4_conv_small_050", "mobilenetv3_small_050", "test_resnet")


@pytest.fixture(scope="module", params=STUDENTS)
def artifact(request, tmp_path_factory):
    """(network, pixels (24, S, S, 3), INT8 artifact) of a student whose weights are rounded to the nearest value."""
    folder = tmp_path_factory.mktemp("finetune")
    torch.manual_seed(0)
    network = LogoNetwork(request.param, 5).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (24, SIZE, SIZE, 3), dtype=np.uint8)
    with torch.no_grad():  # batch statistics of these images, so that activations have a range worth quantizing
        network.train()(torch.from_numpy(pixels))
        network.eval()
    body = folder / "body.onnx"
    export_body(network, SIZE, body)
    path = quantize_body(body, body, pixels, SIZE, folder / "int8.onnx", method="minmax", reduce_range=True)
    return network, pixels, path


def test_the_network_computes_what_onnx_runtime_computes(artifact):
    _, pixels, path = artifact
    network = QuantizedNetwork(onnx.load(path), reduce_range=True)
    with torch.no_grad():
        network_logits = network(torch.from_numpy(pixels)).numpy()
    expected = run_onnx(path, pixels)
    assert np.abs(network_logits - expected).max() < 0.1 * expected.std() + 0.03
    assert (network_logits.argmax(1) == expected.argmax(1)).mean() > 0.9


def test_what_has_learned_nothing_is_written_back_unchanged(artifact):
    path = artifact[2]
    model = onnx.load(path)
    QuantizedNetwork(model, reduce_range=True).write_integers(model)
    assert model.SerializeToString() == onnx.load(path).SerializeToString()


def test_weights_off_their_grid_count_as_what_they_are_rounded_to(artifact, tmp_path):
    _, pixels, path = artifact
    model = onnx.load(path)
    network = QuantizedNetwork(model, reduce_range=True)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, (steps, _, axis, _) in network.grids.items():
            weight = network.learned[name.replace(".", "/")]
            shape = [-1 if index == axis else 1 for index in range(weight.ndim)]
            weight += 0.8 * (torch.rand(weight.shape, generator=random) - 0.5) * steps.reshape(shape)
        logits = network(torch.from_numpy(pixels)).numpy()
    assert np.abs(logits - run_onnx(path, pixels)).max() < 0.1 * logits.std() + 0.03
    network.write_integers(model)
    assert model.SerializeToString() == onnx.load(path).SerializeToString()


@pytest.mark.parametrize("artifact", ["test_resnet"], indirect=True)  # the others say little before they are trained
def test_learning_mends_a_damaged_artifact_and_keeps_to_the_grid(artifact, tmp_path):
    parent, pixels, path = artifact
    with torch.no_grad():
        target = parent(torch.from_numpy(pixels))
    model = onnx.load(path)
    network = QuantizedNetwork(model, reduce_range=True)
    random = torch.Generator().manual_seed(0)
    for name, (steps, _, axis, _) in network.grids.items():
        weight = network.learned[name.replace(".", "/")]
        shape = [-1 if index == axis else 1 for index in range(weight.ndim)]
        weight.data += 6 * torch.randn(weight.shape, generator=random) * steps.reshape(shape)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-4)
    losses = []
    for _ in range(25):
        loss = functional.mse_loss(network(torch.from_numpy(pixels)), target)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.write_integers(model)
    save_model(model, tmp_path / "tuned.onnx")
    artifact_logits = run_onnx(tmp_path / "tuned.onnx", pixels)
    assert ((artifact_logits - target.numpy()) ** 2).mean() < 0.5 * losses[0]
    with torch.no_grad():
        learned = network(torch.from_numpy(pixels)).numpy()
    assert np.abs(learned - artifact_logits).max() < 0.1 * learned.std() + 0.03
    arrays = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    wide = [array for array in arrays if array.dtype == np.int8 and array.ndim == 4 and array.shape[1] > 1]
    assert len(wide) >= 4
    assert max(int(np.abs(array.astype(int)).max()) for array in wide) <= 64


def test_an_operator_that_is_not_known_is_named():
    graph = helper.make_graph(
        [helper.make_node("Softplus", ["pixels"], ["logits"])],
        "odd",
        [helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [1])],
    )
    with pytest.raises(VerificationError, match="operators that fine-tuning does not know: Softplus"):
        QuantizedNetwork(helper.make_model(graph), reduce_range=True)
