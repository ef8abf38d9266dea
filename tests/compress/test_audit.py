"""An artifact's precision is counted in what runs: an INT8 whose convolutions compute in float is refused."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from logo_edge.errors import VerificationError
from logo_edge_compress.audit import Audit, refuse_float
from logo_edge_compress.convert import openvino
from logo_edge_compress.convert.onnx import audit, audit_pairs
from logo_edge_compress.onnx.graph import save_model

WHOLE = {"first": ("in", "weights", "out"), "second": ("in", "weights", "out")}
NO_INPUT = WHOLE | {"second": ("weights", "out")}  # its weights alone are integers
NO_OUTPUT = WHOLE | {"second": ("in", "weights")}  # ONNX Runtime then computes in float, though both inputs are pairs
FLOAT = {"first": (), "second": ()}


@pytest.fixture
def network(tmp_path):
    """A function that writes two convolutions, each with Q/DQ pairs on the parts that it names."""

    def write(pairs: dict[str, tuple[str, ...]]):
        nodes, constants, tensor = [], {"zero": np.uint8(0), "step": np.float32(0.1), "even": np.int8(0)}, "planes"

        def pair(name: str) -> str:
            nodes.append(helper.make_node("QuantizeLinear", [name, "step", "zero"], [f"{name}_q"]))
            nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", "step", "zero"], [f"{name}_dq"]))
            return f"{name}_dq"

        for layer, parts in pairs.items():
            values = np.random.default_rng(0).integers(-9, 9, (4, 4, 3, 3))
            if "weights" in parts:
                constants[f"{layer}.weight"] = values.astype(np.int8)
                nodes.append(helper.make_node("DequantizeLinear", [f"{layer}.weight", "step", "even"], [f"{layer}_w"]))
            else:
                constants[f"{layer}_w"] = values.astype(np.float32)
            tensor = pair(tensor) if "in" in parts and not tensor.endswith("_dq") else tensor
            nodes.append(helper.make_node("Conv", [tensor, f"{layer}_w"], [f"{layer}_y"], name=layer))
            tensor = pair(f"{layer}_y") if "out" in parts else f"{layer}_y"
            if pairs is NO_INPUT and layer == "first":
                nodes.append(helper.make_node("Softplus", [tensor], ["between"]))
                tensor = "between"
        ends = (
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, size, size])]
            for name, size in (("planes", 12), (tensor, 8))
        )
        tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
        graph = helper.make_graph(nodes, "two", *ends, tensors)
        save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path := tmp_path / "two.onnx")
        return path

    return write


@pytest.mark.parametrize(
    ("pairs", "executed", "written"),
    [
        (WHOLE, ("int8", "int8"), ("int8", "int8")),
        (NO_INPUT, ("int8", "float32"), ("int8", "float32")),
        (NO_OUTPUT, ("int8", "float32"), ("int8", "int8")),
        (FLOAT, ("float32", "float32"), ("float32", "float32")),
    ],
)
def test_layers_are_counted_as_onnx_runtime_executes_them_and_as_they_are_written(network, pairs, executed, written):
    path = network(pairs)
    counted = audit(path)
    assert counted.layers == dict(zip(("first", "second"), executed, strict=True))
    assert audit_pairs(onnx.load(path)).layers == dict(zip(("first", "second"), written, strict=True))
    assert counted.operators.get("QLinearConv", 0) == executed.count("int8")
    assert counted.bytes.get("int8", 0) == 144 * sum("weights" in parts for parts in pairs.values()) + 1


def test_openvino_s_layers_are_counted_as_its_plugin_executes_them(network, tmp_path):
    library = pytest.importorskip("openvino")
    library.save_model(library.convert_model(network(WHOLE)), tmp_path / "two.xml", compress_to_fp16=False)
    counted = openvino.audit(tmp_path / "two.xml")
    assert list(counted.layers) == ["first", "second"]
    assert counted.layers["second"] in ("int8", "uint8")
    assert counted.bytes["int8"] >= 288


def test_a_graph_that_openvino_refuses_leaves_the_root_logger_as_it_was(tmp_path):
    error = pytest.importorskip("openvino.tools.ovc.error").Error
    (tmp_path / "damaged.onnx").write_bytes(b"no graph")
    root = logging.getLogger()
    before = root.level, list(root.filters)
    with pytest.raises(error):
        openvino.read_graph(tmp_path / "damaged.onnx")
    assert (root.level, root.filters) == before


def test_layers_in_float_are_refused_with_the_list_unless_they_were_left_so():
    counted = Audit({"stem": "float32", "body": "int8", "depthwise": "float16", "head": "uint8"}, {}, {})
    with pytest.raises(VerificationError, match=r"m is no INT8: 2 of its 4 layers compute in float: stem, depthwise; "):
        refuse_float(counted, "m")
    with pytest.raises(VerificationError, match="1 of its 4 layers compute in float: stem; expected none beyond the 1"):
        refuse_float(counted, "m", left=["depthwise"])
    refuse_float(counted, "m", left=["depthwise", "stem"])
    refuse_float(counted, "m", share=0.5)
    with pytest.raises(VerificationError, match="at most 49%"):
        refuse_float(counted, "m", share=0.49)
    with pytest.raises(VerificationError, match="0 of its 0 layers"):
        refuse_float(Audit({}, {}, {}), "m")


def test_the_record_names_the_layers_in_float_where_others_are_not():
    mixed = Audit({"stem": "float32", "body": "int8"}, {"Conv": 1}, {"int8": 9}).record()
    assert mixed["layers"] == {"float32": 1, "int8": 1}
    assert mixed["float_layers"] == ["stem"]
    assert mixed["operators"] == {"Conv": 1}
    assert Audit({"stem": "float32"}, {}, {}).record()["float_layers"] == []
