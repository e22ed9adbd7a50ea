"""Pictures of few colours in another size, as OpenCV 4 resizes them with INTER_LINEAR."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .raster import Ints, Size

ONE = 1 << 11  # OpenCV's weights are integers; this one is the whole


def coloured(picture: NDArray[np.uint8], colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The RGB picture, uint8 (height, width, 3), of a picture of colour numbers, where 0 is black."""
    result = np.zeros((*picture.shape, 3), np.uint8)
    drawn = np.flatnonzero(picture > 0)  # much faster than for integers
    result.reshape(-1, 3)[drawn] = colours.take(picture.reshape(-1).take(drawn), axis=0)
    return result


def resized(picture: NDArray[np.uint8], colours: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Resize a picture of colour numbers, uint8 (height, width), where 0 is black; colours is uint8 (n, 3).

    Returns RGB, uint8 (height, width, 3). Not for half the width and half the height at once: there OpenCV
    averages squares of four pixels.
    """
    columns, left, right, across = neighbours(picture.max(axis=0) > 0, size.width)
    rows, upper, lower, down = neighbours(picture.max(axis=1) > 0, size.height)
    result = np.zeros((size.height, size.width, 3), np.uint8)
    if not len(rows):
        return result
    across[:, left == right] = [[ONE], [0]]
    part = np.ascontiguousarray(picture[upper[0] : lower[-1] + 1, left[0] : right[-1] + 1])
    upper, lower, left, right = upper - upper[0], lower - upper[0], left - left[0], right - left[0]
    # Only pixels beside something drawn are computed, and mixed only where their four neighbours differ.
    either = part.take(upper, axis=0)
    either |= part.take(lower, axis=0)
    drawn = np.flatnonzero((either.take(left, axis=1) | either.take(right, axis=1)) > 0)
    y, x = np.divmod(drawn, len(columns))
    numbers = [
        part.reshape(-1).take(row.take(y) * part.shape[1] + column.take(x))
        for row in (upper, lower)
        for column in (left, right)
    ]
    found = colours.take(numbers[0], axis=0)
    mixed = np.flatnonzero(
        (numbers[0] != numbers[1]) | (numbers[0] != numbers[2]) | (numbers[0] != numbers[3])
    )
    corners = [colours.take(number.take(mixed), axis=0).astype(np.int32) for number in numbers]
    (first, second), (above, below) = across[:, x[mixed], None], down[:, y[mixed], None]
    top = corners[0] * first + corners[1] * second
    bottom = corners[2] * first + corners[3] * second
    found[mixed] = ((above * (top >> 4) >> 16) + (below * (bottom >> 4) >> 16) + 2) >> 2
    result.reshape(-1, 3)[rows[y] * size.width + columns[x]] = found
    return result


def neighbours(drawn: NDArray[np.bool_], new: int) -> tuple[Ints, Ints, Ints, NDArray[np.int32]]:
    """How the new pixels along one side are mixed from old ones; `drawn` tells which of these are not black.

    Returns the new pixels that are not black, the two old pixels of each, and their weights, (2, pixels).
    """
    old = len(drawn)
    place = ((np.arange(new) + 0.5) * (1 / (new / old)) - 0.5).astype(np.float32)
    floor = np.floor(place)
    first, second = (np.clip(floor + i, 0, old - 1).astype(np.int64) for i in (0, 1))
    weights = np.rint(np.stack([1 - (place - floor), place - floor]) * np.float32(ONE)).astype(np.int32)
    kept = np.flatnonzero(drawn[first] | drawn[second])
    return kept, first[kept], second[kept], weights[:, kept]
