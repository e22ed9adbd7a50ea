"""Pictures side by side, as frames of a video that people look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .picture import Frame, Picture, read_picture

GAP = 4  # pixels between pictures


def side_by_side(pictures: Sequence[Picture], height: int) -> Frame:
    """Return pictures from left to right at the same height in pixels, uint8 (H, W, 3) with even sides."""
    columns: list[Frame] = []
    for picture in map(read_picture, pictures):
        width = max(1, round(picture.width * height / picture.height))
        columns += [np.asarray(picture.resize((width, height))), np.zeros((height, GAP, 3), np.uint8)]
    sheet = np.concatenate(columns[:-1], axis=1)
    return np.pad(sheet, ((0, sheet.shape[0] % 2), (0, sheet.shape[1] % 2), (0, 0)))
