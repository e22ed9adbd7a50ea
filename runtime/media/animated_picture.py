"""Picture files with several frames, of formats that FFmpeg does not read or takes for something else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from math import gcd
from typing import TYPE_CHECKING, BinaryIO

from ...errors import InputError
from ...text import quoted
from .colour import BLACK
from .picture import MAX_NAME, refused, upright_rgb
from .picture_file import looks_like, open_picture
from .resampling import resampled
from .video import MAX_PAUSE_S

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("WEBP", "TIFF", "AVIF", "HEIF")
STILL_FORMATS = ("PNG", "JPEG", "BMP", "JPEG2000", "PPM")  # of files that may also be given for a video


@dataclass(frozen=True, slots=True)
class AnimatedPicture:
    """A picture file with several frames. `frame_rate` is None if they have no times."""

    path: str
    frame_rate: Fraction | None
    times: list[float]  # of the frames, in ticks of the frame rate
    num_frames: int

    def pictures(self, step: float) -> Iterator[Image.Image]:
        """Read the frame nearest to every `step` ticks, as RGB over black.

        A frame that is repeated is the same object. Raises InputError for damage.
        """
        with refused(self.path), open_picture(self.path, FORMATS) as opened:
            previous = None
            for index in resampled(iter(enumerate(self.times)), step):
                if index != previous:
                    opened.seek(index)
                    picture = upright_rgb(opened, BLACK)
                    previous = index
                yield picture


def open_animated(path: str) -> AnimatedPicture | None:
    """Open a file with several frames. None if it is in none of FORMATS.

    Raises InputError if it cannot be read, or has one frame only.
    """
    if not looks_like(path, FORMATS):
        return None
    with refused(path), open_picture(path, FORMATS) as opened:
        num_frames: int = getattr(opened, "n_frames", 1)
        durations = [0] * num_frames
        if opened.format == "WEBP":
            with open(path, "rb") as file:
                durations = webp_durations(file, num_frames)
        elif opened.format == "AVIF":
            durations = [duration(opened, index) for index in range(num_frames)]
    if num_frames == 1:
        raise single_picture(path)
    rate = frame_rate([each for each in durations if each <= 1000 * MAX_PAUSE_S])
    if rate is None:
        return AnimatedPicture(path, None, [float(index) for index in range(num_frames)], num_frames)
    ticks = [each * float(rate) / 1000 if each <= 1000 * MAX_PAUSE_S else 1.0 for each in durations]
    *times, end = accumulate(ticks, initial=0.0)
    return AnimatedPicture(path, rate, times, round(end))


def is_still(source: object) -> bool:
    """Whether a source is the path of a picture file with one frame.

    A GIF or a file that FFmpeg takes for a video is opened as such, even if it has one frame only.
    """
    if not isinstance(source, str | os.PathLike):
        return False
    path = os.fsdecode(source)
    if not looks_like(path, STILL_FORMATS + FORMATS):
        return False
    try:
        with open_picture(path, STILL_FORMATS + FORMATS) as opened:
            return getattr(opened, "n_frames", 1) == 1
    except Exception:  # a damaged file can raise any error; whoever reads it reports that
        return False


def single_picture(path: str) -> InputError:
    return InputError(
        f"expected a video or a directory of pictures, found the single picture {quoted(path, MAX_NAME)}: "
        "give its directory, or a list of pictures"
    )


def duration(opened: Image.Image, frame: int) -> int:
    """The duration of a frame in milliseconds. Decodes it."""
    opened.seek(frame)
    opened.load()
    return int(opened.info["duration"])


def webp_durations(file: BinaryIO, num_frames: int) -> list[int]:
    """Read the durations of the frames of a WebP in milliseconds, without decoding them."""
    durations: list[int] = []
    position = file.seek(12)
    while len(durations) < num_frames and len(header := file.read(24)) == 24:
        if header[:4] == b"ANMF":  # x, y, width, height, duration: three bytes each
            durations.append(int.from_bytes(header[20:23], "little"))
        size = int.from_bytes(header[4:8], "little")
        position = file.seek(position + 8 + size + size % 2)
    return durations + [0] * (num_frames - len(durations))


def frame_rate(durations: list[int]) -> Fraction | None:
    """Return the rate whose ticks the frames fall on, or their average rate if there is none.

    Durations are whole milliseconds, so ticks of most rates are rounded.
    """
    if not any(durations):
        return None
    average = Fraction(1000 * len(durations), sum(durations))
    starts = list(accumulate(durations))
    for rate in (Fraction(1000, gcd(*durations)), Fraction(round(average) or 1)):
        tick = 1000 / rate
        if 2 / 3 < rate / average < 3 / 2 and all(abs(t - round(t / tick) * tick) <= 1 for t in starts):
            return rate
    return average.limit_denominator(1001)
