"""Collects single images into batches for the network. Imports no web framework."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from logo_edge.results import Classification
from logo_edge.server.deadline import timeout_at
from logo_edge.server.limits import Limits


class Batcher:
    """Classifies single images in batches, which fill while all workers are busy. Lives in one event loop."""

    def __init__(self, forward: Callable[[np.ndarray], list[Classification]], limits: Limits):
        self._forward, self._limits = forward, limits
        self._waiting: asyncio.Queue[tuple[np.ndarray, asyncio.Future]] = asyncio.Queue()
        self._free = asyncio.Semaphore(limits.workers)
        self._pool = ThreadPoolExecutor(limits.workers, "forward")
        self._passes: set[asyncio.Task] = set()
        self._task = asyncio.create_task(self._collect())

    async def classify(self, pixels: np.ndarray) -> Classification:
        """The classification of (S, S, C) uint8 pixels."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((pixels, future))
        return await future

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, *self._passes, return_exceptions=True)
        self._pool.shutdown()

    async def _collect(self) -> None:
        while True:
            await self._free.acquire()
            batch = [await self._waiting.get()]
            end = asyncio.get_running_loop().time() + self._limits.batch_delay_ms / 1e3
            while len(batch) < self._limits.batch:
                try:
                    async with timeout_at(end if self._waiting.empty() else None):
                        batch.append(await self._waiting.get())
                except asyncio.TimeoutError:
                    break
            forward_pass = asyncio.create_task(self._run(batch))
            self._passes.add(forward_pass)
            forward_pass.add_done_callback(self._passes.discard)

    async def _run(self, batch: list[tuple[np.ndarray, asyncio.Future]]) -> None:
        try:
            if wanted := [image for image in batch if not image[1].done()]:  # the other clients have given up
                pixels = np.stack([pixels for pixels, _ in wanted])
                results = await asyncio.get_running_loop().run_in_executor(self._pool, self._forward, pixels)
                for (_, future), result in zip(wanted, results, strict=True):
                    if not future.done():
                        future.set_result(result)
        except Exception as error:  # each request fails with it, and the service goes on
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        finally:
            self._free.release()
