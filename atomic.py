"""Atomic writes: a file or folder appears under its name complete, or not at all."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import OutputError
from .text import escaped, message_of, one_line

Replace = Callable[[Path, Path], None]
OLD = ".old"  # added to the temporary name of a folder: the folder that it replaces


@contextmanager
def atomic(path: Path, temporary: Path | None = None, replace: Replace = os.replace) -> Iterator[Path]:
    """Yield a temporary path; the file or folder that the block creates there becomes `path` at the end.

    If the block fails, the temporary is deleted and `path` is unchanged. By default the temporary is
    hidden, lies beside `path` and has a random name, so that two processes writing the same path do not share
    it. `replace` moves the temporary to `path`. Raises OutputError if that fails.
    """
    temporary = temporary or temporary_name(path)
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


@contextmanager
def atomic_folder(path: Path, check: Callable[[Path], None]) -> Iterator[Path]:
    """Yield a new folder beside `path`, which becomes `path` at the end and replaces a folder there.

    `check` is called with `path`, if it exists, immediately before it is replaced; it raises an error to
    prevent that. What killed processes have left of the same path is deleted first. Raises OSError or
    OutputError.
    """
    put_back(path)
    clear(path)
    folder, lock = locked_folder(path)

    def replace(new: Path, path: Path) -> None:
        if os.path.lexists(path):
            check(path)
        replace_folder(new, path)

    try:
        with atomic(path, folder, replace):
            yield folder
    finally:
        if lock is not None:
            os.close(lock)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically. Raises OutputError."""
    try:
        with atomic(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: str | os.PathLike[str], error: Exception) -> OutputError:
    """The error to raise when `error` prevented writing `path`."""
    reason = getattr(error, "strerror", None) or one_line(message_of(error))
    return OutputError(f"cannot write {escaped(os.fspath(path))}: {reason}")


def temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")


def locked_folder(path: Path) -> tuple[Path, int | None]:
    """Make a temporary folder beside `path`, locked until the descriptor is closed or this process ends.

    The lock tells it from the folder of a dead process. The descriptor is None where folders cannot be
    locked; there `clear` deletes none.
    """
    while True:
        folder = temporary_name(path)
        folder.mkdir()
        try:
            number = lock(folder)
        except (BlockingIOError, FileNotFoundError):  # another process is deleting it
            continue
        except (OSError, ImportError):
            return folder, None
        if folder.exists():
            return folder, number
        os.close(number)


def lock(folder: Path) -> int:
    """Lock a folder. Raises BlockingIOError if it is locked, OSError or ImportError if it cannot be."""
    import fcntl  # not on Windows

    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(number)
        raise
    return number


def leftovers(path: Path, end: str = "") -> list[Path]:
    """Folders beside `path` with the temporary names of `path`, and `end` after them; the newest first."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.partial{end}")
    found = []
    with suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            if name.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                found.append((entry.stat(follow_symlinks=False).st_ctime_ns, path.with_name(entry.name)))
    return [folder for _time, folder in sorted(found, reverse=True)]


def clear(path: Path) -> None:
    """Delete the folders that killed processes have left beside `path`."""
    for folder in leftovers(path):
        with suppress(OSError, ImportError):  # a living process has locked it, or it cannot be locked
            number = lock(folder)
            shutil.rmtree(folder, ignore_errors=True)
            os.close(number)
    for old in leftovers(path, OLD):
        if path.exists() and not old.with_name(old.name.removesuffix(OLD)).exists():  # it has been replaced
            shutil.rmtree(old, ignore_errors=True)


def put_back(path: Path) -> None:
    """Finish a replacement that was killed when the old folder had been renamed and the new one had not."""
    if not os.path.lexists(path):
        for old in leftovers(path, OLD)[:1]:
            with suppress(OSError):
                old.rename(path)


def replace_folder(new: Path, path: Path) -> None:
    """Rename `new` to `path` and delete a folder that was there.

    Linux exchanges both in one step. Elsewhere that takes two steps: if the process is killed between them,
    there is no `path` until `put_back` is called.
    """
    if not path.exists():
        new.rename(path)
    elif exchange(new, path):
        shutil.rmtree(new, ignore_errors=True)
    else:
        old = new.with_name(new.name + OLD)
        path.rename(old)
        try:
            new.rename(path)
        except OSError:
            old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)


def exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two files or folders in one step. False if this system cannot do that."""
    import ctypes

    here, both = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    try:
        rename = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):  # not Linux, or a C library without it
        return False
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), both) == 0)
