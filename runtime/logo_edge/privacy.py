"""Libraries that write an identity into the home folder or report to their vendors are told not to, before they load.

Only what each library offers is used: a variable of the environment, which child processes inherit and which a user's own
setting overrides, or, for OpenVINO, the absence of the package that sends.
"""

from __future__ import annotations

import os
import sys

VARIABLES = {
    "ORT_DISABLE_TELEMETRY": "1",  # read while onnxruntime is imported; its disable_telemetry_events() comes too late
    "NO_ALBUMENTATIONS_UPDATE": "1",  # else its import asks a server for a newer release
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "NPM_CONFIG_UPDATE_NOTIFIER": "false",
}
SENDERS = ("openvino_telemetry",)  # of OpenVINO and NNCF, which report their import to Google Analytics and ask nobody


def send_nothing() -> None:
    """Sets the variables that the user has not set, and keeps Python from finding the packages that only send."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    for package in SENDERS:
        sys.modules.setdefault(package, None)  # type: ignore[arg-type]  # `import` takes None as "not installed"
