"""Memory does not grow with the number of images; the experiment `runtime --images 100000` runs the whole."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from logo_edge_bench.experiments.runtime import measure_memory

IMAGES = 3000


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_the_resident_set_grows_by_less_than_two_percent(workers):
    code = (
        "import json; from logo_edge_bench.experiments.runtime import measure_memory; "
        f"print(json.dumps(measure_memory({IMAGES}, {workers})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    memory = json.loads(done.stdout)
    assert memory["images"] == IMAGES
    assert 30_000_000 < memory["warm_bytes"] < 600_000_000
    assert memory["growth"] < 0.02


def test_too_few_images_to_be_warm_are_refused():
    with pytest.raises(ValueError, match="1000 images; expected more than"):
        measure_memory(1000, 1)
