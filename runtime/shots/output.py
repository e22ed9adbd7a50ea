"""Where a shot goes: an mp4 or a directory of PNGs, and beside it a sidecar that says what it was made from.

`NAME.json` holds the digest of the request and the SHA-256 of every file. A result is done when both are
right, whoever made it and whatever happened since; anything less is made again.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...atomic import atomic, unwritable
from ...engines.files import canonical, describe
from ...errors import ConfigError, OutputError
from ..media.picture import Frame, save_png, save_png16
from ..media.writer import place, resolve

PATTERN = re.compile(r"([^#]*)(#+)([^#]*\.png)", re.IGNORECASE)
DIGITS = 5  # of a frame's number, unless a pattern says how many
CLAIMED = "result"  # a directory of PNGs on its way to its place


@dataclass(frozen=True, slots=True)
class Output:
    path: Path  # of the mp4 or the directory
    video: bool
    prefix: str = ""  # of the names of PNGs
    digits: int = DIGITS
    suffix: str = ".png"
    first_number: int = 0
    bits: int = 8  # per channel of PNGs

    @classmethod
    def at(cls, given: str, first_number: int = 0, bits: int = 8) -> Output:
        """OUT.mp4, a directory, or a directory with a pattern for its files: OUT/shot.####.png.

        What stands there is refused unless it may be replaced: an mp4, an empty directory, or one that holds
        nothing but an earlier result. Raises ConfigError or OutputError.
        """
        if first_number < 0:
            raise ConfigError(f"first number: expected at least 0, found {first_number}")
        folder, name = os.path.split(given)
        if match := PATTERN.fullmatch(name):
            prefix, marks, suffix = match.groups()
            output = cls(place(folder or "."), False, prefix, len(marks), suffix, first_number, bits)
        else:
            output = cls(resolve(given), bool(Path(given).suffix), first_number=first_number, bits=bits)
        if bits not in (8, 16 if not output.video else 8):
            raise ConfigError(f"bits: expected 8, or 16 for PNGs, found {bits} for {given}")
        if output.path.exists():
            output._check_replaceable()
        return output

    def frame_name(self, index: int) -> str:
        """Of a PNG; `index` counts the clip's frames from 0."""
        return f"{self.prefix}{self.first_number + index:0{self.digits}}{self.suffix}"

    def save(self, path: Path, frame: Frame) -> None:
        """A frame, for a `path` that nobody sees yet."""
        (save_png16 if self.bits == 16 else save_png)(path, frame)

    @property
    def sidecar(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    def holds(self, digest: str) -> bool:
        """Whether the result of that request is there, every byte of it."""
        document = self._read_sidecar()
        if document.get("digest") != digest or not self.path.exists():
            return False
        try:
            files = [self.path] if self.video else sorted(self.path.iterdir())
            return hashes(files) == document.get("files")
        except OSError:
            return False

    def publish(self, made: Path, digest: str, about: dict[str, Any]) -> None:
        """Let what was made take its place. Killed on the way, nothing is done, and `made` is still there, or
        CLAIMED beside it."""
        files = hashes([made] if self.video else sorted(made.iterdir()))
        if self.video:
            files = {self.path.name: next(iter(files.values()))}
        try:
            if not self.video:
                # Of several processes that made it, one wins this, before anything that stands is touched.
                made = made.rename(made.with_name(CLAIMED))
                if self.path.is_dir():
                    self.path.rename(made.with_name("replaced"))  # it cannot be replaced in one step
            self._write_sidecar({**about, "digest": digest, "files": files})
            os.replace(made, self.path)
        except OSError as error:
            raise unwritable(self.path, error) from error

    def revoke(self) -> None:
        """Let a result be done no more, and stay until another takes its place."""
        if document := self._read_sidecar():
            try:
                self._write_sidecar(document | {"digest": ""})
            except OSError as error:
                raise unwritable(self.sidecar, error) from error

    @property
    def num_frames(self) -> int:
        """Of the result that is there."""
        return int(self._read_sidecar().get("frames", 0))

    def _write_sidecar(self, document: dict[str, Any]) -> None:
        with atomic(self.sidecar) as temporary:
            temporary.write_bytes(canonical(document))

    def _read_sidecar(self) -> dict[str, Any]:
        try:
            document = json.loads(self.sidecar.read_bytes())
        except (OSError, ValueError):
            return {}
        return document if isinstance(document, dict) else {}

    def _check_replaceable(self) -> None:
        if self.video:
            if not self.path.is_file():
                raise OutputError(f"{self.path} exists and is not a file: choose another name for the mp4")
            return
        if not self.path.is_dir():
            raise OutputError(f"{self.path} exists and is not a directory: choose another name for the PNGs")
        if os.path.ismount(self.path):
            raise OutputError(f"{self.path} is a mount point, which nothing can replace: choose a name in it")
        ours = self._read_sidecar().get("files", {})
        if others := [entry.name for entry in self.path.iterdir() if entry.name not in ours]:
            raise OutputError(
                f"{self.path} is not empty, and {others[0]} is not of an earlier result: "
                "choose another name for the directory of PNGs, or empty it"
            )


def hashes(files: Iterable[Path]) -> dict[str, str]:
    """SHA-256 by name."""
    return {path.name: describe(path).sha256 for path in files}
