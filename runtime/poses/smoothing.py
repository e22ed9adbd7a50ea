"""Smoothing keypoints with the one-euro filter.

Casiez, Roussel and Vogel, "1 euro filter: a simple speed-based low-pass filter for noisy input in
interactive systems", CHI 2012. A point is low-pass filtered with a cutoff frequency that grows with its
speed: a still point is steadied, a fast one is followed. The speed is that of the newest sample against the
previous filtered one, as in the publication, and is itself filtered, at 1 Hz.

Parameters are per group of points, and those that EditaLive uses for the same purpose. `min_cutoff` is the
cutoff frequency of a point at rest, in Hz. `beta` is what a speed of one pixel per second adds to it, in a
picture whose shorter side has 512 pixels. In other pictures speeds are scaled to that size, so the result
does not depend on the resolution. Speed is the length of the velocity, so all directions are treated alike.

A sample with a low score moves the filter less: its share is multiplied by a weight that grows linearly
from 0.3 at score 0 to 1 at score 1. The filter begins anew after every gap. Missing points stay missing, and
scores do not change.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from ..media.pose_sequence import DEFAULT_FRAME_RATE
from .keypoints import FACE, LEFT_EAR, NOSE, NUM_POINTS, RIGHT_EYE, Keypoints, Pose

BODY_AND_HANDS = (1.0, 0.05)  # min_cutoff, beta
HEAD_AND_FACE = (0.4, 0.01)
SPEED_CUTOFF = 1.0  # Hz
SHORTER_SIDE = 512  # pixels
LEAST_WEIGHT = 0.3

PARAMETERS = np.tile(BODY_AND_HANDS, (NUM_POINTS, 1))
PARAMETERS[np.r_[NOSE, RIGHT_EYE : LEFT_EAR + 1, FACE]] = HEAD_AND_FACE


def smooth(keypoints: Keypoints) -> Keypoints:
    """The mean of a forward and a backward pass, which does not lag behind the movement.

    A sequence without a frame rate is taken to have 24 frames per second.
    """
    size = keypoints.width, keypoints.height
    forward = list(smooth_forward(keypoints, *size, keypoints.frame_rate))
    backward = list(smooth_forward(keypoints.frames[::-1], *size, keypoints.frame_rate))[::-1]
    frames = np.array(keypoints.frames)
    if forward:
        frames[..., :2] = (np.array(forward)[..., :2] + np.array(backward)[..., :2]) / 2
    return Keypoints(frames, *size, keypoints.frame_rate)


def smooth_forward(
    frames: Iterable[Pose], width: int, height: int, frame_rate: Fraction | None
) -> Iterator[Pose]:
    """The forward pass alone, frame by frame, for streams. It lags behind the movement.

    width, height: size in pixels of the pictures that the frames refer to.
    """
    rate = float(frame_rate or DEFAULT_FRAME_RATE)
    min_cutoff, beta = PARAMETERS[:, :1], PARAMETERS[:, 1:] * SHORTER_SIDE / min(width, height)
    position, velocity = np.zeros((NUM_POINTS, 2)), np.zeros((NUM_POINTS, 2))
    known = np.zeros((NUM_POINTS, 1), bool)
    for frame in frames:
        points, scores = frame[:, :2], frame[:, 2:]
        weight = LEAST_WEIGHT + (1 - LEAST_WEIGHT) * scores
        continued = known & (scores > 0)
        step = points - position
        velocity += share(SPEED_CUTOFF, rate) * (step * rate - velocity)
        velocity[~continued[:, 0]] = 0
        speed = np.hypot(velocity[:, :1], velocity[:, 1:])
        moved = position + weight * share(min_cutoff + beta * speed, rate) * step
        position = np.where(continued, moved, points)
        known = scores > 0
        yield np.concatenate([position, scores], axis=1)


def share(cutoff: float | NDArray[np.float64], rate: float) -> NDArray[np.float64]:
    """How much of a new sample a low-pass filter with this cutoff frequency takes, at this frame rate."""
    return np.asarray(1 / (1 + rate / (2 * math.pi * cutoff)))
