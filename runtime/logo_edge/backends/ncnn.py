"""NCNN networks on the CPU (extra `ncnn`)."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from logo_edge.backends.base import ModelFile, Resources
from logo_edge.errors import BundleError, MissingExtraError
from logo_edge.machine import on_cores

PIXELS = "pixels"
FLOAT16 = (0x01306B47).to_bytes(4, "little")  # ncnn, modelbin.cpp: the tag before weights in half precision


class Ncnn:
    """A network of `logo-edge export --format ncnn`, one image at a time; it computes in float16 if it is stored so."""

    name, library, suffixes = "ncnn", "ncnn", (".param",)

    def __init__(self, model: ModelFile, resources: Resources):
        try:
            import ncnn
        except ImportError as error:
            raise MissingExtraError("ncnn", "ncnn") from error
        self._ncnn, self._net, self._cores = ncnn, ncnn.Net(), resources.cores
        self.survives_fork = resources.threads == 1  # else its threads are OpenMP's, which a child does not have
        options = self._net.opt
        options.num_threads = resources.threads
        half = model.weights.startswith(FLOAT16)
        options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = half
        import tempfile  # slow to load; other backends do not need it

        # load_model_mem would leave the network with pointers to a freed copy of the bytes
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder) / "weights.bin"
            weights.write_bytes(model.weights)
            status = self._net.load_param_mem(model.data.decode(errors="replace"))
            status = status or self._net.load_model(str(weights))
        self.outputs = frozenset(self._net.output_names())
        if status or PIXELS not in self._net.input_names():
            raise BundleError(
                f"{model.path}: NCNN {ncnn.__version__} cannot load it (status {status}); expected a network of "
                "`logo-edge export --format ncnn` with its .bin beside it"
            )
        self._local = threading.local()

    def run(self, pixels: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        rows = [self._run_image(image, names) for image in pixels]
        return [np.stack(values) for values in zip(*rows, strict=True)]

    def _run_image(self, image: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        planes = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)  # (C, S, S)
        with on_cores(None if hasattr(self._local, "started") else self._cores):  # OpenMP has a pool per calling thread
            extractor = self._net.create_extractor()
            extractor.input(PIXELS, self._ncnn.Mat(planes).clone())  # it would write to the array's memory
            results = [extractor.extract(name) for name in names]
        self._local.started = True
        if failed := [name for name, (status, _) in zip(names, results, strict=True) if status]:
            raise BundleError(f"NCNN cannot compute {', '.join(failed)}; export the network again")
        return [np.array(values).squeeze() for _, values in results]  # one value an image is (B,), not (B, 1)
