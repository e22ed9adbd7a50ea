"""Processes of this machine: those that a session consists of, and how to end them all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL
from time import sleep
from typing import NamedTuple

DEAD = "Z"  # state of a process that has died and whose parent has not taken note of it
KILLS = 100  # attempts to kill all processes of a session, every 0.05 s


def end_session(leader: int) -> None:
    """Kill all processes of a session, except this one. `leader` is the process that began the session."""
    for _ in range(KILLS):
        left = [
            p.pid for p in processes() if p.session == leader and p.state != DEAD and p.pid != os.getpid()
        ]
        for pid in left:
            with suppress(OSError):
                os.kill(pid, SIGKILL)
        if not left:
            return
        sleep(0.05)


class Process(NamedTuple):
    """A process of this machine, as the kernel lists it."""

    pid: int
    name: str
    state: str  # one letter
    parent: int
    session: int


def processes() -> Iterator[Process]:
    """All processes of this machine."""
    for entry in os.listdir("/proc"):
        with suppress(OSError, ValueError):  # it has ended meanwhile
            if entry.isdigit():
                name, _, rest = Path(f"/proc/{entry}/stat").read_text("utf-8", "replace").rpartition(") ")
                state, parent, _group, session, *_ = rest.split()
                yield Process(int(entry), name.partition("(")[2], state, int(parent), int(session))
