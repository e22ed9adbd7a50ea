"""The replacement of a folder of PNGs by a new one, at a path where others may put files meanwhile.

A directory cannot be replaced in one step. The old folder is moved aside, the new one takes its name, and the
frames of the old one are deleted one by one. Nothing else is deleted: a file of somebody stops the
replacement, and entries that do not count (runtime/media/folder.py) move to the new folder. After a kill,
`recover` finishes or reverts it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...atomic import atomic
from ...engines.files import read_bytes
from ..media.folder import contents, counts, move
from .sidecar import LIMIT, Sidecar

NEW, OLD = "result", "replaced"  # names of folders in the partial clip


@dataclass(frozen=True, slots=True)
class Replacement:
    path: Path  # of the folder that is replaced, or does not exist yet
    sidecar: Path
    partial: Path  # a folder for NEW and OLD, on the same file system

    @property
    def new(self) -> Path:
        return self.partial / NEW

    @property
    def old(self) -> Path:
        return self.partial / OLD

    def run(self, sidecar: Sidecar, check: Callable[[Path], None]) -> None:
        """Put the complete folder `new` at `path`. `check` raises for a folder that holds somebody's file.

        If this raises an error, the folder at `path` and its sidecar are as before.
        """
        check(self.path)
        before = None
        with suppress(OSError):
            before = read_bytes(self.sidecar, LIMIT)
        try:
            with suppress(FileNotFoundError):
                self.path.rename(self.old)
                check(self.old)  # again, now that nobody finds the folder
            frames = set(contents(self.old, counts))
            move(self.old, self.new, lambda name: not counts(name))
            sidecar.write(self.sidecar)
            self.new.rename(self.path)
        except BaseException:
            with suppress(OSError):
                self.old.rename(self.path)
                move(self.new, self.path, lambda name: not counts(name))
                if before is not None:
                    with atomic(self.sidecar) as temporary:
                        temporary.write_bytes(before)
            raise
        self._delete(frames)

    def recover(self) -> None:
        """Finish or revert the replacement of a process that was killed. Raises OSError."""
        if not self.old.is_dir():
            return
        if not os.path.lexists(self.path):
            sidecar = Sidecar.read(self.sidecar)
            if sidecar is None or set(contents(self.new, counts)) != sidecar.files.keys():
                self.old.rename(self.path)
                return
            self.new.rename(self.path)
        self._delete({name for name in contents(self.old, counts) if is_frame(self.old / name)})

    def abandon(self) -> bool:
        """Finish or revert it, and empty its folders of all but frames. False if something has to stay."""
        self.recover()
        others = [
            folder / name
            for folder in (self.new, self.old)
            for name in contents(folder, lambda _name: True)
            if not (counts(name) and is_frame(folder / name))
        ]
        if self.path.is_dir():
            for entry in others:
                move(entry.parent, self.path, entry.name.__eq__)
        return not any(map(os.path.lexists, others))

    def _delete(self, frames: Collection[str]) -> None:
        """Delete these files of the old folder, and move any others to the new one."""
        for name in frames:
            with suppress(OSError):
                (self.old / name).unlink()
        move(self.old, self.path, lambda name: name not in frames)
        with suppress(OSError):
            self.old.rmdir()


def is_frame(entry: Path) -> bool:
    """Whether an entry of a result's folder looks like one of its PNGs."""
    return entry.suffix.lower() == ".png" and entry.is_file() and not entry.is_symlink()
