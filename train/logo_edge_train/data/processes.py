"""A function of many images, in several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

import cv2

from logo_edge_train.parallel import count_cores

WORKERS = 4  # processes, each of which may hold an image at full size
FEW_IMAGES = 64  # starting processes takes longer than reading so many

Job = TypeVar("Job")
Result = TypeVar("Result")


def map_in_processes(function: Callable[[Job], Result], jobs: Sequence[Job], *, title: str) -> list[Result]:
    """`function` of every job, in order, with a progress bar on terminals; see `each_in_processes`."""
    from logo_edge_train.console import stage_bar

    results = []
    with stage_bar(title) as tick:
        for result in each_in_processes(function, jobs):
            results.append(result)
            tick(len(results), len(jobs))
    return results


def each_in_processes(function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[Result]:
    """Yields `function` of every job, in order, from up to WORKERS processes where there are many jobs.

    `function` is a module's own, since other processes import it.
    """
    if len(jobs) < FEW_IMAGES:
        yield from map(function, jobs)
        return
    # spawned, not forked: OpenCV's threads do not survive a fork
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(WORKERS, count_cores()), context, initializer=cv2.setNumThreads, initargs=(1,)
    ) as pool:
        yield from pool.map(function, jobs, chunksize=4)
