"""Runs a script of this folder in a converter's environment: `python start.py SCRIPT REQUEST`.

The folders `shared` of the request hold packages that the environment takes from its caller. They and this folder come
last on the path, so that no file here hides a package.
"""

from __future__ import annotations

import ctypes
import json
import runpy
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1  # of prctl(2)

if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # ends with its caller
    script, request = sys.argv[1:]
    sys.path[:] = [*sys.path[1:], *json.loads(Path(request).read_text(encoding="utf-8"))["shared"], sys.path[0]]
    sys.argv = [script, request]
    runpy.run_path(script, run_name="__main__")
