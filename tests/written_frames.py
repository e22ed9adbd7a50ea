"""Flat frames, writing them, and decoding what was written."""

import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
from animate_rt.runtime.media.writer import open_writer

NTSC = Fraction(30000, 1001)


def flat(value: int, height: int = 32, width: int = 48) -> np.ndarray:
    """A grey frame, uint8 (height, width, 3)."""
    return np.full((height, width, 3), value, np.uint8)


def write(path, frames, rate=NTSC):
    height, width, _ = frames[0].shape
    with open_writer(path, width, height, rate) as writer:
        for frame in frames:
            writer.write(frame)


def decode(path) -> list[np.ndarray]:
    """The frames of a video as RGB, converted as its colour tags say."""
    with av.open(path) as container:
        return [
            frame.to_ndarray(format="rgb24", src_colorspace=frame.colorspace, dst_color_range=2)
            for frame in container.decode(video=0)
        ]


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script in a Python process of its own."""
    command = [sys.executable, "-c", "import numpy as np\nfrom fractions import Fraction\n" + code]
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=60)
