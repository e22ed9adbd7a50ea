"""A contact sheet: the reference, and rows of pictures of some frames of a clip, in one picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .picture import Frame

COLUMNS = 6
GAP = 4  # pixels between pictures
PAPER = 255  # white background


def shown(num_frames: int) -> list[int]:
    """The frames that a contact sheet shows: up to 6, evenly spaced, with the first and the last."""
    return [int(i) for i in np.linspace(0, num_frames - 1, min(COLUMNS, num_frames)).round()]


def contact_sheet(reference: Frame, *rows: Sequence[Frame]) -> Frame:
    """Return a sheet with the rows below each other and the reference on the left of the last one.

    The rows are, for example, poses and frames of a clip: one picture for each frame, at least one. Up to 6
    evenly spaced ones of each row are shown. All pictures are uint8 (H, W, 3) of the same size.
    """
    chosen = shown(len(rows[-1]))
    height, width, _ = reference.shape
    columns = 1 + len(chosen)
    shape = (len(rows) * (height + GAP) + GAP, columns * width + (columns + 1) * GAP, 3)
    sheet = np.full(shape, PAPER, np.uint8)

    def put(picture: Frame, column: int, row: int) -> None:
        top, left = GAP + row * (height + GAP), GAP + column * (width + GAP)
        sheet[top : top + height, left : left + width] = picture

    put(reference, 0, len(rows) - 1)
    for number, row in enumerate(rows):
        for column, i in enumerate(chosen, start=1):
            put(row[i], column, number)
    return sheet
