"""A shot: one clip as a task of a farm, from files to a file.

Whether it is done is decided by what is in its output, never by memory: a digest of bundle, inputs and
options stands beside the result (output.py). What is not done goes on from what is kept of it (resume.py). So
a shot may be started any number of times, anywhere, by anyone, and is made once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from importlib import metadata
from itertools import chain
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...engines.bundle import MANIFEST, read_manifest
from ...engines.files import describe, digest_of
from ...errors import AnimateError, ConfigError, InputError, InputMissing
from ..animator import Animator
from ..clip.options import ClipOptions
from ..clip.progress import Progress
from ..media.contact_sheet import COLUMNS, contact_sheet
from ..media.picture import Frame, fit, read_picture, write_png
from ..media.pose_sequence import PICTURE_SUFFIXES, PoseSequence, open_pose
from ..media.writer import open_writer
from .output import Output
from .resume import PartialClip, read_png

if TYPE_CHECKING:
    from PIL import Image

SCHEMA = 1  # of what a digest is of
DEFAULT_FRAME_RATE = Fraction(24)  # where the pose sequence has none: a directory of pictures
FRAMES = re.compile(r"(?:([1-9][0-9]{0,8})-)?([1-9][0-9]{0,8})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """What to make of what, and where."""

    name: str
    bundle: Path
    reference: Path
    pose: Path
    output: Output
    options: ClipOptions = field(default_factory=ClipOptions)
    frames: str | None = None  # "48": the first 48 pose frames; "25-72": those, counted from 1
    fps: Fraction | None = None  # default: the pose sequence's
    initial_noise: Path | None = None
    contact_sheet: Path | None = None

    def __post_init__(self) -> None:
        frame_range(self.frames)

    def digest(self) -> str:
        """Of everything that decides the result. Reads the inputs; raises InputMissing or BundleError."""
        return digest_of(self.request())

    def request(self) -> dict[str, Any]:
        if not self.bundle.is_dir():
            raise InputMissing(f"{self.bundle}: expected a bundle directory, found none; animate-rt build")
        noise = self.initial_noise
        return {
            "schema": SCHEMA,
            "version": metadata.version("animate-rt"),
            "encoder": metadata.version("av") if self.output.video else None,
            "bundle": read_manifest(self.bundle / MANIFEST)["digest"],
            "reference": content(self.reference, "picture"),
            "pose": content(self.pose, "pose sequence"),
            "initial_noise": content(noise, "noise file") if noise else None,
            "fps": self.fps and str(self.fps),
            "pngs": None if self.output.video else [self.output.frame_name(0), self.output.bits],
            "frames": str(self.frames),
            **{name: str(value) for name, value in asdict(self.options).items()},
        }


class ShotResult(NamedTuple):
    """What became of a shot."""

    num_kept: int  # frames that an earlier process had finished
    num_frames: int  # of all


def check_inputs(shot: Shot) -> None:
    """Refuse what cannot be used, as far as can be seen at once."""
    read_picture(shot.reference)
    open_frames(shot.pose, shot.frames)


def is_done(shot: Shot, digest: str) -> bool:
    """Whether all that is asked for is there; then nothing else of it is left lying about."""
    sheet = shot.contact_sheet
    done = shot.output.holds(digest) and (sheet is None or sheet.is_file())
    if done:
        partial_clip_of(shot, digest).clear()
    return done


def partial_clip_of(shot: Shot, digest: str) -> PartialClip:
    return PartialClip(shot.output, digest, shot.contact_sheet)


def make(
    shot: Shot,
    animator: Animator,
    digest: str,
    *,
    force: bool = False,
    progress: Callable[[Progress], None] = lambda _progress: None,
) -> ShotResult:
    """Make a shot with its bundle's animator, from where an earlier process left it; with `force` anew."""
    if force:
        shot.output.revoke()  # first: whoever goes on after a kill is not told to force it
        partial_clip_of(shot, digest).clear()
    pose = open_frames(shot.pose, shot.frames)
    output, bucket = shot.output, animator.bundle.manifest.bucket
    try:
        with partial_clip_of(shot, digest) as kept:
            frames = animator.animate(
                shot.reference,
                pose,
                shot.options,
                initial_noise=shot.initial_noise,
                progress=progress,
                snapshots=kept,
            )
            with closing(kept.write(frames, (bucket.height, bucket.width, 3))) as new:
                if output.video:
                    made = kept.path / "result.mp4"
                    rate = shot.fps or pose.frame_rate or DEFAULT_FRAME_RATE
                    num_frames = encode(made, bucket.width, bucket.height, rate, chain(kept.read(), new))
                else:
                    made, num_frames = kept.frames, kept.num_frames + sum(1 for _ in new)
            if shot.contact_sheet:
                write_png(
                    shot.contact_sheet, sheet(shot, pose, kept, num_frames, bucket.width, bucket.height)
                )
            output.publish(made, digest, {"shot": shot.name, "frames": num_frames})
            kept.clear()
    except (AnimateError, OSError):
        if is_done(shot, digest):  # by another process that was sent the same
            return ShotResult(output.num_frames, output.num_frames)
        raise
    return ShotResult(kept.num_frames, num_frames)


