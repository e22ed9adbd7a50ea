"""The noise a clip starts from: drawn per frame from a seed, or given as a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, InputMissing
from .windows import Length

Shape = tuple[int, ...]  # (4, h, w)
Noise = Callable[[range], NDArray[Any]]  # of those frames, float32 (frames, 4, h, w)


def noise_of(given: NDArray[Any] | None, seed: int, shape: Shape, poses: Length) -> Noise:
    """The given noise, which has to be as long as the clip, or else noise from the seed."""
    if given is None:
        return lambda frames: seeded_noise(seed, frames, shape)
    longer = poses.at_least(len(given) + 1)
    if longer or not poses.at_least(len(given)):
        found = f"more than {len(given)}" if longer else poses.total()
        raise InputError(f"initial noise: expected as many frames as poses, found {len(given)} for {found}")
    return lambda frames: given[frames.start : frames.stop]


def seeded_noise(seed: int, frames: range, shape: Shape) -> NDArray[Any]:
    """(frames, 4, h, w) float32. A frame's noise depends on the seed and its index alone, so a clip keeps its
    beginning when it is made longer."""
    generators = (np.random.default_rng((seed, frame)) for frame in frames)
    return np.stack([generator.standard_normal(shape, dtype=np.float32) for generator in generators])


def read_noise(path: str | os.PathLike[str], shape: Shape) -> NDArray[Any]:
    """A .npy file of shape (1, 4, frames, h, w), the public layout, as (frames, 4, h, w) float32.

    Raises InputError where it cannot be read, is of another `shape` (4, h, w), or is not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise InputMissing(f"{path}: expected a .npy file of noise, found none")
    try:
        noise = np.lib.format.open_memmap(path, mode="r")  # reads .npy alone, and never runs a pickle
    except Exception as error:  # a damaged header can be any syntax error
        raise InputError(f"{path}: expected a .npy file of noise, cannot read it: {error}") from error
    channels, h, w = shape
    if noise.ndim != 5 or noise.dtype.kind != "f" or noise[:, :, :1].shape != (1, channels, 1, h, w):
        raise InputError(
            f"{path}: expected floating point noise (1, {channels}, frames, {h}, {w}) for this bundle, "
            f"found {noise.dtype} {noise.shape}"
        )
    with np.errstate(over="ignore"):
        latents = np.array(noise[0].swapaxes(0, 1), np.float32, order="C")
    if not np.isfinite(latents).all():
        raise InputError(f"{path}: expected noise that is finite in float32, found NaN or infinity")
    return latents
