"""`logo-edge classify DIR --out FILE --engine ray`: the same table, classified by the workers of a Ray cluster.

Workers get paths and return rows; every machine must have the images under the same paths. Rows are kept here in the
same `Journal` as without Ray, so that either engine can go on after an interruption. If a worker dies, Ray Data repeats
its undelivered images on another one. A row that comes twice is dropped; a missing row is an error.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from logo_edge.bundle.record import DIGEST, RECORD, Bundle
from logo_edge.bundle.signing import SIGNATURE
from logo_edge.classifier import Classifier
from logo_edge.errors import LogoEdgeError, MissingExtraError
from logo_edge.exits import RERUN
from logo_edge.tables.folder import Progress, classify_named
from logo_edge.tables.journal import Journal
from logo_edge.tables.writers import record_of

BATCH = 32  # images that a worker classifies at once
MAX_BLOCK = 4096  # images that a worker gets, and whose rows come back, together
ADDRESS = "RAY_ADDRESS"  # the environment variable that names a cluster; without it, one is started on this machine


class Worker:
    """Classifies batches of paths on a worker of the cluster; it gets the bundle as the content of its files.

    With `public_key`, the content of a PEM file, the signature is checked here too.
    """

    def __init__(self, files: dict[str, bytes], public_key: bytes | None, options: dict):
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                path = Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            self._classifier = Classifier.load(folder, public_key=public_key, **options)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = [os.fsdecode(name) for name in batch["name"]]
        results = classify_named(self._classifier, ((name, name) for name in names))
        records = [json.dumps(record_of(name, result), allow_nan=False) for name, result in results]
        return {"index": batch["index"], "record": np.array(records, object)}


def classify_on_cluster(
    bundle: Bundle,
    options: dict,
    names: Iterable[str],
    journal: Journal,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> None:
    """As `classify_folder`, by `workers` processes of a Ray cluster (None: one for each of its cores).

    `options` are those of `Classifier.load` on the workers. The paths without a row are all in memory here, the images
    never. Raises LogoEdgeError if there is no cluster or rows are missing, MissingExtraError without Ray.
    """
    try:
        import pyarrow
        import ray
        from ray.data import ActorPoolStrategy, DataContext, from_arrow
    except ImportError as error:
        raise MissingExtraError("scale", error.name or "ray") from error
    missing = [os.fsencode(name) for name in names if not journal.holds(name)]
    if not missing:
        journal.finish()
        return
    local = {} if ADDRESS in os.environ else {"num_cpus": workers, "include_dashboard": False}
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **local)
    except (ConnectionError, RuntimeError, ValueError) as error:
        address = os.environ.get(ADDRESS, "this machine")
        raise LogoEdgeError(
            f"{address}: no Ray cluster there ({error}); start it with `ray start`, or unset {ADDRESS}"
        ) from error
    try:
        context = DataContext.get_current()
        context.enable_progress_bars = False
        size = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        table = pyarrow.table({"index": np.arange(len(missing)), "name": pyarrow.array(missing, pyarrow.binary())})
        block = min(max(len(missing) // (8 * size), BATCH), MAX_BLOCK)
        blocks = [table.slice(start, block) for start in range(0, len(missing), block)]
        # Not repartitioned by Ray, which would wait for a free core: the workers hold them all.
        rows = from_arrow(blocks).map_batches(
            Worker,
            batch_size=BATCH,
            compute=ActorPoolStrategy(size=size),
            num_cpus=1,
            fn_constructor_args=(_files(bundle), bundle.public_key, options),
        )
        seen = np.zeros(len(missing), bool)
        for batch in rows.iter_batches(batch_size=None):
            is_new = ~seen[batch["index"]]
            seen[batch["index"]] = True
            names = [os.fsdecode(missing[index]) for index in batch["index"][is_new]]
            journal.append(zip(names, map(json.loads, batch["record"][is_new]), strict=True))
            if progress:
                progress.show(journal)
    except ray.exceptions.RayError as error:
        raise LogoEdgeError(f"the Ray cluster failed: {error}; {RERUN}") from error
    finally:
        ray.shutdown()
    if not seen.all():
        raise LogoEdgeError(f"{int((~seen).sum()):,} of {len(missing):,} rows did not come back; {RERUN}")
    journal.finish()


def _files(bundle: Bundle) -> dict[str, bytes]:
    """The content of every file of the bundle, by name."""
    unlisted = (RECORD, DIGEST) if bundle.public_key is None else (RECORD, DIGEST, SIGNATURE)
    files = {name: (bundle.folder / name).read_bytes() for name in unlisted}
    return files | {name: bundle.read(name) for name in bundle.files}
