"""Turns off telemetry: libraries must not write an identity into the home folder or report to their vendors.

Each library's own switch is used: an environment variable, which child processes inherit and a user's setting
overrides, or, for OpenVINO, the absence of the package that sends.
"""

from __future__ import annotations

import os
import sys

VARIABLES = {
    "ORT_DISABLE_TELEMETRY": "1",  # read while onnxruntime is imported; its disable_telemetry_events() comes too late
    "NO_ALBUMENTATIONS_UPDATE": "1",  # otherwise its import asks a server for a newer release
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "NPM_CONFIG_UPDATE_NOTIFIER": "false",
}
SENDERS = ("openvino_telemetry",)  # by which OpenVINO and NNCF report their import to Google Analytics, unasked


def send_nothing() -> None:
    """Sets the variables that the user has not set, and hides the packages that only send."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    for package in SENDERS:
        sys.modules.setdefault(package, None)  # type: ignore[arg-type]  # `import` takes None as "not installed"
