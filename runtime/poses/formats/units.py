"""Units: whether coordinates are pixels or parts of the picture's width and height.

Files do not say which, and some mix both: the body normalised, the hands in pixels. Normalised points beyond
the picture exceed 1, so the largest value decides nothing. The median of an array does: in pixels no whole
body, hand or face lies within two pixels of the corner, and when normalised none lies two pictures away.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ....errors import InputError
from ..keypoints import BODY, FACE, LEFT_HAND, RIGHT_HAND
from .document import Array, Recording, Size

LIMIT = 2  # median of normalised coordinates, at most
ENOUGH = 8  # points of an array that can be judged alone; those with fewer follow the others of the file
PARTS = (BODY, LEFT_HAND, RIGHT_HAND, FACE)
NEGATIVE = 0.35  # share of negative coordinates among those of normalised bodies, at most


def to_pixels(recording: Recording, size: Size | None) -> Size:
    """Convert all poses of a recording to pixels, in place, and return the size of the pictures.

    size: used if the recording states none. Raises InputError if neither is there.
    """
    poses = [found.pose for people in recording.frames for found in people]
    known = recording.size or size
    stack = np.stack(poses) if poses else np.zeros((0, FACE.stop, 3))
    judged = [(part, normalised(stack[:, part])) for part in PARTS]
    if known is None:
        unit = "parts of the width and height" if any(which.any() for _, which in judged) else "pixels"
        raise InputError(
            f"expected the size of the pictures, found none; the points are in {unit} of a picture: give its "
            "size, WIDTHxHEIGHT"
        )
    for part, which in judged:
        if part == BODY:
            check_range(stack[which, part])
        stack[which, part, :2] *= known
    for pose, converted in zip(poses, stack, strict=True):
        pose[:] = converted
    return known


def normalised(arrays: Array) -> NDArray[np.bool_]:
    """Which of the arrays, (arrays, points, 3), are normalised."""
    present = arrays[..., 2] > 0
    count = present.sum(axis=1)
    values = np.where(present[..., None], np.abs(arrays[..., :2]), np.inf).reshape(len(arrays), -1)
    values.sort(axis=1)  # the 2 * count values of points that are there come first
    middle = np.maximum(count, 1)[:, None]
    medians = np.take_along_axis(values, np.hstack([middle - 1, middle]), axis=1).mean(axis=1)
    sure = count >= ENOUGH
    judges = sure if sure.any() else count > 0
    others = bool(judges.any()) and np.median(medians[judges]) <= LIMIT
    which: NDArray[np.bool_] = np.where(sure, medians <= LIMIT, others) & (count > 0)
    return which


def check_range(arrays: Array) -> None:
    """Raise InputError for coordinates of -1 to 1, which OpenPose writes with --keypoint_scale 4."""
    points = arrays[arrays[..., 2] > 0][:, :2]
    if len(points) >= ENOUGH and (points < 0).mean() > NEGATIVE:
        raise InputError(
            "expected normalised coordinates of about 0 to 1, found many below 0; write pixels, or 0 to 1 "
            "(OpenPose: --keypoint_scale 0 or 3)"
        )
