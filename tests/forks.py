"""Forks of a test's process."""

from __future__ import annotations

import gc
import os


def fork() -> int:
    """os.fork. The child collects no garbage: what other tests have left may wait for threads it lacks."""
    process = os.fork()
    if not process:
        gc.disable()
    return process
