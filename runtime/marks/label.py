"""A visible label: the letters "AI" in the lower right corner of a frame."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..media.picture import Frame

TEXT = "AI"
SHARE = 0.06  # of the shorter side: the height of the label
LEAST = 12  # pixels
MARGIN = 0.4  # of the label's height, to the edges
INK, PAPER, OPACITY = 255, 0, 0.55  # white letters on a dark ground


def labeller(width: int, height: int) -> Callable[[Frame], Frame]:
    """A function that draws the label on frames, uint8 (height, width, 3), and returns new ones."""
    from PIL import Image, ImageDraw, ImageFont

    high = min(max(LEAST, round(SHARE * min(width, height))), height)
    wide = min(round(1.6 * high), width)
    ground = Image.new("L", (wide, high), 0)
    ImageDraw.Draw(ground).rounded_rectangle((0, 0, wide - 1, high - 1), high // 4, fill=255)
    letters = Image.new("L", (wide, high), 0)
    font = ImageFont.load_default(0.7 * high)
    ImageDraw.Draw(letters).text((wide / 2, high / 2), TEXT, fill=255, font=font, anchor="mm")
    cover = np.asarray(ground)[..., None] / 255 * OPACITY
    ink = np.asarray(letters)[..., None] / 255
    margin = round(MARGIN * high)
    bottom, right = max(high, height - margin), max(wide, width - margin)

    def label(frame: Frame) -> Frame:
        labelled = frame.copy()
        corner = labelled[bottom - high : bottom, right - wide : right]
        darker = corner * (1 - cover) + PAPER * cover
        corner[...] = np.rint(darker * (1 - ink) + INK * ink)
        return labelled

    return label
