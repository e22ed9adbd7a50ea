"""Keypoints: where the joints, hands and face of one person are, frame by frame.

One frame is a float64 array (NUM_POINTS, 3) of x, y and score. x and y are in pixels, with (0, 0) at the
upper left corner of the picture. Scores are 0 to 1. A missing point is all zeros, as in OpenPose's files. The
points are OpenPose's 18 of the body, its 21 of each hand, and the 68 of the face that iBUG defined; "left"
and "right" are the person's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...text import quoted

Pose: TypeAlias = NDArray[np.float64]  # one frame, (NUM_POINTS, 3)

BODY = slice(0, 18)
LEFT_HAND = slice(18, 39)
RIGHT_HAND = slice(39, 60)
FACE = slice(60, 128)
NUM_POINTS = 128

BODY_NAMES = (
    "nose", "neck",
    "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow", "left wrist",
    "right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle",
    "right eye", "left eye", "right ear", "left ear",
)  # fmt: skip
NOSE, NECK = 0, 1
RIGHT_SHOULDER, RIGHT_ELBOW, RIGHT_WRIST, LEFT_SHOULDER, LEFT_ELBOW, LEFT_WRIST = range(2, 8)
RIGHT_HIP, RIGHT_KNEE, RIGHT_ANKLE, LEFT_HIP, LEFT_KNEE, LEFT_ANKLE = range(8, 14)
RIGHT_EYE, LEFT_EYE, RIGHT_EAR, LEFT_EAR = range(14, 18)

VISIBLE = 0.3  # the least score of a point that the public tools draw or derive others from


@dataclass(frozen=True, slots=True, eq=False)
class Keypoints:
    """The keypoints of one person in all frames of a sequence. Iterating gives one Pose per frame.

    frames: float64 (frames, NUM_POINTS, 3), not writable.
    width, height: size in pixels of the pictures that x and y refer to.
    frame_rate: frames per second, an int or Fraction, or None if the source has none.

    Raises InputError for arrays of another shape, for numbers that are not finite, for scores outside 0 to 1,
    and for a size or frame rate of another kind or of 0 or less.
    """

    frames: NDArray[np.float64]
    width: int
    height: int
    frame_rate: Fraction | None = None

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            side = getattr(self, name)
            if not isinstance(side, int) or side < 1:
                raise InputError(f"keypoints: expected a {name} of at least 1 pixel, found {quoted(side)}")
        rate = self.frame_rate
        if rate is not None and not (isinstance(rate, int | Fraction) and rate > 0):
            raise InputError(
                f"keypoints: expected a frame rate like Fraction(30000, 1001) or None, found {quoted(rate)}"
            )
        try:
            frames = np.array(self.frames, np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"keypoints: expected an array (frames, {NUM_POINTS}, 3) of numbers, found something else"
            ) from error
        if frames.ndim != 3 or frames.shape[1:] != (NUM_POINTS, 3):
            raise InputError(f"keypoints: expected an array (frames, {NUM_POINTS}, 3), found {frames.shape}")
        if not np.isfinite(frames).all():
            raise InputError("keypoints: expected finite numbers, found NaN or infinity")
        scores = frames[..., 2]
        if frames.size and not (scores.min() >= 0 and scores.max() <= 1):
            raise InputError(
                f"keypoints: expected scores of 0 to 1, found {scores.min():g} to {scores.max():g}"
            )
        frames[scores == 0] = 0
        frames.flags.writeable = False
        object.__setattr__(self, "frames", frames)

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[Pose]:
        return iter(self.frames)

    @property
    def points(self) -> NDArray[np.float64]:
        """x and y in pixels, (frames, NUM_POINTS, 2)."""
        return self.frames[..., :2]

    @property
    def scores(self) -> NDArray[np.float64]:
        """Scores from 0 (missing) to 1, (frames, NUM_POINTS)."""
        return self.frames[..., 2]
