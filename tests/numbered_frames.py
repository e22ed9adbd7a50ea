"""Frames that show their own number as bars, and videos of them."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

NTSC = Fraction(30000, 1001)


def numbered(number: int) -> Image.Image:
    """A frame that shows its number, 0 to 63, as six black or white bars."""
    bits = [(number >> bit) & 1 for bit in range(6)]
    bars = np.repeat(np.array(bits, np.uint8) * 255, 16)
    return Image.fromarray(np.broadcast_to(bars[None, :, None], (48, 96, 3)).copy())


def number(frame: Image.Image) -> int:
    """The number that a frame shows."""
    bars = np.asarray(frame)[24, 8::16, 0] > 127
    return int(sum(int(bar) << bit for bit, bar in enumerate(bars)))


def write_video(path: Path, codec: str, rate: Fraction, ticks, time_base: Fraction | None = None) -> Path:
    """Write frames numbered 0, 1, 2, ... with the presentation times `ticks`, in units of `time_base`."""
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = 96, 48
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        stream.codec_context.time_base = time_base = time_base or 1 / rate
        container.start_encoding()
        for index, tick in enumerate(ticks):
            frame = av.VideoFrame.from_image(numbered(index)).reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = tick, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture
def video(tmp_path):
    """An mp4 of 30 numbered frames at 24 per second."""
    return write_video(tmp_path / "poses.mp4", "libx264", Fraction(24), range(30))
