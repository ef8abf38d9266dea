"""Quantizes an ONNX graph to INT8 with Olive's pass for static quantization, as its configuration files name it."""

from __future__ import annotations

import os
from pathlib import Path

from exchange import read_request, write_record

request = read_request()
os.environ |= request["settings"]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from olive.data.registry import Registry  # noqa: E402  # reads the settings
from olive.workflows import run  # noqa: E402


class Inputs(torch.utils.data.Dataset):
    """The calibration images, with the labels that Olive expects and does not use here."""

    def __init__(self):
        self.planes = np.load(request["inputs"])

    def __len__(self) -> int:
        return len(self.planes)

    def __getitem__(self, index: int) -> tuple[dict, int]:
        return {"planes": self.planes[index]}, 0


@Registry.register_dataset()
def logos(**_):
    return Inputs()


folder, int8 = Path(request["folder"]), Path(request["folder"]) / "olive.onnx"
output = run(
    {
        "input_model": {"type": "ONNXModel", "model_path": request["fp32"]},
        "data_configs": [
            {
                "name": "calibration",
                "type": "DataContainer",
                "load_dataset_config": {"type": "logos"},
                "pre_process_data_config": {"type": "skip_pre_process"},
                "post_process_data_config": {"type": "skip_post_process"},
                "dataloader_config": {"batch_size": 1},
            }
        ],
        "passes": {
            "int8": {
                "type": "OnnxStaticQuantization",
                "data_config": "calibration",
                "precision": "int8",
                "activation_type": "uint8",
                "per_channel": True,
                "nodes_to_exclude": request["in_float"],
            }
        },
        "evaluate_input_model": False,
        "cache_dir": str(folder / "olive-cache"),
        "output_dir": str(folder / "olive-output"),
    }
)
int8.write_bytes(Path(output.get_best_candidate().model_path).read_bytes())
write_record(request, [int8])
