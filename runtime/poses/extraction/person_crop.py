"""The part of a picture that a top-down pose network sees, and its outputs as points of the picture.

As the published pre- and post-processing of MMPose's networks: DWPose, RTMW, ViTPose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .yolox import Box

if TYPE_CHECKING:
    from PIL.Image import Image

Array = NDArray[Any]
Points = NDArray[np.float64]

MARGIN = 1.25  # of a person's box
# Means and deviations of red, green and blue in ImageNet, on a scale of 255.
MEAN = np.array([123.675, 116.28, 103.53], np.float32)
DEVIATION = np.array([58.395, 57.12, 57.375], np.float32)


@dataclass(frozen=True, slots=True)
class PersonCrop:
    """A rectangle of the picture: its centre and size in the picture's pixels, and its size as an input."""

    x: float
    y: float
    width: float
    height: float
    pixels: tuple[int, int]  # width and height of the network's input

    @classmethod
    def around(cls, box: Box, pixels: tuple[int, int]) -> PersonCrop:
        """The rectangle around a box, with a margin, in the proportions of the input."""
        width, height = MARGIN * (box.right - box.left), MARGIN * (box.bottom - box.top)
        aspect = pixels[0] / pixels[1]
        width, height = max(width, height * aspect, 1.0), max(height, width / aspect, 1.0 / aspect)
        return cls((box.left + box.right) / 2, (box.top + box.bottom) / 2, width, height, pixels)

    def picture(self, picture: Image) -> NDArray[np.uint8]:
        """The rectangle as a picture of the input's size, uint8 RGB; black where it leaves the picture."""
        from PIL.Image import Resampling, Transform

        # OpenCV's coordinates are those of the centres of pixels, Pillow's those of their corners.
        step = self.width / self.pixels[0]
        left, top = (
            centre - step * pixels / 2 + 0.5 - step / 2
            for centre, pixels in zip((self.x, self.y), self.pixels, strict=True)
        )
        affine = (step, 0, left, 0, step, top)
        return np.asarray(picture.transform(self.pixels, Transform.AFFINE, affine, Resampling.BILINEAR))

    def to_picture(self, points: Array) -> Points:
        """Points (n, 2) from fractions of the rectangle, 0 to 1, to pixels of the picture."""
        size = np.array([self.width, self.height])
        moved: Points = points * size + (self.x, self.y) - size / 2
        return moved


def bgr_input(picture: NDArray[np.uint8]) -> Array:
    """The input of a SimCC network, float32 (1, 3, height, width).

    The public tools normalise blue, green and red with the numbers of red, green and blue. This does the
    same, so that the networks give the same points.
    """
    return ((picture[:, :, ::-1] - MEAN) / DEVIATION).transpose(2, 0, 1)[None]


def rgb_input(picture: NDArray[np.uint8]) -> Array:
    """The input of a heatmap network, float32 (1, 3, height, width)."""
    return ((picture - MEAN) / DEVIATION).transpose(2, 0, 1)[None]


def simcc_points(x: Array, y: Array) -> Points:
    """Points (n, 3) of x, y and score, in fractions of the input, from SimCC's two outputs (n, bins).

    The score is the smaller of both maxima.
    """
    places = np.column_stack([x.argmax(axis=1) / x.shape[1], y.argmax(axis=1) / y.shape[1]])
    return scored(places, np.minimum(x.max(axis=1), y.max(axis=1)))


def heatmap_points(maps: Array) -> Points:
    """Points (n, 3) of x, y and score, in fractions of the input, from heatmaps (n, height, width).

    A point is moved from the highest cell by a quarter of a cell towards its higher neighbour.
    """
    count, height, width = maps.shape
    flat = maps.reshape(count, -1)
    y, x = np.divmod(flat.argmax(axis=1), width)
    places = np.column_stack([x, y]).astype(np.float64)
    # The published code does not move points in the two cells beside an edge.
    for i in np.flatnonzero((x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)):
        across = maps[i, y[i], x[i] + 1] - maps[i, y[i], x[i] - 1]
        down = maps[i, y[i] + 1, x[i]] - maps[i, y[i] - 1, x[i]]
        places[i] += 0.25 * np.sign([across, down])
    return scored(places / (width, height), flat.max(axis=1))


def scored(places: Points, scores: Array) -> Points:
    """Points with scores of 0 to 1; those with a score of 0 or less are missing."""
    scores = np.nan_to_num(scores.astype(np.float64)).clip(0, 1)
    return np.column_stack([places, scores]) * (scores > 0)[:, None]