def encode(path: Path, width: int, height: int, rate: Fraction, frames: Iterator[Frame]) -> int:
    with open_writer(path, width, height, rate) as writer:
        for frame in frames:
            writer.write(frame)
    return writer.num_frames


def sheet(
    shot: Shot, pose: PoseSequence, kept: PartialClip, num_frames: int, width: int, height: int
) -> Frame:
    """The contact sheet of a shot whose frames are all kept; only what is shown is read."""
    shown = np.linspace(0, num_frames - 1, min(COLUMNS, num_frames)).round().astype(int).tolist()
    poses = [fit(picture, width, height) for i, picture in enumerate(pose) if i in set(shown)]
    frames = [read_png(kept.frame(i)) for i in shown]
    return contact_sheet(fit(read_picture(shot.reference), width, height), poses, frames)


def frame_range(frames: str | None) -> tuple[int, int | None]:
    """The first pose frame, counted from 0, and the one to stop at. Raises ConfigError."""
    if frames is None:
        return 0, None
    match = FRAMES.fullmatch(frames)
    first, last = (int(part or 1) for part in match.groups()) if match else (1, 0)
    if first > last:
        raise ConfigError(f"frames: expected at least 1, as 48 or as a range like 25-72, found {frames}")
    return first - 1, last


def open_frames(pose: Path, frames: str | None) -> PoseSequence:
    """The pose frames a shot is made of. A range has to be there to its end, a number is the most to take."""
    start, stop = frame_range(frames)
    sequence = open_pose(pose, stop)
    if frames is None or "-" not in frames:
        return sequence
    assert stop is not None

    def read() -> Iterator[Image.Image]:
        count = 0
        for count, picture in enumerate(sequence, start=1):
            if count > start:
                yield picture
        if count < stop:
            raise InputError(f"{pose}: expected pose frames {frames}, found {count}")

    return PoseSequence(read, sequence.frame_rate, stop - start)


def content(path: Path, what: str) -> str | dict[str, str]:
    """The SHA-256 of a file, or of each picture of a directory."""
    try:
        if not path.is_dir():
            return sha256(path)
        names = sorted(entry.name for entry in path.iterdir() if entry.suffix.lower() in PICTURE_SUFFIXES)
        return {name: sha256(path / name) for name in names}
    except FileNotFoundError as error:
        raise InputMissing(f"{path}: expected a {what}, found nothing there; check the path") from error
    except OSError as error:
        raise InputError(f"{path}: cannot read this {what}: {error.strerror}") from error


def sha256(path: Path) -> str:
    if not S_ISREG(path.stat().st_mode):
        raise InputError(f"{path}: expected a file, found a device or pipe, which may never end")
    return describe(path).sha256
