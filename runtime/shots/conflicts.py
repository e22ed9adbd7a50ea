"""Conflicts: nothing that a shot writes may be something that is read, under whatever name or link."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

from ...errors import OutputError
from ...text import escaped
from ..media.folder import counts, pictures
from ..media.pose_sequence import PICTURE_SUFFIXES
from .output import Output
from .pose_files import PoseFiles, by_track

Identity: TypeAlias = tuple[int, int]  # device and inode, the same for all links to a file
LEFTOVER = re.compile(r"\.(.+)\.[0-9a-f]+\.partial")  # beside a path of that name, which removes it


class ReadFiles:
    """The files and folders that shots read. What a path conflicts with is found by its identity.

    Add all of them before the first check.
    """

    def __init__(self) -> None:
        self.inputs: dict[Identity, str] = {}
        self.around: dict[Identity, str] = {}  # folders around inputs
        self.bundles: dict[Identity, str] = {}
        self.poses: dict[Identity, str] = {}  # folders of pose frames
        self.leftovers: dict[tuple[Identity | None, str], str] = {}  # by folder and name of what removes them
        self.seen: set[Path] = set()
        self.checked: dict[Path, Identity | None] = {}  # folders that are not in bundles

    def add(self, path: Path, what: str) -> None:
        """Add a file, or a folder without the files in it."""
        if path in self.seen:
            return
        self.seen.add(path)
        note(self.inputs, [path], f"is the {what} {path}")
        for place in {Path(os.path.realpath(path)), path.absolute()}:
            self._add_around(place, f"holds the {what} {path}")

    def add_shot(
        self, bundle: Path, reference: Path, pose: PoseFiles, others: Mapping[str, Path | None]
    ) -> None:
        """Add the inputs of a shot, without the files in folders. `others` are paths by what they are."""
        self.add(bundle, "bundle")
        note(self.bundles, [bundle], f"is in the bundle {bundle}")
        self.add(reference, "reference")
        for sequence in by_track(pose).values():
            self.add(sequence, "pose sequence")
            note(self.poses, [sequence], f"would be a frame of the pose sequence {sequence}")
        for what, path in others.items():
            if path:
                self.add(path, what)

    def add_contents(self, bundle: Path, pose: PoseFiles) -> None:
        """Add the files in a bundle and in a pose folder, to recognize other links to them."""
        files = [file for pattern in ("*", "graphs/*", "engines/*") for file in bundle.glob(pattern)]
        note(self.inputs, files, f"is a file of the bundle {bundle}")
        for path in filter(os.path.isdir, by_track(pose).values()):
            note(self.inputs, pictures(path, PICTURE_SUFFIXES), f"is a frame of the pose sequence {path}")

    def check_output(self, output: Output, previews: Iterable[Path]) -> None:
        """Raise OutputError if writing this output would change or remove something that is read."""
        for path in (output.sidecar, *previews):
            self.check_file(path)
        if output.is_file:
            self.check_file(output.path)
        else:
            folder = output.path
            refuse(folder, self.inputs, [folder, *(folder.iterdir() if folder.is_dir() else [])])
            refuse(folder, self.around, [folder])
            self._check_place(folder)

    def check_file(self, path: Path) -> None:
        """Raise OutputError if writing this file would change or remove something that is read."""
        refuse(path, self.inputs, [path])
        if self.poses and counts(path.name) and path.suffix.lower() in PICTURE_SUFFIXES:
            refuse(path, self.poses, [path.parent])
        self._check_place(path)

    def _add_around(self, place: Path, reason: str) -> None:
        """Add the folders around a place, each once, and the leftover that it is or lies in."""
        while place.parent != place:
            if leftover := LEFTOVER.fullmatch(place.name):
                self.leftovers.setdefault((identity(place.parent), leftover[1]), reason)
            place = place.parent
            if place in self.seen:
                break
            self.seen.add(place)
            note(self.around, [place], reason)

    def _check_place(self, path: Path) -> None:
        if path.parent not in self.checked:  # a list has many shots, and few folders
            folder = Path(os.path.realpath(path.parent))
            refuse(path, self.bundles, [folder, *folder.parents])
            self.checked[path.parent] = identity(folder)
        if self.leftovers and (reason := self.leftovers.get((self.checked[path.parent], path.name))):
            raise conflict(path, f"would remove a partial clip that {reason}")


def note(table: dict[Identity, str], paths: Iterable[Path], reason: str) -> None:
    for path in paths:
        if key := identity(path):
            table.setdefault(key, reason)


def refuse(written: Path, table: dict[Identity, str], paths: Iterable[Path]) -> None:
    for path in paths:
        if (key := identity(path)) and key in table:
            raise conflict(written, table[key])


def conflict(written: Path, reason: str) -> OutputError:
    return OutputError(
        f"{escaped(str(written))}: expected an output that is no input, but it {escaped(reason)}; "
        "choose another name"
    )


def identity(path: Path) -> Identity | None:
    """Device and inode of the file that a path leads to; None if there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
