"""Resuming a clip: what outlives the process that makes it, whatever kills that.

`Kept` is a folder beside the result, named after it and after the digest of everything that decides the
frames. In it are the frames that are finished, one PNG each, and now and then a snapshot (snapshot.py).

Files get their names complete. What is damaged all the same, by a lost disk or power, is noticed when it is
read, and made again. Two processes that were sent the same clip may share the folder: they write the same.
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Self

import numpy as np

from ...atomic import atomic, unwritable
from ...engines.device import Array
from ...errors import ConfigError, InputError
from ..clip.snapshot import Snapshot
from ..media.picture import Frame
from ..media.writer import FrameWriter
from .output import CLAIMED, Output

SHARE = 0.02  # of the time may go into snapshots
SNAPSHOT = "snapshot.npz"
FRAMES = "frames"


class PartialClip:
    """The folder of one clip. In a `with`; what is in it then stays until `clear` says that the result is
    there. Only of inputs that were at fault from the beginning nothing stays."""

    def __init__(self, output: Output, digest: str, contact_sheet: Path | None = None):
        self.output, self.target, self.contact_sheet = output, output.path, contact_sheet
        self.path = self.target.with_name(f".{self.target.name}.{digest[:16]}.partial")
        self.frames = self.path / FRAMES
        self.start, self.num_frames = Snapshot(), 0
        self.began = self.cost_s = 0.0

    def __enter__(self) -> Self:
        try:
            self.path.mkdir(exist_ok=True)
            with suppress(OSError):
                (self.path / CLAIMED).rename(self.frames)  # of a process that was killed on the last yards
            shutil.rmtree(self.path / CLAIMED, ignore_errors=True)  # frames were made meanwhile
            self.frames.mkdir(exist_ok=True)
        except OSError as error:
            raise unwritable(self.target, error) from error
        while intact_png(self.frame(self.num_frames)):
            self.num_frames += 1
        snapshot = read_snapshot(self.path / SNAPSHOT)
        # The frames before it are gone with damaged files only; then the clip begins anew.
        self.start = snapshot if snapshot.first_frame <= self.num_frames else Snapshot()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        empty = not any(path.is_file() for path in self.path.rglob("*"))
        # An input that served once and is not there now may be back the next time.
        if empty or (isinstance(error, InputError | ConfigError) and not self.begun):
            shutil.rmtree(self.path, ignore_errors=True)

    @property
    def begun(self) -> bool:
        """Whether there is anything to go on from."""
        return self.num_frames > 0 or self.start.num_tasks > 0

    def read(self) -> Iterator[Frame]:
        """The frames that were there when it was opened."""
        for index in range(self.num_frames):
            yield read_png(self.frame(index))

    def frame(self, index: int) -> Path:
        return self.frames / self.output.frame_name(index)

    def write(self, frames: Iterator[Frame], shape: tuple[int, int, int]) -> Generator[Frame, None, None]:
        """Pass on frames that follow these, and keep each of them, in a thread of its own."""
        with FrameWriter(self.target, shape, self._save) as self.writer:
            for frame in frames:
                self.writer.write(frame)
                yield frame

    def due(self) -> bool:
        return (monotonic() - self.began) * SHARE >= self.cost_s

    def save(self, take: Callable[[], Snapshot]) -> None:
        begin = monotonic()
        snapshot = take()
        self.writer.flush()
        arrays: dict[str, Any] = {
            f"{kind}_{first}": array
            for first, kinds in snapshot.segments.items()
            for kind, array in zip(("latents", "total"), kinds, strict=False)
        }
        position = np.array([snapshot.num_tasks, snapshot.first_frame])
        try:
            with (
                atomic(self.path / SNAPSHOT, self._temporary()) as temporary,
                temporary.open("wb") as file,
            ):
                np.savez(file, position=position, **arrays)
        except OSError as error:
            raise unwritable(self.target, error) from error
        self.began = monotonic()
        self.cost_s = self.began - begin

    def clear(self) -> None:
        """Remove the folder, those of interrupted runs with other options, and files they were writing."""
        for path in filter(None, (self.target, self.output.sidecar, self.contact_sheet)):
            ours = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]+\.partial")
            for entry in list(path.parent.iterdir()):
                if ours.fullmatch(entry.name):
                    shutil.rmtree(entry, ignore_errors=True)
                    with suppress(OSError):
                        entry.unlink()

    def _save(self, frames: Iterator[Frame]) -> None:
        for index, frame in enumerate(frames, start=self.num_frames):
            with atomic(self.frame(index), self._temporary()) as temporary:
                self.output.save(temporary, frame)

    def _temporary(self) -> Path:
        # Not in the folder of frames, which may become the result of another process meanwhile.
        return self.path / f"{secrets.token_hex(8)}.tmp"


def read_snapshot(path: Path) -> Snapshot:
    """A snapshot that is there and whole; otherwise that of a clip not begun."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}  # checks the sum of each
        num_tasks, first_frame = map(int, arrays.pop("position"))
    except Exception:  # not there, or a damaged archive, which can be any error
        return Snapshot()
    segments: dict[int, list[Array]] = {}
    for name in sorted(arrays):  # "latents" before "total"
        segments.setdefault(int(name.partition("_")[2]), []).append(arrays[name])
    return Snapshot(num_tasks, first_frame, segments)


def intact_png(path: Path) -> bool:
    """Whether a PNG is there with all its parts and their sums right; pixels are not looked at."""
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as picture:
            picture.verify()
    except Exception:  # not there, or damaged, which can be any error
        return False
    return True


def read_png(path: Path) -> Frame:
    from PIL import Image

    with Image.open(path, formats=["PNG"]) as picture:
        return np.asarray(picture)  # of 16 bits, Pillow gives the upper 8, which are all there is
