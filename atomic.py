"""Atomic writes: a file or folder appears under its name complete, or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import OutputError

Replace = Callable[[Path, Path], None]


@contextmanager
def atomic(path: Path, temporary: Path | None = None, replace: Replace = os.replace) -> Iterator[Path]:
    """Yield a temporary path; the file or folder that the block creates there becomes `path` at the end.

    If the block fails, the temporary is deleted and `path` stays as it was. By default the temporary is
    hidden, lies beside `path` and has a random name, so that two processes writing the same path do not share
    it. `replace` moves the temporary to `path`. Raises OutputError where that fails.
    """
    temporary = temporary or path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield temporary
        try:
            replace(temporary, path)
        except OSError as error:
            raise unwritable(path, error) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):
            temporary.unlink()
        raise


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically. Raises OutputError."""
    try:
        with atomic(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: str | os.PathLike[str], error: Exception) -> OutputError:
    """The error to raise when `error` prevented writing `path`."""
    return OutputError(f"cannot write {os.fspath(path)}: {getattr(error, 'strerror', None) or error}")
