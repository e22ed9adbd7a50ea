"""Times in a video as people write them: 12.5 seconds, 1:02:03.5, or the timecode 00:00:12:12."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

from ...errors import ConfigError
from ...text import quoted

# Hours and minutes may be left out; the last part of a timecode is a number of frames.
TIME = re.compile(r"(?:(?:(\d{1,4}):)?(\d{1,5}):)?(\d{1,7}(?:\.\d{1,9})?)")
TIMECODE = re.compile(r"(\d{1,4}):([0-5]\d):([0-5]\d)[:;](\d{1,3})")


@dataclass(frozen=True, slots=True)
class Time:
    """A time or a duration. A timecode also has a number of frames after its whole seconds."""

    seconds: Fraction
    frames: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse "12.5", "1:30", "1:02:03.5" or "00:00:12:12". Raises ConfigError."""
        if match := TIMECODE.fullmatch(text):
            hours, minutes, seconds, frames = map(int, match.groups())
            return cls(Fraction(3600 * hours + 60 * minutes + seconds), frames)
        if match := TIME.fullmatch(text):
            hours, minutes = (int(part or 0) for part in match.groups()[:2])
            return cls(3600 * hours + 60 * minutes + Fraction(match[3]))
        raise ConfigError(
            f"expected seconds like 12.5, a time like 1:02:03.5 or a timecode like 00:00:12:12, "
            f"found {quoted(text)}"
        )

    def at(self, frame_rate: Fraction) -> int:
        """The nearest frame, counted from 0. A second of a timecode has the next whole number of frames."""
        if self.frames is not None:
            nominal = -(-frame_rate.numerator // frame_rate.denominator)
            return int(self.seconds) * nominal + self.frames
        return round(self.seconds * frame_rate)
