"""Every way to quantize: its effect on size and logits, and on which layers."""

from __future__ import annotations

import logging
import re

import numpy as np
import onnx
import pytest
import torch

from logo_edge.errors import VerificationError
from logo_edge_compress.onnx.export import export_body, export_onnx
from logo_edge_compress.quantize.nncf import quantize_with_nncf, restore_with_nncf
from logo_edge_compress.quantize.sensitivity import measure_sensitivity, mix_precision
from logo_edge_compress.quantize.static import (
    METHODS,
    explain_range,
    quantize_body,
    quantize_dynamically,
    quiet_quantizer,
    round_body,
)
from logo_edge_compress.quantize.weight_only import store_int4, store_int8
from logo_edge_compress.verify import Tolerance, compare_logits, run_onnx
from logo_edge_train.models import LogoNetwork

SIZE, CLASSES = 32, 4


def draw_pictures(count: int) -> np.ndarray:
    """(N, S, S, 3) uint8: one rectangle each, of different colour and position."""
    random, pictures = np.random.default_rng(0), []
    for _ in range(count):
        picture = np.tile(random.integers(0, 256, 3, dtype=np.uint8), (SIZE, SIZE, 1))
        top, left, height, width = random.integers(4, 16, 4)
        picture[top : top + height, left : left + width] = random.integers(0, 256, 3)
        pictures.append(picture)
    return np.stack(pictures)


PIXELS = draw_pictures(32)


def prepare(folder, name):
    """(body, FP32 graph, its logits) of a network with different logits for every picture."""
    torch.manual_seed(0)
    network = LogoNetwork(name, CLASSES, size_px=SIZE).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # some begin at 0: a layer behind them costs nothing
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    with torch.no_grad():
        classifier = network.backbone.get_classifier()
        classifier.weight *= 2 / network(torch.from_numpy(PIXELS)).std(0)[:, None]
        classifier.bias -= network(torch.from_numpy(PIXELS)).mean(0)
    body = folder / "body.onnx"
    fp32 = export_onnx(network, SIZE, folder / "fp32.onnx", body=body)
    return body, fp32, run_onnx(fp32, PIXELS)


@pytest.fixture(scope="module")
def cnn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cnn")
    body, fp32, logits = prepare(folder, "test_resnet")
    return body, fp32, logits, round_body(body, PIXELS, folder / "rounded.onnx", reduce_range=True)


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("vit"), "logo_vit_tiny")


def test_dynamic_int8_of_a_transformer_is_a_third_of_its_size_and_says_the_same(vit, tmp_path):
    body, fp32, logits = vit
    path = quantize_dynamically(body, SIZE, tmp_path / "dynamic.onnx", reduce_range=True)
    assert path.stat().st_size < 0.4 * fp32.stat().st_size
    assert compare_logits(logits, run_onnx(path, PIXELS)).top1_agreement >= 0.85


def test_weights_in_fewer_bits_are_a_quarter_and_less(vit, cnn, tmp_path):
    body, fp32, logits = vit
    eight, four = store_int8(body, SIZE, tmp_path / "w8.onnx"), store_int4(body, SIZE, tmp_path / "w4.onnx")
    assert four.stat().st_size < eight.stat().st_size < 0.4 * fp32.stat().st_size
    exact, coarse = (compare_logits(logits, run_onnx(path, PIXELS)) for path in (eight, four))
    assert exact.kl_nats < 0.03
    assert exact.kl_nats < coarse.kl_nats
    assert coarse.top1_agreement >= 0.5
    convolutions = store_int8(cnn[0], SIZE, tmp_path / "cnn.onnx")
    assert convolutions.stat().st_size < 0.35 * cnn[1].stat().st_size
    assert compare_logits(cnn[2], run_onnx(convolutions, PIXELS)).kl_nats < 0.01


def test_four_bits_are_refused_where_there_is_no_matrix(tmp_path):
    torch.manual_seed(0)
    network = LogoNetwork("test_resnet", CLASSES).eval()
    network.backbone.fc = torch.nn.Identity()
    export_body(network, SIZE, tmp_path / "body.onnx")
    with pytest.raises(VerificationError, match="no matrix product"):
        store_int4(tmp_path / "body.onnx", SIZE, tmp_path / "w4.onnx")


@pytest.mark.parametrize("method", METHODS)
def test_ranges_that_were_kept_make_the_same_artifact(cnn, tmp_path, method):
    body, _, logits, rounded = cnn
    paths = [
        quantize_body(
            body,
            rounded,
            PIXELS,
            SIZE,
            tmp_path / f"{turn}.onnx",
            method=method,
            reduce_range=True,
            ranges=tmp_path / "ranges.json",
        )
        for turn in range(2)
    ]
    assert (tmp_path / "ranges.json").exists()
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert compare_logits(logits, run_onnx(paths[0], PIXELS)).top1_agreement >= 0.8


