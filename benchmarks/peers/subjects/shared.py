"""Imported first by a subject in an environment of its own: the packages that it takes from ours come last on the path.

Ours may have other versions of what is in the environment, so PYTHONPATH, which comes first, does not do.
"""

from __future__ import annotations

import os
import sys

sys.path += os.environ.get("PEER_SHARED", "").split(os.pathsep)
