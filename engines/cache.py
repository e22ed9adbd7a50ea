"""The user's cache folder. What is in it can be made again, so errors of the cache are logged, not raised."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

STALE_S = 24 * 3600  # after which a folder is one that a killed process left


def cache_folder() -> Path | None:
    """The cache folder of animate-rt for this user, or None if the user has no home directory."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if named.is_absolute():
        return named / "animate-rt"
    try:
        return Path.home() / ".cache" / "animate-rt"
    except RuntimeError:
        return None


def shrink(folder: Path, num_bytes: int) -> None:
    """Delete the least recently used files of a folder beyond `num_bytes`, and what killed processes left."""
    files = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another process has deleted it
            status = path.stat()
            if not path.is_dir():
                files.append((status.st_mtime_ns, status.st_size, path))
            elif status.st_mtime < time.time() - STALE_S:
                shutil.rmtree(path, ignore_errors=True)
    total = 0
    for _used, size, path in sorted(files, reverse=True):
        total += size
        if total > num_bytes:
            path.unlink(missing_ok=True)
