"""State that cannot outlive `os.fork()`: the child has its owner's memory, but none of its threads, and shares its files.

An owner of such state says `after_fork(self)`; in every forked child its `leave_to_parent()` is then called before anything
else runs, to let go of what is the parent's. What it needs is made again when it is next used.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Owner(Protocol):
    """An object with state that belongs to one process."""

    def leave_to_parent(self) -> None: ...


_OWNERS: weakref.WeakSet[Owner] = weakref.WeakSet()


def after_fork(owner: Owner) -> None:
    """Has `owner.leave_to_parent()` called in each forked child, as long as the owner lives."""
    _OWNERS.add(owner)


def never_free(held: object) -> None:
    """Keeps an object beyond the end of the interpreter.

    The destructor of a session waits for its threads, which a forked child does not have: it would never end
    (onnxruntime#9800).
    """
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(held))


def _leave_all() -> None:
    for owner in list(_OWNERS):
        owner.leave_to_parent()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_leave_all)
