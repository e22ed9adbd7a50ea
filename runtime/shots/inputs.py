"""The input files of a shot: what they hold, and what shows that they changed while the clip was made."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from ...engines.files import digest_of, hashed
from ...errors import InputChanged, InputError, InputMissing
from ...text import escaped
from ..media.folder import pictures
from ..media.pose_sequence import PICTURE_SUFFIXES
from ..poses.sources import is_keypoint_source
from .pose_files import ONLY, PoseFiles, by_track


class InputFile(NamedTuple):
    """One file, when it was read."""

    path: Path
    inode: int
    num_bytes: int
    modified_ns: int
    changed_ns: int  # also when it is moved, so that a file put aside for a while shows
    sha256: str


@dataclass(frozen=True, slots=True)
class Inputs:
    """All input files of a shot."""

    reference: InputFile
    poses: dict[str, InputFile | tuple[InputFile, ...]]  # by track: a video, or the pictures of a directory
    initial_noise: InputFile | None
    reference_keypoints: InputFile | None = None

    @classmethod
    def read(
        cls,
        reference: Path,
        pose: PoseFiles,
        initial_noise: Path | None,
        reference_keypoints: Path | None = None,
    ) -> Inputs:
        """Read and hash every file. Raises InputError."""
        return cls(
            read_file(reference, "picture"),
            {name: read_poses(path) for name, path in by_track(pose).items()},
            read_file(initial_noise, "noise file") if initial_noise else None,
            read_file(reference_keypoints, "keypoint file") if reference_keypoints else None,
        )

    @property
    def files(self) -> list[InputFile]:
        poses = [[files] if isinstance(files, InputFile) else files for files in self.poses.values()]
        others = filter(None, (self.initial_noise, self.reference_keypoints))
        return [self.reference, *chain.from_iterable(poses), *others]

    def content(self) -> dict[str, Any]:
        """SHA-256 of each input; of a directory, of each picture by name; of tracks, of each by name."""
        poses = {
            name: files.sha256
            if isinstance(files, InputFile)
            else {file.path.name: file.sha256 for file in files}
            for name, files in self.poses.items()
        }
        return {
            "reference": self.reference.sha256,
            **(poses if ONLY in poses else {"tracks": poses}),
            "initial_noise": self.initial_noise and self.initial_noise.sha256,
            **({"reference_keypoints": self.reference_keypoints.sha256} if self.reference_keypoints else {}),
        }

    def state(self) -> str:
        """A text that changes when a file is changed, even if it is changed back later."""
        return digest_of({"files": [(file.num_bytes, file.modified_ns) for file in self.files]})

    def changed_since(self, before: Inputs) -> InputChanged | None:
        """The error to raise if a file was changed, replaced, moved, added or removed meanwhile."""
        then, now = ({file.path: file for file in inputs.files} for inputs in (before, self))
        path = next((path for path in then | now if then.get(path) != now.get(path)), None)
        if path is None:
            return None
        return InputChanged(
            f"{path}: expected an input that stays as it is, but it changed while the clip was made; try "
            "again"
        )


def read_poses(path: Path) -> InputFile | tuple[InputFile, ...]:
    """Hash a video, or the pictures of a directory. Raises InputError."""
    if os.path.isdir(path):
        return tuple(read_file(picture, "picture") for picture in pose_pictures(path))
    return read_file(path, "pose sequence")


def pose_pictures(folder: Path) -> list[Path]:
    """The pictures or keypoint files of a directory, exactly those that are read. Raises InputError."""
    try:
        return pictures(folder, {".json"} if is_keypoint_source(folder) else PICTURE_SUFFIXES)
    except OSError as error:
        raise InputError(
            f"{escaped(str(folder))}: cannot read this directory of poses: {error.strerror}"
        ) from error


def read_file(path: Path, what: str) -> InputFile:
    """Hash a regular file. Raises InputMissing or InputError."""
    try:
        found = hashed(path)
    except FileNotFoundError as error:
        raise InputMissing(f"{path}: expected a {what}, found nothing there; check the path") from error
    except (OSError, ValueError) as error:  # ValueError for a name that no file can have
        kind = InputChanged if getattr(error, "errno", None) == errno.EAGAIN else InputError
        reason = getattr(error, "strerror", "no file can have this name")
        raise kind(f"{escaped(str(path))}: cannot read this {what}: {reason}") from error
    _device, inode, num_bytes, modified_ns, changed_ns = found.stamp
    return InputFile(path, inode, num_bytes, modified_ns, changed_ns, found.file.sha256)
