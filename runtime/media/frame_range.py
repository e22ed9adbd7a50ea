"""Frame ranges: the part of a sequence that a clip uses, in frames or in time."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from ...errors import ConfigError
from .timecode import Time


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameRange:
    """Frames from `start` to before `stop`, counted from 0; or those from `begin` on, for `duration`.

    None means from the first frame, or to the last. `frame_rate` is the clip's: that to which the sequence is
    resampled first; None is the sequence's own.
    """

    start: int = 0
    stop: int | None = None
    begin: Time | None = None
    duration: Time | None = None
    frame_rate: Fraction | None = None

    def __post_init__(self) -> None:
        if (self.begin or self.duration) and (self.start or self.stop is not None):
            raise ConfigError("expected frames or a start and duration, found both; choose one")

    def at(self, own_rate: Fraction) -> FrameRange:
        """The same range in frames, of a sequence with this frame rate of its own."""
        rate = self.frame_rate or own_rate
        if not (self.begin or self.duration):
            return FrameRange(start=self.start, stop=self.stop, frame_rate=self.frame_rate)
        start = self.begin.at(rate) if self.begin else 0
        stop = start + max(1, self.duration.at(rate)) if self.duration else None
        return FrameRange(start=start, stop=stop, frame_rate=self.frame_rate)
