"""Memory does not grow with the number of images; `benchmarks/measure_runtime.py --images 100000` runs the whole."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
IMAGES = 3000


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_the_resident_set_grows_by_less_than_two_percent(workers):
    code = (
        f"import json, sys; sys.path.insert(0, {str(BENCHMARKS)!r}); from measure_runtime import measure_memory; "
        f"print(json.dumps(measure_memory({IMAGES}, {workers})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["images"] == IMAGES
    assert 30_000_000 < found["warm_bytes"] < 600_000_000
    assert found["growth"] < 0.02


def test_too_few_images_to_be_warm_are_refused():
    measure_memory = runpy.run_path(str(BENCHMARKS / "measure_runtime.py"))["measure_memory"]
    with pytest.raises(ValueError, match="1000 images; expected more than"):
        measure_memory(1000, 1)
