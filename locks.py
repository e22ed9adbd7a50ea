"""Locks on files, held by processes of one host, or of several that share a file system with locks.

The kernel releases a lock when its process ends, so none is left by a kill. On a file system without locks,
all of this does nothing.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

ATTEMPTS = 100  # at a file that others remove; some file systems give one file a new inode each time


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until no other process holds the lock file `path`, and hold it. The file is removed at the end."""
    with ExitStack() as stack:
        with suppress(OSError):  # the folder may be read-only
            for _ in range(ATTEMPTS):
                file = stack.enter_context(path.open("a+"))
                fcntl.flock(file, fcntl.LOCK_EX)
                if is_at(file, path):
                    stack.callback(remove, path)  # before the file is closed: who waits then makes another
                    break
                stack.close()  # its last holder has removed it
        yield


def share(path: Path) -> IO[str]:
    """Open a file and mark it as in use until it is closed. Waits while `in_use` holds it. Raises OSError."""
    file = path.open("a+")
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_SH)
    return file


@contextmanager
def in_use(path: Path) -> Iterator[bool]:
    """Whether a process has marked a file as in use. If not, none can do so during the block."""
    try:
        file = path.open("a+")
    except OSError:
        yield False
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = False
        except BlockingIOError:
            found = True
        except OSError:
            found = False
        yield found


def is_at(file: IO[str], path: Path) -> bool:
    """Whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
