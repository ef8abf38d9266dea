"""The ONNX graph: how it is exported, inspected and changed."""
