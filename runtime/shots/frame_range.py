"""The range of pose frames that a shot uses: "48" is the first 48 frames, "25-72" those, counted from 1."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ConfigError, InputError
from ...text import quoted
from ..media.animated_picture import is_still
from ..media.pose_sequence import PoseSequence, open_pose

if TYPE_CHECKING:
    from PIL import Image

FRAMES = re.compile(r"(?:([1-9][0-9]{0,8})-)?([1-9][0-9]{0,8})")


def frame_range(frames: str | None) -> tuple[int, int | None]:
    """Parse "48" or "25-72". Returns the first pose frame, counted from 0, and the one to stop before."""
    if frames is None:
        return 0, None
    match = FRAMES.fullmatch(frames)
    first, last = (int(part or 1) for part in match.groups()) if match else (1, 0)
    if first > last:
        raise ConfigError(
            f"frames: expected at least 1, as a number like 48 or a range like 25-72, found {quoted(frames)}"
        )
    return first - 1, last


def must_exist(frames: str | None) -> bool:
    """Whether the frames must exist to the last one: a range must, a number is an upper limit."""
    return frames is not None and "-" in frames


def open_frames(
    pose: Path, frames: str | None, pose_fps: Fraction | None = None, *, still: bool = False
) -> PoseSequence:
    """The pose frames of a shot, resampled to `pose_fps` before they are counted.

    still: a single picture is a sequence of one frame, and not an error. Reading a range raises InputError if
    there are fewer frames.
    """
    start, stop = frame_range(frames)
    sequence = open_pose([pose] if still and is_still(pose) else pose, stop, pose_fps)
    if not must_exist(frames):
        return sequence
    assert stop is not None

    def read() -> Iterator[Image.Image]:
        count = 0
        for count, picture in enumerate(sequence, start=1):
            if count > start:
                yield picture
        if count < stop:
            raise InputError(f"{pose}: expected pose frames {frames}, found {count}")

    return replace(sequence, read=read, num_frames=stop - start)
