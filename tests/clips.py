"""Clips of random pictures, with the size of the recorded case `small`."""

from __future__ import annotations

from typing import Any

import numpy as np
from animate_rt import Animator
from animate_rt.engines.device import Array

POSES = list(np.zeros((2, 96, 64, 3), np.uint8))


def pictures(count: int, seed: int = 0) -> list[Array]:
    """Random pictures, each different from the others."""
    chance = np.random.default_rng(seed)
    return list(chance.integers(0, 256, (count, 96, 64, 3), np.uint8))


def render(animator: Animator, **changed: Any) -> Array:
    options: dict[str, Any] = {"reference": pictures(1, 9)[0], "pose": pictures(17), "steps": 4} | changed
    return np.stack(list(animator.animate(**options)))
