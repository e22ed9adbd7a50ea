"""The initial noise of a clip: drawn per frame from a seed, or read from a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, InputError, InputMissing
from ...text import quoted
from ..media.picture import MAX_NAME
from .windows import Length

MAX_VALUES = 1 << 28  # in a noise file: 1 GB as float32, or 10,000 frames of 512x768

Shape = tuple[int, ...]  # (4, h, w)
Noise = Callable[[range], NDArray[Any]]  # from frame indices to float32 (frames, 4, h, w)


def noise_of(given: NDArray[Any] | None, seed: int, shape: Shape, poses: Length) -> Noise:
    """Return the given noise, or noise from the seed if none is given.

    Raises InputError unless the given noise has as many frames as the clip.
    """
    if given is None:
        return lambda frames: seeded_noise(seed, frames, shape)
    longer = poses.at_least(len(given) + 1)
    check_length(len(given), f"more than {len(given)}" if longer else poses.total())
    return lambda frames: given[frames.start : frames.stop]


def check_length(num_frames: int, num_poses: int | str) -> None:
    """Raise InputError unless given noise has as many frames as there are poses."""
    if num_frames != num_poses:
        raise InputError(
            f"initial noise: expected as many frames as poses, found {num_frames} for {num_poses} poses"
        )


def seeded_noise(seed: int, frames: range, shape: Shape) -> NDArray[Any]:
    """Draw noise, float32 (frames, 4, h, w).

    A frame's noise depends only on the seed and the frame's index, so it is the same in a longer clip.
    """
    generators = (np.random.default_rng((seed, frame)) for frame in frames)
    return np.stack([generator.standard_normal(shape, dtype=np.float32) for generator in generators])


def read_noise(path: str | os.PathLike[str], shape: Shape) -> NDArray[Any]:
    """Read a .npy file of shape (1, 4, frames, h, w), the public layout, as float32 (frames, 4, h, w).

    Raises InputMissing, or InputError if it cannot be read, has another `shape` (4, h, w) or is not finite.
    """
    if not isinstance(path, str | os.PathLike):
        raise ConfigError(f"initial_noise: expected the path of a .npy file, found {quoted(path)}")
    name = quoted(os.fsdecode(path), MAX_NAME)
    if not os.path.isfile(path):
        raise InputMissing(f"{name}: expected a .npy file of noise, found none")
    try:
        noise = np.lib.format.open_memmap(os.fsdecode(path), mode="r")  # reads .npy only, and never unpickles
    except Exception as error:  # a damaged header can raise almost any error, with advice for programmers
        raise InputError(
            f"{name}: expected a .npy file of noise, cannot read it; save it with numpy.save"
        ) from error
    channels, h, w = shape
    if noise.ndim != 5 or noise.dtype.kind != "f" or noise[:, :, :1].shape != (1, channels, 1, h, w):
        raise InputError(
            f"{name}: expected floating point noise (1, {channels}, frames, {h}, {w}) for this bundle, "
            f"found {quoted(f'{noise.dtype} {noise.shape}')}"
        )
    if noise.size > MAX_VALUES:
        raise InputError(
            f"{name}: expected noise of at most {MAX_VALUES // (channels * h * w)} frames, "
            f"found {noise.shape[2]}"
        )
    with np.errstate(over="ignore"):
        latents = np.array(noise[0].swapaxes(0, 1), np.float32, order="C")
    if not np.isfinite(latents).all():
        raise InputError(f"{name}: expected noise that is finite in float32, found NaN or infinity")
    return latents
