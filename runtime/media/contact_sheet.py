"""A contact sheet: the reference, some poses and their frames in one picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .picture import Frame

COLUMNS = 6
GAP = 4  # pixels between pictures
PAPER = 255  # white background


def contact_sheet(reference: Frame, poses: Sequence[Frame], frames: Sequence[Frame]) -> Frame:
    """Return a sheet with the reference on the left and up to 6 evenly spaced poses above their frames.

    All pictures are uint8 (H, W, 3) of the same size. There are as many poses as frames, at least one.
    """
    shown = np.linspace(0, len(frames) - 1, min(COLUMNS, len(frames))).round().astype(int)
    height, width, _ = reference.shape
    columns = 1 + len(shown)
    shape = (2 * height + 3 * GAP, columns * width + (columns + 1) * GAP, 3)
    sheet = np.full(shape, PAPER, np.uint8)

    def put(picture: Frame, column: int, row: int) -> None:
        top, left = GAP + row * (height + GAP), GAP + column * (width + GAP)
        sheet[top : top + height, left : left + width] = picture

    put(reference, 0, 1)
    for column, i in enumerate(shown, start=1):
        put(poses[i], column, 0)
        put(frames[i], column, 1)
    return sheet
