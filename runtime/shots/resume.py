"""Resuming a clip after the process that makes it was stopped or killed.

`PartialClip` is a folder beside the result, named after the result, the digest of the request and the state
of the inputs. It holds the finished frames, one PNG each, and the latest snapshot (runtime/clip/snapshot.py).

Files are written atomically. Files that are damaged all the same, by a lost disk or power, are detected when
they are read, and made again. Several processes that make the same clip may share the folder: they write the
same bytes. Processes that make another clip for the same output have other folders. All of them publish one
after the other.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import IO, Any, Self

from ...atomic import atomic, unwritable
from ...engines.files import digest_of, hashed
from ...errors import ConfigError, InputError, OutputError
from ...locks import ATTEMPTS, in_use, is_at, locked, share
from ..clip.snapshot import Snapshot
from ..media.folder import contents, counts
from ..media.picture import Frame
from ..media.writer import FrameWriter
from .kept_files import is_intact_png, read_png, read_snapshot, write_snapshot
from .output import PICTURE, VIDEO, Output
from .previews import FILES
from .sidecar import Sidecar

SHARE = 0.005  # fraction of the time that snapshots may take
# In the folder; keypoints are those of a driving video.
SNAPSHOT, FRAMES, KEYPOINTS, IN_USE = "snapshot.npz", "frames", "keypoints.npz", "in use"


class Paused(Exception):
    """A clip was stopped after a snapshot, because `pause` asked for it."""


class PartialClip:
    """The finished frames and the snapshot of one clip, on disk. Use in a `with`.

    The files stay after the block, until `clear` is called. They are removed only if an InputError or
    ConfigError ends a run that had nothing to resume from.
    """

    def __init__(
        self,
        output: Output,
        digest: str,
        previews: Mapping[str, Path] | None = None,
        *,
        inputs: str = "",
        frame_shape: tuple[int, ...] | None = None,
        is_right: Callable[[Snapshot], bool] = lambda _snapshot: True,
        check: Callable[[], None] = lambda: None,
        pause: Callable[[], bool] = lambda: False,
    ):
        """`previews` are the paths of the contact sheet and the overlay, by name.

        `inputs` identifies the state of the input files: what was made with another state is not used.

        Nor are frames of another shape than (H, W, 3), or a snapshot that is not `is_right`. `check` is
        called before a frame or snapshot is kept, and raises an error if it may be wrong. Once `pause`
        returns True, the next snapshot is saved as soon as possible, and Paused is raised after it.
        """
        self.output, self.digest = output, digest
        self.target, self.previews = output.path, previews or {}
        self.frame_shape, self.is_right, self.check, self.pause = frame_shape, is_right, check, pause
        state = digest_of({"request": digest, "inputs": inputs})
        self.path = self.target.with_name(f".{self.target.name}.{state[:16]}.partial")
        # Named as a leftover, so that the next run removes the one of a process that was killed.
        self.lock = self.target.with_name(f".{self.target.name}.0.partial")
        self.frames = self.path / FRAMES
        self.start, self.num_frames = Snapshot(), 0
        self.saved_s = self.cost_s = 0.0  # when the last snapshot was saved, and how long that took
        self.mark: IO[str] | None = None  # that the folder is in use; open, so that its inode is not reused
        self.vanished = False  # another process has removed the folder meanwhile, or made it anew
        self.holds_lock = False
        self.opened = ExitStack()  # with the mark that the folder is in use

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            try:
                replacement = self.output.replacement(self.path)
                for folder in (self.path, self.frames, replacement.new, replacement.old):
                    if folder.is_symlink():  # somebody's, to a folder where nothing may be written or deleted
                        folder.unlink()
                any(self._open(stack) for _ in range(ATTEMPTS))
            except OSError as error:
                raise unwritable(self.target, error) from error
            while is_intact_png(self.frame(self.num_frames), self.frame_shape, self.output.bits):
                self.num_frames += 1
            snapshot = read_snapshot(self.path / SNAPSHOT, self.digest)
            # Frames before the snapshot are missing only if files were damaged. Then the clip starts anew.
            if snapshot.num_tasks and snapshot.first_frame <= self.num_frames and self.is_right(snapshot):
                self.start = snapshot
            self.opened = stack.pop_all()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        with self.opened:
            if isinstance(error, OutputError | OSError):
                with self.locked():  # until a process that is removing it has ended
                    self.vanished = self.mark is None or not is_at(self.mark, self.path / IN_USE)
            kept = [self.path / name for name in (SNAPSHOT, KEYPOINTS)]
            empty = not contents(self.frames, counts) and not any(path.exists() for path in kept)
            # With something to resume from, the inputs were valid once, and a missing one may come back.
            if empty or (isinstance(error, InputError | ConfigError) and not self.can_resume):
                self._remove(self.path)

    @property
    def can_resume(self) -> bool:
        """Whether a frame or a snapshot was found when the folder was opened."""
        return self.num_frames > 0 or self.start.num_tasks > 0

    def read(self) -> Iterator[Frame]:
        """Yield the frames that existed when the folder was opened."""
        for index in range(self.num_frames):
            yield read_png(self.frame(index))

    def frame(self, index: int) -> Path:
        return self.frames / self.output.frame_name(index)

    def write(
        self,
        frames: Iterator[Frame],
        shape: tuple[int, int, int],
        finish: Callable[[Path], None] = lambda _path: None,
    ) -> Generator[Frame, None, None]:
        """Yield `frames`, which follow those of `read`, and write each as a PNG in a separate thread.

        `finish` adds what else belongs into the file of a frame that is published.
        """
        save = partial(self._save, finish)
        with FrameWriter(self.target, shape, save) as self.writer:
            for frame in frames:
                self.check()
                self.writer.write(frame)
                yield frame

    def due(self) -> bool:
        return self.pause() or (monotonic() - self.saved_s) * SHARE >= self.cost_s

    def save(self, take: Callable[[], Snapshot]) -> None:
        begin = monotonic()
        snapshot = take()
        self.check()
        self.writer.flush()
        try:
            with atomic(self.path / SNAPSHOT, self._temporary()) as temporary:
                write_snapshot(temporary, snapshot, self.digest)
        except OSError as error:
            raise unwritable(self.target, error) from error
        self.saved_s = monotonic()
        self.cost_s = self.saved_s - begin
        if self.pause():
            raise Paused

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from publishing a result at this path, or from clearing it, meanwhile."""
        if self.holds_lock:
            yield
            return
        with locked(self.lock):
            self.holds_lock = True
            try:
                yield
            finally:
                self.holds_lock = False

    def preview(self, name: str) -> Path:
        """Where a preview is written before it is published."""
        return self.path / FILES[name]

    def publish(
        self, num_frames: int, about: str, marks: dict[str, Any] | None = None, lossy: Sequence[str] = ()
    ) -> None:
        """Publish the previews, and a result of so many frames, with these marks. `about` is the shot's name.

        PNGs are published as links to the frames, so that other processes do not miss them.
        """
        previews = {name: self._publish_preview(name, path) for name, path in self.previews.items()}
        try:
            if self.output.is_file:
                result = self.path / (VIDEO if self.output.video else PICTURE)
                if self.output.picture:
                    link(self.frame(0), result)
                files = {self.target.name: hashed(result).file.sha256}
            else:
                frames = map(self.frame, range(num_frames))
                files = {path.name: hashed(path).file.sha256 for path in frames}
                self._link(files)
        except OSError as error:
            raise unwritable(self.target, error) from error
        sidecar = Sidecar(
            digest=self.digest,
            files=files,
            frames=num_frames,
            shot=about,
            marks=marks,
            lossy=list(lossy) or None,
            **previews,
        )
        self.output.publish(self.path, sidecar)

    def recover(self) -> None:
        """Finish or revert the publishing of a process that was killed. Raises OutputError."""
        try:
            self.output.replacement(self.path).recover()
        except OSError as error:
            raise unwritable(self.target, error) from error

    def clear(self) -> None:
        """Remove this folder, and what processes that were stopped have left of the same output."""
        if not leftovers(self.target, self.output.sidecar, *self.previews.values()):
            return
        with self.locked():
            found = leftovers(self.target, self.output.sidecar, *self.previews.values())
            for entry in set(found) - {self.lock}:
                if entry.is_symlink() or not entry.is_dir():
                    with suppress(OSError):
                        entry.unlink()
                    continue
                with in_use(entry / IN_USE) as used:
                    if entry == self.path or not used:
                        self._remove(entry)

    def discard(self) -> None:
        """Clear, and make the existing result count as not done."""
        with self.locked():
            self.output.mark_stale()
            self.clear()

    def _open(self, stack: ExitStack) -> bool:
        """Make the folder and mark it as in use. False if another process has removed it meanwhile."""
        self.path.mkdir(exist_ok=True)
        try:
            self.mark = stack.enter_context(share(self.path / IN_USE))
            self.frames.mkdir(exist_ok=True)
        except FileNotFoundError:
            return False
        return is_at(self.mark, self.path / IN_USE)

    def _remove(self, entry: Path) -> None:
        """Remove a folder. It is renamed first, so that no process begins to use one that is half removed."""
        beginning, _, _ = entry.name.rsplit(".", 2)
        removed = entry.with_name(f"{beginning}.{secrets.token_hex(8)}.partial")
        with suppress(OSError):
            if self.output.replacement(entry).abandon():
                entry.rename(removed)
                shutil.rmtree(removed, ignore_errors=True)

    def _link(self, files: dict[str, str]) -> None:
        folder = self.output.replacement(self.path).new
        folder.mkdir(exist_ok=True)
        for name in contents(folder, counts):
            (folder / name).unlink()
        for name in files:
            link(self.frames / name, folder / name)

    def _publish_preview(self, name: str, path: Path) -> str:
        """Copy a preview, which may belong on another file system, to its path. Returns its SHA-256."""
        try:
            with atomic(path) as temporary:
                shutil.copyfile(self.preview(name), temporary)
            return hashed(path).file.sha256
        except OSError as error:
            raise unwritable(path, error) from error

    def _save(self, finish: Callable[[Path], None], frames: Iterator[Frame]) -> None:
        for index, frame in enumerate(frames, start=self.num_frames):
            with atomic(self.frame(index), self._temporary()) as temporary:
                self.output.save(temporary, frame)
                if not self.output.video:
                    finish(temporary)

    def _temporary(self) -> Path:
        # Not in the folder of frames, which holds frames only.
        return self.path / f"{secrets.token_hex(8)}.tmp"


def link(source: Path, target: Path) -> None:
    """Make `target` another link to a file, or a copy where there are no links. Raises OSError."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def leftovers(*paths: Path) -> list[Path]:
    """Return the partial clips and temporary files that lie beside these paths."""
    found = []
    for path in paths:
        leftover = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]+\.partial")
        with suppress(OSError):
            found += [entry for entry in path.parent.iterdir() if leftover.fullmatch(entry.name)]
    return found
