"""The request that a script of this folder is started with, and the record that it leaves."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path


def read_request() -> dict:
    """The arguments given to `environments.run_converter`, and `folder`, where the files are to be written."""
    return json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))


def write_record(request: dict, files: list[Path], **fields) -> None:
    """Says that the work is done: `files` of the request's folder are complete. Call it last."""
    listed = {}
    for file in files:
        content = file.read_bytes()
        listed[file.name] = {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    part = Path(request["record"]).with_suffix(".part")
    part.write_text(json.dumps({"files": listed, **fields}), encoding="utf-8")
    os.replace(part, request["record"])
