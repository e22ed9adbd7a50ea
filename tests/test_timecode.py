"""Times and timecodes as frames of a video."""

from __future__ import annotations

from fractions import Fraction

import pytest
from animate_rt.errors import ConfigError
from animate_rt.runtime.media.timecode import Time

NTSC = Fraction(30000, 1001)


@pytest.mark.parametrize(
    ("text", "rate", "frame"),
    [
        ("0", Fraction(25), 0),
        ("2", Fraction(25), 50),
        ("1.5", Fraction(24), 36),
        ("1:30", Fraction(25), 90 * 25),
        ("1:02:03.5", Fraction(24), 3723 * 24 + 12),
        ("90:00", Fraction(1), 5400),
        ("00:00:02:12", Fraction(24), 60),
        ("00:00:02:12", Fraction(25), 62),
        ("01:00:00:00", Fraction(25), 90000),
        ("10", NTSC, 300),  # 299.7
        ("00:00:10:05", NTSC, 305),  # timecodes count 30 frames a second
        ("00:00:10;05", NTSC, 305),
        ("01:00:00:00", NTSC, 108_000),
        ("1:00:00", NTSC, 107_892),
    ],
)
def test_a_time_is_a_frame(text: str, rate: Fraction, frame: int) -> None:
    assert Time.parse(text).at(rate) == frame


@pytest.mark.parametrize(
    "text", ["", "-1", "1e9", "nan", "1:2:3:4:5", "00:61:00:00", "1.", ":30", "ten", "1:60:"]
)
def test_anything_else_is_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match="expected seconds like"):
        Time.parse(text)
