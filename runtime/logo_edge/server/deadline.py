"""`asyncio.timeout`, which Python 3.10 takes from the package async-timeout. It raises `asyncio.TimeoutError`."""

from __future__ import annotations

import asyncio
import sys

if sys.version_info >= (3, 11):
    from asyncio import Timeout, timeout, timeout_at

    move = Timeout.reschedule
else:
    from async_timeout import Timeout, timeout, timeout_at

    move = Timeout.update


def expire(deadline: Timeout) -> None:
    """Lets the deadline pass now."""
    move(deadline, asyncio.get_running_loop().time())


__all__ = ["Timeout", "expire", "timeout", "timeout_at"]
