"""All peers: trains the untrained ones, or measures all with the default bundle in one run.

python benchmarks/peers/run.py train --run runs/cpu
python benchmarks/peers/run.py measure --preset full --out benchmarks/results/peers.json
"""

from __future__ import annotations

import classical
import getitune
import lightly
import magika_start
import olive
import opencv_loop
import openvino_app
import peer
import timm_finetune
import yolo

PEERS = (timm_finetune, olive, lightly, getitune, yolo, classical, opencv_loop, magika_start, openvino_app)

if __name__ == "__main__":
    peer.main(*PEERS, description=__doc__)
