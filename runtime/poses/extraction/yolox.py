"""YOLOX: the picture as its networks take it, and their output as boxes around people.

As the published pre- and post-processing, which the public pose tools use with Microsoft COCO's classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ....engines.pose_bundle import STRIDES

if TYPE_CHECKING:
    from PIL.Image import Image

Array = NDArray[Any]

GREY = 114  # beside and below the picture
OBJECTNESS, PERSON = 4, 5  # columns of the output, after centre and size
SAME = 0.45  # boxes that overlap more (IoU) are of one person
CERTAIN = 0.3  # least score of a person


class Box(NamedTuple):
    """A rectangle in pixels of the picture. It may reach beyond the picture."""

    left: float
    top: float
    right: float
    bottom: float


def letterboxed(picture: Image, side: int) -> tuple[Array, float]:
    """The picture in the upper left corner of a square, as float32 (1, 3, side, side), BGR, 0 to 255; and the
    factor by which it was scaled."""
    from PIL import Image
    from PIL.Image import Resampling, Transform

    width, height = picture.size
    factor = min(side / width, side / height)
    size = max(1, int(width * factor)), max(1, int(height * factor))
    # `resize` would average when it makes a picture smaller, which the published code does not do.
    affine = (width / size[0], 0, 0, 0, height / size[1], 0)
    square = Image.new("RGB", (side, side), (GREY,) * 3)
    square.paste(picture.transform(size, Transform.AFFINE, affine, Resampling.BILINEAR))
    return np.asarray(square, np.float32)[None, :, :, ::-1].transpose(0, 3, 1, 2), factor


def people(output: Array, side: int, factor: float) -> list[tuple[Box, float]]:
    """The boxes of people with their scores, the most certain first.

    output: (cells, 85) of each cell: the box's centre, relative to the cell, and the logarithm of its size,
    both in units of the cell; the score that there is anything; the scores of 80 classes, a person's first.
    """
    grids, strides = [], []
    for step in STRIDES:
        y, x = np.mgrid[: side // step, : side // step]
        grids.append(np.column_stack([x.ravel(), y.ravel()]))
        strides.append(np.full((x.size, 1), step))
    scores = output[:, OBJECTNESS] * output[:, PERSON]
    found = np.flatnonzero((scores > CERTAIN) & np.isfinite(output[:, :4]).all(axis=1))
    values, scores = output[found].astype(np.float64), scores[found]
    stride = np.concatenate(strides)[found]
    centres = (values[:, :2] + np.concatenate(grids)[found]) * stride
    halves = np.exp(values[:, 2:4].clip(-20, 20)) * stride / 2
    boxes = np.hstack([centres - halves, centres + halves]) / factor
    return [(Box(*map(float, boxes[i])), float(scores[i])) for i in distinct(boxes, scores)]


def distinct(boxes: Array, scores: Array) -> list[int]:
    """Indices of the boxes that are left when those that overlap a more certain one are taken out."""
    areas = (boxes[:, 2:] - boxes[:, :2] + 1).prod(axis=1)
    order, kept = np.argsort(-scores, kind="stable"), []
    while len(order):
        first, rest = order[0], order[1:]
        kept.append(int(first))
        low, high = (
            np.maximum(boxes[first, :2], boxes[rest, :2]),
            np.minimum(boxes[first, 2:], boxes[rest, 2:]),
        )
        common = (high - low + 1).clip(0).prod(axis=1)
        order = rest[common / (areas[first] + areas[rest] - common) <= SAME]
    return kept
