"""Digests: size and SHA-256 of files, canonical JSON and its SHA-256. Only regular files are read."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from stat import S_ISREG
from typing import Any, NamedTuple

from ..errors import ConfigError
from ..text import quoted

MAX_BYTES = 1 << 36  # of one file
TICK_NS = 100_000_000  # the clock of a file system may be this late
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class File:
    """Size and SHA-256 of a file, as a manifest lists them. Raises ConfigError for impossible values."""

    sha256: str
    num_bytes: int

    def __post_init__(self) -> None:
        if not SHA256.fullmatch(self.sha256):
            raise ConfigError(f"expected a SHA-256 of 64 hexadecimal digits, found {quoted(self.sha256)}")
        if not 0 <= self.num_bytes <= MAX_BYTES:
            raise ConfigError(f"expected a file of 0 to {MAX_BYTES} bytes, found {quoted(self.num_bytes)}")


class Stamp(NamedTuple):
    """Properties of a file that change when it is replaced or written to."""

    device: int
    inode: int
    num_bytes: int
    modified_ns: int
    changed_ns: int


class Hashed(NamedTuple):
    """A file as it was when it was hashed."""

    file: File
    stamp: Stamp
    settled: bool  # its times are old enough that every later change gives it another stamp


def stamp(status: os.stat_result) -> Stamp:
    """The stamp of a regular file. Raises OSError for anything else."""
    if not S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "expected a regular file, found a directory, device or pipe")
    return Stamp(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@contextmanager
def open_regular(path: Path) -> Iterator[BufferedReader]:
    """Open a regular file for reading, without waiting. Raises OSError if it is something else."""
    stamp(os.stat(path))  # opening a device can have effects
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags), "rb") as file:
        stamp(os.fstat(file.fileno()))
        yield file


def read_bytes(path: Path, limit: int) -> bytes:
    """Read a regular file of at most `limit` bytes. Raises OSError."""
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"expected at most {limit} bytes, found more")
    return content


def hashed(path: Path) -> Hashed:
    """Hash a regular file. Raises OSError if it cannot be read, or changes meanwhile."""
    with open_regular(path) as file:
        now, before = time.time_ns(), stamp(os.fstat(file.fileno()))
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        # Its links may change meanwhile, which changes `changed_ns` only: the next comparison will tell.
        if stamp(os.fstat(file.fileno()))._replace(changed_ns=before.changed_ns) != before:
            raise OSError(errno.EAGAIN, "it changed while it was read")
    settled = max(before.modified_ns, before.changed_ns) < now - TICK_NS
    return Hashed(File(digest, before.num_bytes), before, settled)


def canonical(document: dict[str, Any]) -> bytes:
    """Canonical JSON of a document: comparing bytes detects any change, even of white space."""
    return json.dumps(document, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"


def digest_of(document: dict[str, Any]) -> str:
    """SHA-256 of the document's canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical(document)).hexdigest()
