"""Pose following: whether joints are where they should be, by matching patches of the true frame."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..world.drawing import Array
from ..world.scene import Picture
from ..world.skeleton import KEYPOINTS

JOINTS = [
    KEYPOINTS.index(f"{side}_{joint}")
    for side in ("left", "right")
    for joint in ("elbow", "wrist", "knee", "ankle")
]
# In frame widths: half the side of a patch, the search distance, and the largest offset of a found joint.
PATCH, REACH, NEAR = 0.03, 0.09, 0.025


def limbs_found(made: Picture, true: Picture, keypoints: Array) -> float:
    """Fraction of visible joints whose patch of the true frame has its best match in the generated frame
    within 2.5 % of the frame's width. Frames (n, H, W, 3), keypoints (n, 18, 3) from `Scene.keypoints`."""
    width = true.shape[2]
    found = [
        offset(a, b, (points[joint, :2] * width).round().astype(int)) <= NEAR * width
        for a, b, points in zip(made, true, keypoints, strict=True)
        for joint in JOINTS
        if points[joint, 2] > 0
    ]
    return float(np.mean(found))


def offset(made: Picture, true: Picture, point: Array) -> float:
    """Pixels from a point of the true frame to the best match of its patch in the generated frame."""
    width = true.shape[1]
    half, reach = round(PATCH * width), round(REACH * width)
    margin = half + reach
    x, y = point.clip(0, width - 1) + margin
    around = [
        np.pad(picture, ((margin, margin), (margin, margin), (0, 0)), mode="edge").astype(np.float32)
        for picture in (made, true)
    ]
    patch = around[1][y - half : y + half + 1, x - half : x + half + 1]
    region = around[0][y - margin : y + margin + 1, x - margin : x + margin + 1]
    side = 2 * half + 1
    candidates = sliding_window_view(region, (side, side), axis=(0, 1))  # (.., .., 3, side, side)
    errors = ((candidates - patch.transpose(2, 0, 1)) ** 2).sum(axis=(2, 3, 4))
    row, column = np.unravel_index(errors.argmin(), errors.shape)
    return float(np.hypot(row - reach, column - reach))
