"""Interpolation: keypoints at another frame rate."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import ceil, floor

import numpy as np

from .keypoints import Keypoints


def at_rate(keypoints: Keypoints, frame_rate: Fraction, first: Fraction = Fraction(0)) -> Keypoints:
    """The keypoints at another frame rate, interpolated linearly in time.

    first: the time of the first new frame, in frames of `keypoints`.

    A point that is missing in one of the two frames around a time is taken from the nearer one. Raises
    ValueError if `keypoints` has no frame rate.
    """
    if keypoints.frame_rate is None:
        raise ValueError("keypoints: expected a frame rate")
    step = keypoints.frame_rate / frame_rate
    if step == 1 and first == 0:
        return keypoints
    times = [first + i * step for i in range(num_frames(len(keypoints) - first, step))]
    last = len(keypoints) - 1
    before = np.array([min(floor(time), last) for time in times])
    after = np.minimum(before + 1, last)
    part = np.array([float(time - floor(time)) for time in times])[:, None, None]
    one, other = keypoints.frames[before], keypoints.frames[after]
    both = (one[..., 2:] > 0) & (other[..., 2:] > 0)
    frames = np.where(both, (1 - part) * one + part * other, np.where(part < 0.5, one, other))
    return replace(keypoints, frames=frames, frame_rate=frame_rate)


def num_frames(length: Fraction | int, step: Fraction) -> int:
    """The number of frames at intervals of `step` during `length` frames, as of resampled pictures."""
    return max(0, ceil((length - min(step, Fraction(1)) / 2) / step))
