"""Regions: turned squares of a picture that a network looks at, and points in them."""

from __future__ import annotations

from math import atan2, ceil, cos, floor, hypot, pi, sin
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

Points = NDArray[np.float64]

# A change by FAST of a region's side or more is followed at once. Of a smaller change c, which is mostly
# noise, the part c / FAST is followed in one frame, and at least the part SLOW.
FAST, SLOW = 0.1, 0.1
MAX_SIDE = 4  # of a square that somebody can be in, in units of the picture's longer side


class Region(NamedTuple):
    """A square by its centre and side, in pixels of the picture, and by the direction of its vertical axis.

    At angle 0 it is upright; at positive angles, in radians, it is turned clockwise as seen in the picture.
    """

    x: float
    y: float
    side: float
    angle: float

    @classmethod
    def between(cls, centre: Any, up: Any, side: float) -> Region:
        """The square around one point whose upper side points to another."""
        x, y = float(up[0] - centre[0]), float(up[1] - centre[1])
        return cls(float(centre[0]), float(centre[1]), side, pi / 2 - atan2(-y, x))

    @classmethod
    def around(cls, points: Points, angle: float) -> Region:
        """The smallest turned square around points."""
        turned = points @ rotation(angle)
        low, high = turned.min(axis=0), turned.max(axis=0)
        x, y = rotation(angle) @ ((low + high) / 2)
        return cls(float(x), float(y), float((high - low).max()), angle)

    def scaled(self, factor: float) -> Region:
        """The square with the same centre and a side `factor` times as long."""
        return self._replace(side=factor * self.side)

    def moved(self, down: float) -> Region:
        """The square moved along its own vertical axis, in units of its side."""
        x, y = rotation(self.angle) @ (0.0, down * self.side)
        return self._replace(x=self.x + float(x), y=self.y + float(y))

    def is_sensible(self, picture: Image) -> bool:
        """Whether the square, turned in any way, overlaps the picture and is not too large for it."""
        width, height = picture.size
        nearest = min(max(self.x, 0), width), min(max(self.y, 0), height)
        return distance(self, nearest) < self.side / 2 <= MAX_SIDE * max(width, height) / 2

    def crop(self, picture: Image, pixels: int) -> NDArray[np.uint8]:
        """The square as a picture, uint8 (pixels, pixels, 3); black where it leaves the picture."""
        from PIL.Image import Resampling, Transform

        matrix = rotation(self.angle) * (self.side / pixels)
        corner = np.array([self.x, self.y]) - matrix @ np.full(2, pixels / 2)
        affine = (*matrix[0], corner[0], *matrix[1], corner[1])
        size = (pixels, pixels)
        return np.asarray(picture.transform(size, Transform.AFFINE, affine, Resampling.BILINEAR))

    def extended_crop(self, picture: Image, pixels: int) -> NDArray[np.uint8]:
        """As `crop`, with the pixels of the picture's edge repeated beyond it unless the square is huge."""
        if self.side > MAX_SIDE * max(picture.size):
            return self.crop(picture, pixels)
        half = self.side * (abs(sin(self.angle)) + abs(cos(self.angle))) / 2 + 1
        left, top = floor(self.x - half), floor(self.y - half)
        right, bottom = ceil(self.x + half), ceil(self.y + half)
        if left >= 0 and top >= 0 and right <= picture.width and bottom <= picture.height:
            return self.crop(picture, pixels)
        extended = extended_part(picture, left, top, right, bottom)
        return self._replace(x=self.x - left, y=self.y - top).crop(extended, pixels)

    def steadied(self, before: Region) -> Region:
        """Where this square is after the one before: here if it moves fast, between both if slowly."""
        turn = (self.angle - before.angle + pi) % (2 * pi) - pi
        change = max(distance(self, before), abs(self.side - before.side)) / before.side
        step = min(1.0, max(SLOW, change / FAST))
        x, y, side = (b + step * (a - b) for a, b in zip(self[:3], before[:3], strict=True))
        return Region(x, y, side, before.angle + step * turn)

    def to_picture(self, points: Any) -> Points:
        """Points (n, 2) from fractions of the square, 0 to 1, to pixels of the picture."""
        centred = (np.asarray(points, np.float64) - 0.5) * self.side
        moved: Points = centred @ rotation(self.angle).T + (self.x, self.y)
        return moved


def rotation(angle: float) -> Points:
    return np.array([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]])


def distance(one: Any, other: Any) -> float:
    return hypot(float(one[0] - other[0]), float(one[1] - other[1]))


def extended_part(picture: Image, left: int, top: int, right: int, bottom: int) -> Image:
    """A part of a picture that reaches beyond it, with the pixels of its edge repeated there."""
    from PIL.Image import Resampling

    part = picture.crop((left, top, right, bottom))  # black beyond the edge
    width, height = part.size
    # Where the picture begins and ends within the part.
    x0, x1 = max(0, -left), min(width, picture.width - left)
    y0, y1 = max(0, -top), min(height, picture.height - top)
    for start, stop, x in ((0, x0, x0), (x1, width, x1 - 1)):
        if stop > start and 0 <= x < width:
            column = part.crop((x, 0, x + 1, height))
            part.paste(column.resize((stop - start, height), Resampling.NEAREST), (start, 0))
    for start, stop, y in ((0, y0, y0), (y1, height, y1 - 1)):
        if stop > start and 0 <= y < height:
            row = part.crop((0, y, width, y + 1))
            part.paste(row.resize((width, stop - start), Resampling.NEAREST), (0, start))
    return part
