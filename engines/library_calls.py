"""Calls into libraries that run without the interpreter's lock, such as inference and compiling.

A thread that is inside such a call when the interpreter ends aborts the process. So every call is made with a
lock that the interpreter takes before it ends, and keeps: it waits for the calls under way, and no other call
begins.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Lock
from weakref import WeakSet

from ..errors import Rejected

LOCKS: WeakSet[Lock] = WeakSet()
ENDING = Event()


def library_lock() -> Lock:
    """Return a new lock, to be held during calls."""
    lock = Lock()
    LOCKS.add(lock)
    return lock


@contextmanager
def library_call() -> Iterator[None]:
    """Hold a lock of its own for one call. Raises Rejected if the interpreter is ending."""
    lock = library_lock()
    with lock:
        if ENDING.is_set():
            raise Rejected("the process is ending; start it again")
        yield


if hasattr(os, "register_at_fork"):
    # A call under way does not go on in a child process, where nobody would release its lock.
    os.register_at_fork(after_in_child=LOCKS.clear)


@atexit.register
def take_locks() -> None:
    ENDING.set()
    for lock in list(LOCKS):
        lock.acquire()
