"""Runs MNN's converter with the `options` of the request, which make `file`.

Only by its extension: the commands mnnconvert and mnnquant install a package for telemetry when they are imported.
"""

from __future__ import annotations

from pathlib import Path

import _tools
from exchange import read_request, write_record

request = read_request()
_tools.mnnconvert(["mnnconvert", *request["options"], "--bizCode", "none"])
file = Path(request["folder"]) / request["file"]
write_record(request, [file] if file.exists() else [])
