"""The limits of the HTTP service: request bodies in memory, and lanes of work with short queues.

A client that is slow or sends costly pictures waits or is refused; others are answered meanwhile. Imports no web
framework. Everything here lives in one event loop.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from logo_edge.server.deadline import Timeout, expire, timeout

T = TypeVar("T")
RETRY_AFTER_S = 1


class Refused(Exception):
    """A refused request: the HTTP status, the reason, and when to try again."""

    def __init__(self, status: int, detail: str, retry_after_s: int | None = None):
        super().__init__(status, detail, retry_after_s)
        self.status, self.detail, self.retry_after_s = status, detail, retry_after_s


@dataclass(frozen=True)
class Limits:
    """The limits of the service.

    Up to `bodies` bodies arrive at once; all bodies in memory take up to `held_bytes`. `requests` counts requests whose
    body has arrived. `timeout_s` applies to the arrival of a body, and again to its classification. `workers` threads
    decode and as many classify; with a `batch` of 1 they do both. One more thread decodes drawings (SVG) and pictures
    of more than `quick_pixels`; up to `queue` requests wait for it. A drawing may take `drawing_s` seconds of CPU time.
    A batch has up to `batch` images and waits `batch_delay_ms` for more.
    """

    body_bytes: int = 16 * 1024 * 1024
    held_bytes: int = 64 * 1024 * 1024
    bodies: int = 256
    pixels: int = 25_000_000
    quick_pixels: int = 4_000_000
    images: int = 64
    requests: int = 32
    queue: int = 4
    timeout_s: float = 10.0
    drawings: bool = True
    drawing_s: float = 0.5
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    batch: int = 16
    batch_delay_ms: float = 0.0


class Body:
    """The body of one request, from its first byte until the request is answered."""

    def __init__(self):
        self.held_bytes = 0
        self.deadline: Timeout


class Bodies:
    """The bodies in memory. If they are too many or too large, the one that began to arrive first is dropped."""

    def __init__(self, limits: Limits, on_change: Callable[[int], None] = lambda arriving: None):
        """`on_change` is called with the number of bodies that are arriving."""
        self._limits, self._on_change = limits, on_change
        self._arriving: dict[Body, None] = {}  # the oldest first
        self._held_bytes = 0

    @asynccontextmanager
    async def admit(self) -> AsyncIterator[Body]:
        """Accounts for one body until the request is answered."""
        body = Body()
        try:
            yield body
        finally:
            self._held_bytes -= body.held_bytes

    @asynccontextmanager
    async def arriving(self, body: Body) -> AsyncIterator[None]:
        """Around the reading of the body. Raises Refused (408) if it takes too long, or is dropped for others."""
        timeout_s = self._limits.timeout_s
        try:
            async with timeout(timeout_s) as body.deadline:
                self._arriving[body] = None
                self._on_change(len(self._arriving))
                self._make_room(body)
                yield
        except asyncio.TimeoutError:
            detail = f"the body did not arrive within {timeout_s:g} s, or was dropped for others that arrived meanwhile"
            raise Refused(408, detail) from None
        finally:
            self._arriving.pop(body, None)
            self._on_change(len(self._arriving))

    def hold(self, body: Body, size_bytes: int) -> None:
        """Adds `size_bytes` to the body. Raises Refused (503) if there is no memory for them."""
        body.held_bytes += size_bytes
        self._held_bytes += size_bytes
        self._make_room(body)

    def _make_room(self, body: Body) -> None:
        while len(self._arriving) > self._limits.bodies or self._held_bytes > self._limits.held_bytes:
            oldest = next(iter(self._arriving), body)
            if oldest is body:
                raise Refused(503, "the bodies of other requests fill the memory for bodies; try again", RETRY_AFTER_S)
            del self._arriving[oldest]
            self._held_bytes -= oldest.held_bytes
            oldest.held_bytes = 0
            expire(oldest.deadline)


class Lane:
    """Threads with a queue of limited length."""

    def __init__(self, threads: int, name: str, queue: int | None = None):
        self._pool = ThreadPoolExecutor(threads, name)
        self._max_pending = None if queue is None else threads + queue
        self._pending = 0

    async def run(self, function: Callable[..., T], *arguments) -> T:
        """The result of the function, called in a thread. Raises Refused (503) if the queue is full."""
        if self._max_pending is not None and self._pending >= self._max_pending:
            detail = f"{self._pending} drawings or large pictures are waiting, the maximum; try again"
            raise Refused(503, detail, RETRY_AFTER_S)
        loop = asyncio.get_running_loop()
        self._pending += 1
        work = self._pool.submit(function, *arguments)
        work.add_done_callback(partial(self._finish, loop))  # only once the thread is free, even if the caller gave up
        return await asyncio.wrap_future(work)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _finish(self, loop: asyncio.AbstractEventLoop, _work: Future) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._count_down)

    def _count_down(self) -> None:
        self._pending -= 1
