"""Pictures of soft blobs at known places, and boxes on them, made with numpy: for record_pose_crops.py."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

CASES = 20
INPUTS = ((288, 384), (192, 256))  # width and height of networks' inputs
SIDES = (416, 640)  # of detectors' inputs
SAMPLES = 100  # pixels that are recorded of each result


def case(number: int) -> tuple[NDArray[np.uint8], NDArray[np.float64], tuple[float, float, float, float]]:
    """A picture, the places of its blobs (n, 2) in pixels, and a box of left, top, right, bottom."""
    random = np.random.default_rng(number)
    width, height = (int(side) for side in random.integers(120, 900, 2))
    places = random.uniform(0.2, 0.8, (3, 2)) * (width, height)
    x, y = np.arange(width), np.arange(height)[:, None]
    picture = np.full((height, width, 3), 40.0)
    for channel, (left, top) in enumerate(places):
        spread = 2 * (0.03 * min(width, height) + 4) ** 2
        picture[:, :, channel] += 200 * np.exp(-((x - left) ** 2 + (y - top) ** 2) / spread)
    margin = random.uniform(-0.1, 0.15, 4) * (width, height, width, height)
    left, top, right, bottom = np.array([0, 0, width, height]) + margin * (1, 1, -1, -1)
    return picture.round().astype(np.uint8), places, (float(left), float(top), float(right), float(bottom))


def centroids(picture: NDArray[Any]) -> NDArray[np.float64]:
    """The centre of the bright blob in each channel of a picture (height, width, 3), as (3, 2)."""
    weights = (picture.astype(np.float64) - 120).clip(0)
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]]
    total = weights.sum(axis=(0, 1))
    return np.column_stack([(weights * part[..., None]).sum(axis=(0, 1)) / total for part in (x, y)])


def samples(picture: NDArray[Any]) -> list[int]:
    """Values at fixed places of a picture (height, width, 3)."""
    indices = np.random.default_rng(0).integers(0, picture.size, SAMPLES)
    return [int(value) for value in picture.reshape(-1)[indices]]
