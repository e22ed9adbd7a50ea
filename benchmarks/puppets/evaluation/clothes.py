"""Identity: whether clothes have kept their colours, by histograms where they truly are."""

from __future__ import annotations

import numpy as np

from ..world.drawing import Array
from ..world.scene import Mask, Picture

LEVELS = 6  # of each channel: coarse enough that noise stays in its bin, fine enough to tell clothes apart
FEWEST = 20  # pixels that say something of a cloth's colours


def clothes_likeness(made: Picture, true: Picture, clothes: Mask) -> float:
    """Mean intersection of colour histograms, 1 where they are equal, over frames and both clothes.

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
    """Shares (LEVELS ** 3,) of uint8 colours (n, 3)."""
    levels = pixels.astype(int) * LEVELS // 256
    places = levels @ np.array([LEVELS * LEVELS, LEVELS, 1])
    counts = np.bincount(places, minlength=LEVELS**3)
    return (counts / len(pixels)).astype(np.float32)
