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
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    done = each_in_processes(function, jobs)
    return list(track(done, title, total=len(jobs), transient=True, console=console, disable=not console.is_terminal))


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
        yield from pool.map(function, jobs, chunksize=16)
