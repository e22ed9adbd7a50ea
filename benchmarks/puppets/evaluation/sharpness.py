"""Blur: gradient energy of the character's pixels against the truth's.

PSNR favours a blurred picture over one whose edges are slightly displaced, so it needs this beside it. Noise
raises it like detail does; the other measures see noise.
"""

from __future__ import annotations

import numpy as np

from ..world.scene import Mask, Picture


def sharpness(made: Picture, true: Picture, character: Mask) -> float:
    """Gradient energy of generated frames divided by that of the true ones: 1 if as sharp, less if blurred.

    made and true (n, H, W, 3), character (n, H, W): the pixels that count.
    """
    return gradient_energy(made, character) / gradient_energy(true, character)


def gradient_energy(frames: Picture, chosen: Mask) -> float:
    """Sum of squared differences between each chosen pixel and those to the right of it and below it."""
    levels, inner = frames.astype(np.float32), chosen[:, :-1, :-1]
    right, below = levels[:, :-1, 1:] - levels[:, :-1, :-1], levels[:, 1:, :-1] - levels[:, :-1, :-1]
    return float(((right**2 + below**2).sum(axis=3)[inner]).sum())
