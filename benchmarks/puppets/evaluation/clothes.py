"""Identity: whether clothes keep their colours, by histograms of the pixels where they should be."""

from __future__ import annotations

import numpy as np

from ..world.drawing import Array
from ..world.scene import Mask, Picture

LEVELS = 6  # per channel: coarse enough for noise to stay in its bin, fine enough to tell clothes apart
FEWEST = 20  # minimum number of pixels for a histogram


def clothes_likeness(made: Picture, true: Picture, clothes: Mask) -> float:
    """Mean intersection of colour histograms (1 if equal) over frames, for top and bottom.

    made and true (n, H, W, 3), clothes (n, 2, H, W) from `Scene.clothes`.
    """
    found = [
        float(np.minimum(histogram(a[mask]), histogram(b[mask])).sum())
        for a, b, masks in zip(made, true, clothes, strict=True)
        for mask in masks
        if mask.sum() >= FEWEST
    ]
    return float(np.mean(found))


def histogram(pixels: Picture) -> Array:
    """Colours (n, 3) uint8 -> fraction of them in each bin, (LEVELS ** 3,)"""
    levels = pixels.astype(int) * LEVELS // 256
    places = levels @ np.array([LEVELS * LEVELS, LEVELS, 1])
    counts = np.bincount(places, minlength=LEVELS**3)
    return (counts / len(pixels)).astype(np.float32)
