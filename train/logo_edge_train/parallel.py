"""Runs jobs side by side in worker processes and passes their reports to this process."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed

from logo_edge.errors import RunError

PR_SET_PDEATHSIG = 1


def count_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def refuse_torchrun(command: str) -> None:
    """Raises RunError if torchrun started several processes, since `command` runs in one."""
    if under_torchrun() and int(os.environ["WORLD_SIZE"]) > 1:
        raise RunError(
            f"{command} runs in one process, torchrun started {os.environ['WORLD_SIZE']}; call it without torchrun"
        )


def run_side_by_side(function: Callable, jobs: list[tuple], report: Callable[[dict], None], *, workers: int) -> None:
    """Calls `function(*job, report)` for each job; several workers are processes with an equal share of the cores.

    The first error of a job is raised at once: waiting jobs are cancelled and running ones terminated; they can resume
    later. An error of `report` is raised after all jobs have ended.
    """
    workers = min(workers, len(jobs), count_cores())
    if workers <= 1:
        for job in jobs:
            function(*job, report)
        return
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        others = multiprocessing.active_children()
        reports, errors = manager.Queue(), []
        listener = threading.Thread(target=_forward, args=(reports, report, errors), daemon=True)
        listener.start()
        try:
            with ProcessPoolExecutor(workers, context, _start_worker, (count_cores() // workers,)) as pool:
                futures = [pool.submit(_call, function, job, reports) for job in jobs]
                try:
                    for future in as_completed(futures):
                        future.result()
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    for worker in set(multiprocessing.active_children()) - set(others):
                        worker.terminate()
                    raise
        finally:
            reports.put(None)
            listener.join()
    if errors:
        raise errors[0]


def _forward(reports, report: Callable[[dict], None], errors: list[Exception]) -> None:
    while (item := reports.get()) is not None:
        if errors:
            continue  # empty the queue, so that no job waits
        try:
            report(item)
        except Exception as error:
            errors.append(error)


def _start_worker(threads: int) -> None:
    import torch

    torch.set_num_threads(max(1, threads))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and terminates this process
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # a worker ends with its killed parent


def _call(function: Callable, job: tuple, reports) -> None:
    function(*job, reports.put)
