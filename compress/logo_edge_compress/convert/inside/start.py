"""Runs a script of this folder in a converter's environment: `python start.py SCRIPT REQUEST`.

The folders `shared` of the request hold packages that the environment takes from its caller. They and this folder come
last on the path, so that no file here hides a package.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    script, request = sys.argv[1:]
    here = str(Path(__file__).parent)  # Python puts it first, unless PYTHONSAFEPATH is set
    shared = json.loads(Path(request).read_text(encoding="utf-8"))["shared"]
    sys.path[:] = [*(folder for folder in sys.path if folder != here), *shared, here]
    sys.argv = [script, request]
    runpy.run_path(script, run_name="__main__")
