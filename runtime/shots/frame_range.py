"""The range of pose frames that a shot uses: "48" is the first 48 frames, "25-72" those, counted from 1."""

from __future__ import annotations

import re

from ...errors import ConfigError
from ...text import quoted

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
