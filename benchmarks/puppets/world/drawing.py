"""Anti-aliased shapes on a square canvas: signed distances, soft shading from one light, dark outlines.

Positions and lengths are in frame units: (0, 0) is the upper left corner and (1, 1) the lower right one,
whatever the number of pixels. A shape is computed only on the rectangle of pixels around it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Point = NDArray[Any]  # (2,)

OUTLINE = 0.008  # width, frame units
INK = 0.5  # how much darker an outline is than the shape, as a fraction
LIGHT = (-0.5, -0.75)  # direction to the light in the picture plane


class Shape(NamedTuple):
    """A shape over the rectangle of pixels around it; every array is (h, w) or broadcasts to it."""

    rows: slice
    cols: slice
    distance: Array  # negative inside
    along: Array  # coordinates on the shape, for patterns
    across: Array
    normal_x: Array  # direction of the surface: 0 in the middle, length 1 at the rim
    normal_y: Array


class Canvas:
    """`size` x `size` pixels of RGB from 0 to 1."""

    def __init__(self, pixels: Array):
        self.pixels = pixels
        self.size = pixels.shape[0]
        self.centres = ((np.arange(self.size) + 0.5) / self.size).astype(np.float32)

    @classmethod
    def blank(cls, size: int, colour: Any = (0.0, 0.0, 0.0)) -> Canvas:
        return cls(np.broadcast_to(np.asarray(colour, np.float32), (size, size, 3)).copy())

    def as_bytes(self) -> NDArray[np.uint8]:
        return (self.pixels.clip(0, 1) * 255 + 0.5).astype(np.uint8)

    def around(self, low: Point, high: Point) -> tuple[slice, slice, Array, Array]:
        """Rows and columns of a rectangle and a margin of a pixel; their coordinates x (1, w), y (h, 1)."""
        first = np.clip(np.floor(low * self.size).astype(int) - 1, 0, self.size)
        last = np.clip(np.ceil(high * self.size).astype(int) + 1, 0, self.size)
        cols, rows = slice(first[0], last[0]), slice(first[1], last[1])
        return rows, cols, self.centres[None, cols], self.centres[rows, None]

    def paint(
        self, shape: Shape, colour: Any, *, opacity: float = 1.0, shade: float = 0.2, ink: float = INK
    ) -> None:
        """Cover the shape with a colour (3,) or one per pixel (h, w, 3)."""
        coverage = (0.5 - shape.distance * self.size).clip(0, 1)
        light = 1 + shade * (LIGHT[0] * shape.normal_x + LIGHT[1] * shape.normal_y)
        if ink:
            light = light * (1 - ink * ((shape.distance + OUTLINE) * self.size + 0.5).clip(0, 1))
        under = self.pixels[shape.rows, shape.cols]
        over = np.asarray(colour, np.float32) * light[..., None]
        under += (opacity * coverage)[..., None] * (over - under)

    def soften(self, shape: Shape, colour: Any, opacity: float, width: float) -> None:
        """Cover the shape with a colour that fades out over `width` inside its rim: shadows, glows."""
        fade = (-shape.distance / width).clip(0, 1) * opacity
        under = self.pixels[shape.rows, shape.cols]
        under += (fade * fade * (3 - 2 * fade))[..., None] * (np.asarray(colour, np.float32) - under)

    def capsule(self, start: Point, end: Point, radius: float, end_radius: float | None = None) -> Shape:
        """A limb. Its coordinates are the distance along its axis and the signed distance from the axis."""
        last = radius if end_radius is None else end_radius
        most = max(radius, last)
        rows, cols, x, y = self.around(np.minimum(start, end) - most, np.maximum(start, end) + most)
        (dx, dy), x, y = (end - start).tolist(), x - np.float32(start[0]), y - np.float32(start[1])
        length = max((dx * dx + dy * dy) ** 0.5, 1e-6)
        dx, dy = dx / length, dy / length
        along, across = x * dx + y * dy, y * dx - x * dy
        reached = along.clip(0, length)
        width = radius + reached * ((last - radius) / length)
        distance = np.hypot(along - reached, across) - width
        side = (across / width).clip(-1, 1)
        return Shape(rows, cols, distance, along, across, -side * dy, side * dx)

    def ellipse(self, centre: Point, width: float, height: float, tilt: float = 0.0) -> Shape:
        """An ellipse with half-axes `width` and `height`, turned by `tilt`; coordinates are along these."""
        most = max(width, height)
        rows, cols, x, y = self.around(centre - most, centre + most)
        x, y = x - np.float32(centre[0]), y - np.float32(centre[1])
        cos, sin = np.cos(tilt), np.sin(tilt)
        along, across = y * cos - x * sin, x * cos + y * sin
        a, b = across / width, along / height
        norm = np.hypot(a, b)
        # A first-order approximation of the distance: exact on the rim, where accuracy matters.
        slope = np.hypot(a / width, b / height) / np.maximum(norm, 1e-6)
        distance = (norm - 1) / np.maximum(slope, 1e-6)
        return Shape(rows, cols, distance, along, across, a * cos - b * sin, a * sin + b * cos)

    def polygon(self, points: Any, rounding: float = 0.0) -> Shape:
        """A polygon (n, 2) with corners rounded outwards; its coordinates are y and x from its middle."""
        corners = np.asarray(points, np.float32)
        low, high = corners.min(axis=0) - rounding, corners.max(axis=0) + rounding
        rows, cols, x, y = self.around(low, high)
        px, py = corners[:, 0, None, None], corners[:, 1, None, None]
        edge = np.roll(corners, -1, axis=0) - corners
        ex, ey = edge[:, 0, None, None], edge[:, 1, None, None]
        rx, ry = x - px, y - py  # (n, 1, w), (n, h, 1)
        t = ((rx * ex + ry * ey) / (ex * ex + ey * ey + 1e-12)).clip(0, 1)
        away = ((rx - t * ex) ** 2 + (ry - t * ey) ** 2).min(axis=0)
        crossing = ((ry < 0) != (ry < ey)) & ((ex * ry - ey * rx < 0) == (ey < 0))
        inside = np.logical_xor.reduce(crossing, axis=0)
        distance = np.where(inside, -1, 1) * np.sqrt(away) - np.float32(rounding)
        middle, half = (low + high) / 2, np.maximum((high - low) / 2, 1e-6)
        x, y = x - middle[0], y - middle[1]
        return Shape(rows, cols, distance, y + 0 * x, x + 0 * y, x / half[0], y / half[1])


def clipped(shape: Shape, distance: Array) -> Shape:
    """The part of a shape where `distance` is negative too."""
    return shape._replace(distance=np.maximum(shape.distance, distance))


def mix(first: Any, second: Any, share: Array) -> Array:
    """Blend two colours (3,); `share` (...) is the fraction of the second. Returns (..., 3)."""
    first, second = np.asarray(first, np.float32), np.asarray(second, np.float32)
    mixed: Array = first + share[..., None] * (second - first)
    return mixed
