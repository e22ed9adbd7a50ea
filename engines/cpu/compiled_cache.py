"""Cache of graphs that OpenVINO has compiled, so that a machine compiles each graph of a bundle once.

    ~/.cache/animate-rt/compiled/<key>      the file that OpenVINO writes, then a SHA-256 of the key and it

The key is the digest of all that decides the content, such as graph, weights, precision, OpenVINO and
processor. An entry is not used if it is damaged, was made for another key,
belongs to another user, or can be written by others.
ANIMATE_RT_COMPILED_GB limits the size of all entries; 0 switches the cache off.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import mmap
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import AnimateError, ConfigError
from ...text import message_of, one_line, quoted
from ..cache import cache_folder, shrink
from ..files import open_regular

log = logging.getLogger("animate_rt.cache")

LIMIT = "ANIMATE_RT_COMPILED_GB"
DEFAULT_GB = 16.0  # two bundles at full size
FORMAT = 1  # of an entry
ROOM = 3  # the disk must have room for this many times the weights
DIGEST_BYTES = 32
HEAD_BYTES = 4096  # OpenVINO's first line has about 220

Content = NDArray[np.uint8]


class CompiledCache:
    """Compiled graphs by the digest of all they depend on. The least recently used are deleted first."""

    def __init__(self, folder: Path, num_bytes: int):
        self.folder, self.num_bytes = folder, num_bytes

    def get(
        self,
        key: dict[str, Any],
        num_weights: int,
        load: Callable[[Content], Any],
        make: Callable[[str], Any],
    ) -> Any:
        """What `load` makes of the entry of this key, or else `make`, after which there is such an entry.

        `make` is called with a folder, where it puts one file, or with "" if nothing can be cached.
        """
        digest = hashlib.sha256(json.dumps({**key, "format": FORMAT}, sort_keys=True).encode())
        entry = self.folder / digest.hexdigest()
        try:
            loaded = load(read_entry(entry, digest.digest()))
            with suppress(OSError):
                os.utime(entry)
            return loaded
        except FileNotFoundError:
            pass
        except MemoryError:  # compiling would take more
            raise
        except Exception as error:  # OpenVINO's are of many classes
            log.warning("%s: compiled again: %s", entry, one_line(message_of(error)))
        return self._make(entry, digest.digest(), ROOM * num_weights, make)

    def _make(self, entry: Path, key: bytes, needed: int, make: Callable[[str], Any]) -> Any:
        """What `make` makes, and an entry of it if the disk has `needed` bytes free."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            free = shutil.disk_usage(self.folder).free
            if free < needed:
                found = f"expected {needed / 1e9:.1f} GB of free disk, found {free / 1e9:.1f}"
                raise OSError(errno.ENOSPC, found, os.fspath(self.folder))
            temporary = tempfile.TemporaryDirectory(dir=self.folder, prefix=".", ignore_cleanup_errors=True)
        except OSError as error:
            log.warning("compiled graphs cannot be cached: %s", error)
            return make("")
        with temporary as folder:
            try:
                made = make(folder)
            except (MemoryError, AnimateError):
                raise
            except Exception as error:  # OpenVINO also stops if it cannot write the file
                log.warning("%s: compiled again, and not cached: %s", entry, one_line(message_of(error)))
            else:
                self._keep(Path(folder), entry, key)
                return made
        return make("")

    def _keep(self, folder: Path, entry: Path, key: bytes) -> None:
        """Make an entry of the only file in a folder, unless it is larger than the cache may be."""
        try:
            files = list(folder.iterdir())
            size = DIGEST_BYTES + sum(file.stat().st_size for file in files)
            if len(files) != 1:
                log.warning("%s: not cached: expected one file of OpenVINO, found %d", entry, len(files))
            elif size > self.num_bytes:
                log.warning(
                    "%s: not cached: expected at most %d bytes, found %d; set %s higher, or to 0",
                    *(entry, self.num_bytes, size, LIMIT),
                )
            else:
                write_entry(files[0], entry, key)
                shrink(self.folder, self.num_bytes)
        except OSError as error:
            log.warning("%s: cannot be cached: %s", entry, error)


def compiled_cache() -> CompiledCache | None:
    """The cache of this user, or None if it is switched off. Raises ConfigError."""
    given, root = os.environ.get(LIMIT, ""), cache_folder()
    try:
        limit = float(given) if given else DEFAULT_GB
    except ValueError:
        limit = math.nan
    if not 0 <= limit < math.inf:
        raise ConfigError(f"{LIMIT}: expected gigabytes, or 0 to switch it off, found {quoted(given)}")
    return CompiledCache(root / "compiled", int(limit * 1e9)) if root and limit else None


def read_entry(entry: Path, key: bytes) -> Content:
    """Map an entry, without OpenVINO's first line. Raises OSError, or ValueError if it is damaged."""
    with open_regular(entry) as file:
        status = os.fstat(file.fileno())
        size = status.st_size - DIGEST_BYTES
        if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ValueError("it belongs to another user, or others may write to it")
        if size <= 0:
            raise ValueError("it is too short")
        if digest_to(file, size, key) != file.read(DIGEST_BYTES):
            raise ValueError("its SHA-256 does not match")
        content = np.frombuffer(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY), np.uint8)
    begin = content[:HEAD_BYTES].tobytes().find(b"\n") + 1
    return content[begin:]


def write_entry(file: Path, entry: Path, key: bytes) -> None:
    """Add the digest to a file and make it an entry."""
    file.chmod(0o600)
    with file.open("r+b") as content:
        content.write(digest_to(content, file.stat().st_size, key))
    file.replace(entry)


def digest_to(file: Any, size: int, key: bytes) -> bytes:
    """SHA-256 of the key and the next `size` bytes of a file, which are read."""
    digest, buffer = hashlib.sha256(key), memoryview(bytearray(1 << 20))
    while size > 0 and (count := file.readinto(buffer[: min(size, len(buffer))])):
        digest.update(buffer[:count])
        size -= count
    return digest.digest()
