"""Folders: which of their entries count, in every place where this program lists one.

Operating systems and file managers leave files of their own in folders that people open. These are neither
pose frames nor results, and neither are hidden files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

# In lower case. macOS also writes hidden names such as .DS_Store and ._NAME, and KDE .directory.
SYSTEM_NAMES = {
    "thumbs.db",  # Windows
    "thumbs.db:encryptable",
    "ehthumbs.db",
    "ehthumbs_vista.db",
    "desktop.ini",
    "$recycle.bin",
    "system volume information",
    "icon\r",  # macOS
    "network trash folder",
    "temporary items",
    "__macosx",
    "@eadir",  # Synology
    "#recycle",
    "#snapshot",
    "@recycle",  # QNAP
    "@recently-snapshot",
    "lost+found",  # the root of an ext file system
}


def listed(folder: Path) -> list[Path]:
    """Return the entries of a folder that count, sorted by name. Raises OSError if it cannot be read.

    Hidden entries and those that systems and file managers leave do not count.
    """
    return sorted(entry for entry in folder.iterdir() if counts(entry.name))


def counts(name: str) -> bool:
    """Return whether an entry of this name counts in a folder."""
    return not name.startswith(".") and name.lower() not in SYSTEM_NAMES


def pictures(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Return the pictures of a folder in natural order: 2.png before 10.png. Raises OSError.

    A picture is an entry that counts, has one of these suffixes in lower case, and is not a directory. Links
    are not followed, so that a broken one is reported by whoever reads it.
    """
    found = [entry for entry in listed(folder) if entry.suffix.lower() in suffixes and not entry.is_dir()]
    return sorted(found, key=natural)


def contents(folder: Path, wanted: Callable[[str], bool]) -> list[str]:
    """Return the wanted names in a folder, hidden ones too; none if there is no such folder."""
    return [name for name in os.listdir(folder) if wanted(name)] if folder.is_dir() else []


def move(source: Path, target: Path, wanted: Callable[[str], bool]) -> None:
    """Move the entries with wanted names to another folder of the same file system, as far as possible.

    An entry whose name is taken there gets another one.
    """
    for name in contents(source, wanted):
        place = target / name
        while os.path.lexists(place):
            place = place.with_name(f"{place.name}~")
        with suppress(OSError):
            (source / name).rename(place)


def natural(path: Path) -> tuple[list[str | int], str]:
    """Return a sort key that puts 2.png before 10.png, and 02.png before 2.png."""
    # The split alternates text and numbers, so text is always compared with text, and numbers with numbers.
    parts = re.split(r"(\d+)", os.fspath(path.name))
    return [int(part) if part.isdecimal() else part for part in parts], path.name
