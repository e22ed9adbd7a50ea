"""Previews: what a shot writes for people to look at, a contact sheet and an overlay.

Both show the finished frames of a clip beside its poses and, if there is one, beside its driving video. They
are made from the kept frames, and only the frames that are shown are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...atomic import atomic, unwritable
from ..clip.progress import Progress, ProgressCallback
from ..marks.marks import Marks
from ..media.contact_sheet import contact_sheet, shown
from ..media.picture import Frame, contain, fit, save_png
from ..media.sound import Sound
from ..media.writer import open_writer

if TYPE_CHECKING:
    from PIL import Image

CONTACT_SHEET, OVERLAY = "contact_sheet", "overlay"  # names of the previews, and of the stage of progress
FILES = {CONTACT_SHEET: "contact_sheet.png", OVERLAY: "overlay.mp4"}  # in a partial clip
ASPECTS = 0.5, 2.0  # the limits of width / height that a driving frame is shown with


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A clip whose frames are all there, read when they are shown.

    Poses and driving frames can be iterated several times; `driving` is None if there is no driving video.
    `frame` reads a frame, uint8 (height, width, 3).
    """

    reference: Callable[[], Image.Image]
    driving: Iterable[Image.Image] | None
    poses: Iterable[Image.Image]
    frame: Callable[[int], Frame]
    num_frames: int
    width: int
    height: int
    num_tracks: int = 1  # pictures side by side in each of `poses`

    def contact_sheet(self) -> Frame:
        """The reference beside driving frames, poses and frames."""
        width, height, chosen = self.width, self.height, shown(self.num_frames)

        def row(pictures: Iterable[Image.Image], scale: Callable[..., Frame]) -> list[Frame]:
            numbered = zip(range(self.num_frames), held(pictures), strict=False)
            return [scale(picture, width, height) for i, picture in numbered if i in chosen]

        rows = [row(self.driving, contain)] if self.driving else []
        rows += [row(map(partial(self.track, track), self.poses), fit) for track in range(self.num_tracks)]
        rows += [[self.frame(i) for i in chosen]]
        return contact_sheet(fit(self.reference(), width, height), *rows)

    def track(self, track: int, pose: Image.Image) -> Image.Image:
        """One of the pictures of a pose frame."""
        width = pose.width // self.num_tracks
        return pose.crop((track * width, 0, (track + 1) * width, pose.height))

    def overlay(self) -> Iterator[Frame]:
        """For every frame the driving frame, the pose and the frame side by side."""
        poses, driving = held(self.poses), None if self.driving is None else held(self.driving)
        width = 0
        for i in range(self.num_frames):
            panels = [fit(next(poses), self.num_tracks * self.width, self.height), self.frame(i)]
            if driving:
                picture = next(driving)
                width = width or panel_width(picture, self.height)
                panels.insert(0, contain(picture, width, self.height))
            yield np.concatenate(panels, axis=1)


def held(pictures: Iterable[Image.Image]) -> Iterator[Image.Image]:
    """Pictures, and the last one again for as long as more are wanted: their number may be off by one."""
    for picture in pictures:
        yield picture
    while True:
        yield picture


def panel_width(picture: Image.Image, height: int) -> int:
    """The even width of a driving frame at that height, as wide as its aspect ratio is within ASPECTS."""
    least, most = ASPECTS
    return 2 * round(min(max(picture.width / picture.height, least), most) * height / 2)


def write_contact_sheet(path: Path, clip: Finished, marks: Marks) -> None:
    """Write the contact sheet of a clip as a PNG. Raises OutputError."""
    try:
        with atomic(path) as new:  # another process may make the same preview
            save_png(new, clip.contact_sheet())
            marks.finish(new)
    except OSError as error:
        raise unwritable(path, error) from error


def write_overlay(
    path: Path,
    clip: Finished,
    rate: Fraction,
    sound: Sound | None,
    progress: ProgressCallback,
    marks: Marks | None = None,
) -> None:
    """Write the overlay of a clip as an mp4. Raises OutputError."""
    frames = clip.overlay()
    first = next(frames)

    def reported() -> Iterator[Frame]:
        for number, frame in enumerate(chain([first], frames), start=1):
            yield frame
            progress(Progress(OVERLAY, number, clip.num_frames))

    height, width, _ = first.shape
    encode(path, width, height, rate, reported(), sound, marks)


def encode(
    path: Path,
    width: int,
    height: int,
    rate: Fraction,
    frames: Iterable[Frame],
    sound: Sound | None = None,
    marks: Marks | None = None,
) -> int:
    """Write frames to an mp4 and return their number. Raises OutputError."""
    with open_writer(path, width, height, rate, sound, marks) as writer:
        for frame in frames:
            writer.write(frame)
    return writer.num_frames
