"""Damage to files, for tests of what happens when they are read."""

from __future__ import annotations

import random
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

from animate_rt.errors import InputError


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The content with some bytes changed, removed, repeated or set to extreme numbers."""
    data = bytearray(content)
    how = rng.choice(["bit", "cut", "zeros", "repeat", "number"])
    if how == "cut":
        return bytes(data[: rng.randrange(len(data))])
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        place = rng.randrange(min(len(data), rng.choice([64, 600, len(data)])))
        if how == "bit":
            data[place] ^= 1 << rng.randrange(8)
        elif how == "zeros":
            data[place : place + 8] = bytes(len(data[place : place + 8]))
        elif how == "repeat":
            start = rng.randrange(len(data))
            data[place:place] = data[start : start + rng.randint(1, 200)]
        else:
            number = rng.choice([b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\0\0\0", b"\0\0\1\0"])
            data[place : place + 4] = number
    return bytes(data)


def refusal(read: Callable[[], Any]) -> str | None:
    """The message of the InputError that a call raises; None if it raises nothing."""
    try:
        read()
    except InputError as error:
        return str(error)
    return None


def peak_bytes() -> int:
    """The most memory that this process has held since `reset_peak`."""
    (line,) = (row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


def reset_peak() -> int:
    """Count from now on; returns the memory that this process holds."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


def thread_cpu_s() -> float:
    """CPU seconds that this thread has computed, without the kernel's part.

    For bounds on hostile input: paging, other threads and other processes of a busy machine do not count.
    """
    return resource.getrusage(resource.RUSAGE_THREAD).ru_utime
