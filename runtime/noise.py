"""The noise a clip starts from: drawn per frame from a seed, or given as a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, InputMissing

Shape = tuple[int, ...]  # (4, h, w)


def seeded_noise(seed: int, num_frames: int, shape: Shape) -> NDArray[Any]:
    """(num_frames, 4, h, w) float32. A frame's noise depends on the seed and its index alone, so a clip keeps
    its beginning when it is made longer."""
    frames = [np.random.default_rng((seed, frame)) for frame in range(num_frames)]
    return np.stack([generator.standard_normal(shape, dtype=np.float32) for generator in frames])


def read_noise(path: str | os.PathLike[str]) -> NDArray[Any]:
    """A .npy file of shape (1, 4, frames, h, w), the public layout, as (frames, 4, h, w) float32."""
    path = Path(path)
    if not path.exists():
        raise InputMissing(f"{path}: expected a .npy file of noise, found none")
    try:
        noise = np.lib.format.open_memmap(path, mode="r")  # reads .npy alone, and never runs a pickle
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected a .npy file of noise, cannot read it: {error}") from error
    if noise.ndim != 5 or noise.shape[0] != 1 or noise.dtype.kind != "f":
        raise InputError(
            f"{path}: expected floating point noise (1, 4, frames, h, w), found {noise.dtype} {noise.shape}"
        )
    if not np.isfinite(noise).all():
        raise InputError(f"{path}: expected finite noise, found NaN or infinity")
    return np.ascontiguousarray(noise[0].swapaxes(0, 1), dtype=np.float32)


def check_noise(noise: NDArray[Any], num_frames: int, shape: Shape) -> None:
    if noise.shape != (num_frames, *shape):
        expected, found = ((1, s[1], s[0], *s[2:]) for s in ((num_frames, *shape), noise.shape))
        raise InputError(
            f"initial noise: expected {expected} for {num_frames} pose frames and this bundle's size, "
            f"found {found}"
        )
