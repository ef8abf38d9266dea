"""State that does not survive `os.fork()`: the child has the parent's memory and open files, and none of its threads.

An owner of such state calls `after_fork(self)`. Its `leave_to_parent()` is then the first call in every forked child;
it drops the parent's state, and the owner creates its own at the next use.
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
    """Calls `owner.leave_to_parent()` in each forked child, as long as the owner lives."""
    _OWNERS.add(owner)


def never_free(state: object) -> None:
    """Never destroys the object, not even at the end of the interpreter.

    The destructor of an ONNX Runtime session waits for its threads, which a forked child does not have: it would never
    return (onnxruntime#9800).
    """
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(state))


def _leave_all() -> None:
    for owner in list(_OWNERS):
        owner.leave_to_parent()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_leave_all)