def test_every_layer_is_measured_once_and_the_most_sensitive_stay_in_fp32(cnn, tmp_path):
    body, _, logits, rounded = cnn
    settings = {"method": "minmax", "reduce_range": True}
    record, messages = tmp_path / "sensitivity.json", []

    def measure():
        return measure_sensitivity(
            body, rounded, PIXELS, PIXELS, logits.argmax(1), SIZE, record, say=messages.append, **settings
        )

    layers = measure()
    kinds = [node.op_type for node in onnx.load(body).graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(layers) == len(messages) == len(kinds) > 8
    assert all(0 <= layer.kl_nats < 1 for layer in layers)
    assert sum(layer.kl_nats > 0 for layer in layers) >= len(layers) - 1
    assert max(layer.kl_nats for layer in layers) > 3 * np.median([layer.kl_nats for layer in layers])
    assert measure() == layers
    assert len(messages) == len(layers), "what was measured is read back"

    def mix(tolerance, most):
        return mix_precision(
            layers,
            body,
            rounded,
            PIXELS,
            PIXELS,
            SIZE,
            tmp_path / "mixed.onnx",
            tolerance=tolerance,
            most=most,
            **settings,
        )

    anything, nothing = Tolerance(1e9, 0.0, 1e9), Tolerance(0.0, 1.0, 0.0)
    assert mix(anything, 3)[0] == ()
    restored, parity = mix(nothing, 3)
    assert set(restored) == {layer.name for layer in sorted(layers, key=lambda layer: -layer.kl_nats)[:3]}
    read = {
        node.name: node.input[1] for node in onnx.load(tmp_path / "mixed.onnx").graph.node if node.op_type == "Conv"
    }
    assert sum("Dequantize" not in read[name] for name in restored if name in read) == len(read.keys() & set(restored))
    assert mix(nothing, len(layers))[1].kl_nats < parity.kl_nats, "only sums and pools are left in INT8"


@pytest.mark.parametrize(
    ("reduce_range", "isa", "sentence"),
    [
        (True, ["avx2", "avx512_vnni"], "have 7 bits, .*; this CPU has VNNI and could use 8"),
        (True, ["avx2"], "have 7 bits, .*; this CPU has none"),
        (False, ["avx_vnni"], "have 8 bits; .*; this CPU has VNNI"),
        (False, ["avx2"], "have 8 bits; .*; this CPU has none, so these figures include saturation"),
    ],
)
def test_the_bits_of_weights_are_explained_by_the_cpu(reduce_range, isa, sentence):
    assert re.fullmatch(f"INT8 weights {sentence}.", explain_range(reduce_range, isa))


def test_nncf_s_int8_says_the_same_and_its_restore_keeps_to_its_time(cnn, tmp_path):
    body, _, logits, _ = cnn
    path = quantize_with_nncf(body, PIXELS, SIZE, tmp_path / "nncf.onnx", reduce_range=True)
    assert compare_logits(logits, run_onnx(path, PIXELS)).top1_agreement >= 0.8
    for minutes in (0.0, 5.0):  # at once out of time; time enough to rank layers and put them back, if need be all
        path, held = restore_with_nncf(
            body,
            PIXELS,
            PIXELS,
            logits.argmax(1),
            SIZE,
            tmp_path / "restored.onnx",
            max_drop=0.0,
            minutes=minutes,
            reduce_range=True,
        )
        accuracy = (run_onnx(path, PIXELS).argmax(1) == logits.argmax(1)).mean()
        assert held == (accuracy == 1)
        assert accuracy >= 0.8
        if not minutes:
            assert path.stat().st_size < 0.5 * cnn[1].stat().st_size, "its weights are integers, also when time is up"
    assert held


def test_a_handler_of_others_at_nncf_s_logger_hears_as_before(cnn, tmp_path):
    handler, logger = logging.NullHandler(), logging.getLogger("nncf")
    logger.addHandler(handler)
    try:
        quantize_with_nncf(cnn[0], PIXELS, SIZE, tmp_path / "nncf.onnx", reduce_range=True)
    finally:
        logger.removeHandler(handler)
    assert handler.level == logging.NOTSET


def test_what_other_loggers_say_after_quantization_is_heard(caplog):
    with quiet_quantizer():
        logging.getLogger().warning("a default of the quantizer")
    logging.getLogger().warning("a full disk")
    assert caplog.messages == ["a full disk"]
