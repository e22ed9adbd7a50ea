"""The output of a shot: an mp4, a directory of PNGs or one PNG, with a sidecar beside it.

The sidecar, `NAME.json`, holds the digest of the request and the SHA-256 of every file. A result is done if
the digest and all hashes match, no matter which process made it. Otherwise it is made again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from ...atomic import unwritable
from ...engines.files import hashed
from ...errors import ConfigError, OutputError
from ...text import quoted
from ..media.folder import counts, listed
from ..media.picture import Frame, save_png, save_png16
from ..media.pose_sequence import only_one
from ..media.writer import place, resolve
from .replacement import Replacement, is_frame
from .sidecar import Sidecar, is_foreign

T = TypeVar("T")

PATTERN = re.compile(r"([^#]*)(#+)([^#]*\.png)", re.IGNORECASE)
DIGITS = 5  # of a frame's number, unless a pattern sets another count
VIDEO, PICTURE = "result.mp4", "result.png"  # in a partial clip
MOUNTS = Path("/proc/self/mountinfo")
MAX_NUMBER = 10**9  # of a first frame
MAX_NAME, MAX_PATH = 220, 4000  # bytes; names of temporary files are longer, up to 255 and 4,095


@dataclass(frozen=True, slots=True)
class Output:
    path: Path  # of the mp4, the directory or the PNG
    video: bool
    prefix: str = ""  # of the names of PNGs
    digits: int = DIGITS
    suffix: str = ".png"
    first_number: int = 0
    bits: int = 8  # per channel of PNGs
    picture: bool = False  # one PNG, of a clip that has one frame

    @classmethod
    def at(cls, given: str, first_number: int = 0, bits: int = 8) -> Output:
        """`given` is OUT.mp4, a directory, a directory with a pattern for its files as in OUT/shot.####.png,
        or OUT.png for a clip of one frame.

        If the path exists, it must be replaceable: a file, an empty directory, or a directory that holds only
        an earlier result. Raises ConfigError or OutputError.
        """
        if not given:
            raise ConfigError("output: expected the name of an mp4 or of a directory, found an empty one")
        if not 0 <= first_number <= MAX_NUMBER:
            raise ConfigError(f"first number: expected 0 to {MAX_NUMBER}, found {quoted(first_number)}")
        folder, name = os.path.split(given)
        if match := PATTERN.fullmatch(name):
            prefix, marks, suffix = match.groups()
            output = cls(place(folder or "."), False, prefix, len(marks), suffix, first_number, bits)
        else:
            path, suffix = resolve(given, (".mp4", ".png", "")), Path(given).suffix.lower()
            output = cls(path, suffix == ".mp4", "", DIGITS, ".png", first_number, bits, suffix == ".png")
        if bits not in (8, 16 if not output.video else 8):
            raise ConfigError(f"bits: expected 8, or 16 for PNGs, found {quoted(bits)} for {quoted(given)}")
        output.check_names()
        output.check_replaceable()
        return output

    def check_names(self) -> None:
        """Raise OutputError for names that are too long, or that would not count in a folder."""
        frame = self.frame_name(MAX_NUMBER)
        check_name(self.path)
        check_name(self.path / frame)
        if not counts(frame):
            raise ConfigError(f"expected names of PNGs that are not hidden, found {quoted(frame)}: change it")

    def frame_name(self, index: int) -> str:
        """File name of a PNG. `index` counts the clip's frames from 0."""
        return f"{self.prefix}{self.first_number + index:0{self.digits}}{self.suffix}"

    @property
    def is_file(self) -> bool:
        return self.video or self.picture

    def save(self, path: Path, frame: Frame) -> None:
        """Write a frame as a PNG. Not atomic: `path` should be a temporary name."""
        (save_png16 if self.bits == 16 else save_png)(path, frame)

    def only_one(self, frames: Iterable[T]) -> Iterator[T]:
        """Yield the frame of a picture. Raises ConfigError at a second one."""
        return only_one(frames, self.path, "--frames 7-7")

    @property
    def sidecar(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    @property
    def num_frames(self) -> int:
        """Number of frames of the existing result."""
        sidecar = Sidecar.read(self.sidecar)
        return sidecar.frames if sidecar else 0

    def holds(self, digest: str, previews: Mapping[str, Path]) -> bool:
        """Whether the complete result of this request exists, and the previews that were written with it.

        Reads and hashes every file.
        """
        sidecar = Sidecar.read(self.sidecar)
        if sidecar is None or sidecar.digest != digest:
            return False
        try:
            if any(hashed(path).file.sha256 != getattr(sidecar, name) for name, path in previews.items()):
                return False
            files = [self.path] if self.is_file else listed(self.path)
            return {file.name for file in files} == sidecar.files.keys() and all(
                hashed(file).file.sha256 == sidecar.files[file.name]
                for file in files
                if not file.is_symlink()
            )
        except OSError:
            return False

    def publish(self, partial: Path, sidecar: Sidecar) -> None:
        """Move the result in the folder `partial` to its final name, and write the sidecar.

        If the process is killed midway, the result does not count as done. Raises OutputError.
        """
        try:
            self.check_replaceable()
            if self.is_file:
                sidecar.write(self.sidecar)
                os.replace(partial / (VIDEO if self.video else PICTURE), self.path)
            else:
                self.replacement(partial).run(sidecar, self._check_folder)
        except OSError as error:
            raise unwritable(self.path, error) from error

    def replacement(self, partial: Path) -> Replacement:
        return Replacement(self.path, self.sidecar, partial)

    def mark_stale(self) -> None:
        """Make the existing result count as not done, without removing it."""
        if sidecar := Sidecar.read(self.sidecar):
            try:
                replace(sidecar, digest="").write(self.sidecar)
            except OSError as error:
                raise unwritable(self.sidecar, error) from error

    def check_replaceable(self) -> None:
        """Raise OutputError if the result or the sidecar would replace something of somebody."""
        try:
            if not self.is_file:
                self._check_folder(self.path)
            elif self.path.exists() and not self.path.is_file():
                kind = "mp4" if self.video else "picture"
                raise OutputError(f"{self.path} exists and is not a file: choose another name for the {kind}")
            foreign = is_foreign(self.sidecar, beside_a_result=self.path.exists())
        except OSError as error:
            raise unwritable(self.path, error) from error
        if foreign:
            raise OutputError(
                f"{self.sidecar} exists and is no sidecar of an earlier result, whose name it has: "
                "choose another name for the output, or move that file"
            )

    def _check_folder(self, folder: Path) -> None:
        if not folder.exists():
            return
        if not folder.is_dir():
            raise OutputError(f"{self.path} exists and is not a directory: choose another name for the PNGs")
        if is_mount_point(folder):
            raise OutputError(f"{self.path} is a mount point and cannot be replaced: choose a name inside it")
        if others := self._others(folder):
            raise OutputError(
                f"{self.path} is not empty, and {quoted(others[0])} does not belong to an earlier result: "
                "choose another name for the directory of PNGs, or empty it"
            )

    def _others(self, folder: Path) -> list[str]:
        """The names in a folder of PNGs that do not belong to an earlier result.

        A damaged sidecar cannot tell: then every name that this output could have given belongs to it.
        """
        while True:
            sidecar = Sidecar.read(self.sidecar)
            damaged = sidecar is None and self.sidecar.is_file()
            others = []
            with suppress(FileNotFoundError):
                for entry in listed(folder):
                    known = entry.name in sidecar.files if sidecar else damaged and self._numbered(entry.name)
                    if not (known and is_frame(entry)) and os.path.lexists(entry):
                        others.append(entry.name)
            # Another process may have published a result in between.
            if not others or Sidecar.read(self.sidecar) == sidecar:
                return others

    def _numbered(self, name: str) -> bool:
        number = name.removeprefix(self.prefix).removesuffix(self.suffix)
        return (
            name == f"{self.prefix}{number}{self.suffix}"
            and number.isdecimal()
            and len(number) >= self.digits
        )


def is_mount_point(folder: Path) -> bool:
    """Whether another file system, or another folder, is mounted here. Such a folder cannot be renamed."""
    if os.path.ismount(folder):
        return True
    try:
        mounts = MOUNTS.read_bytes().splitlines()
    except OSError:  # not Linux
        return False
    spelled = re.sub(rb"[\t\n \\]", lambda found: b"\\%03o" % ord(found[0]), os.fsencode(folder))
    return any(mount.split(b" ", 5)[4] == spelled for mount in mounts)


def check_name(path: Path) -> None:
    """Raise OutputError if the names of temporary files beside this path would be too long."""
    if len(os.fsencode(path.name)) > MAX_NAME or len(os.fsencode(path)) > MAX_PATH:
        raise OutputError(
            f"expected a name of up to {MAX_NAME} bytes in a path of up to {MAX_PATH}, found "
            f"{quoted(path.name)} in {quoted(str(path.parent))}: choose a shorter one"
        )
