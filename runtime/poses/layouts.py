"""Layouts: which point in a public tool's list is which of our points.

A layout is the order in which a tool or data set lists the points of one person. `Layout.pose` turns such a
list into a Pose. The names of the tables are those of the tools and data sets:

* BODY_18 and BODY_25: OpenPose's body models COCO and BODY_25 (doc/02_output.md).
* OPENPOSE_134: body, feet, face and hands as DWPose and rtmlib give them in OpenPose's order.
* COCO_17: the person keypoints of COCO, which MMPose, rtmlib, ViTPose, AlphaPose and many others give.
* WHOLEBODY_133: COCO-WholeBody (Jin et al., ECCV 2020).
* HALPE_26 and HALPE_136: Halpe-FullBody, which AlphaPose gives.
* MEDIAPIPE_33: BlazePose's landmarks, which MediaPipe gives.
* FACE_OF_MESH: the 68 points of the face among the 468 (or 478) of MediaPipe's face mesh.

All of them list the 21 points of a hand in OpenPose's order, and the 68 of a face in iBUG's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .keypoints import (
    BODY,
    FACE,
    LEFT_HAND,
    LEFT_SHOULDER,
    NECK,
    NUM_POINTS,
    RIGHT_HAND,
    RIGHT_SHOULDER,
    VISIBLE,
)

MIDDLE = -1  # in the place of the neck: the layout has none, or one at another height


@dataclass(frozen=True, slots=True)
class Layout:
    """The order of `num_points` points. The fields hold, for each of our points, its index in that order."""

    name: str
    num_points: int
    body: tuple[int, ...]
    left_hand: tuple[int, ...] = ()
    right_hand: tuple[int, ...] = ()
    face: tuple[int, ...] = ()

    def pose(self, points: NDArray[Any]) -> NDArray[np.float64]:
        """Return (..., num_points, 3) of x, y and score as poses, (..., NUM_POINTS, 3)."""
        pose = np.zeros((*points.shape[:-2], NUM_POINTS, 3))
        parts = (
            (BODY, self.body),
            (LEFT_HAND, self.left_hand),
            (RIGHT_HAND, self.right_hand),
            (FACE, self.face),
        )
        for part, indices in parts:
            if indices:
                pose[..., part, :] = points[..., indices, :]
        if self.body[NECK] == MIDDLE:
            pose[..., NECK, :] = middle(pose[..., LEFT_SHOULDER, :], pose[..., RIGHT_SHOULDER, :])
        return pose


def middle(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """The neck between two shoulders, (..., 3). Its score is 1 if both are visible; else it is missing.

    This is DWPose's rule.
    """
    visible = (one[..., 2:] > VISIBLE) & (other[..., 2:] > VISIBLE)
    point = np.ones_like(one)
    point[..., :2] = (one[..., :2] + other[..., :2]) / 2
    return np.where(visible, point, 0)


def span(first: int, count: int) -> tuple[int, ...]:
    return tuple(range(first, first + count))


# COCO's order: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles; always left before right.
COCO_BODY = (0, MIDDLE, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)

BODY_18 = Layout("OpenPose", 18, span(0, 18))
BODY_25 = Layout("BODY_25", 25, (*range(8), *range(9, 19)))  # 8 is the middle of the hips
OPENPOSE_134 = Layout("OpenPose whole body", 134, span(0, 18), span(92, 21), span(113, 21), span(24, 68))
COCO_17 = Layout("COCO", 17, COCO_BODY)
WHOLEBODY_133 = Layout("COCO-WholeBody", 133, COCO_BODY, span(91, 21), span(112, 21), span(23, 68))
# Halpe's neck, 18, is a point of its own; the middle of the shoulders is what the other layouts have.
HALPE_26 = Layout("Halpe", 26, COCO_BODY)
HALPE_136 = Layout("Halpe-FullBody", 136, COCO_BODY, span(94, 21), span(115, 21), span(26, 68))
MEDIAPIPE_33 = Layout(
    "MediaPipe", 33, (0, MIDDLE, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7)
)

LAYOUTS = {
    layout.num_points: layout
    for layout in (
        BODY_18, BODY_25, OPENPOSE_134, COCO_17, WHOLEBODY_133, HALPE_26, HALPE_136, MEDIAPIPE_33,
    )
}  # fmt: skip

FACE_OF_MESH = (
    127, 234, 93, 132, 58, 136, 150, 176, 152, 400, 379, 365, 288, 361, 323, 454, 356,  # jaw
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300,  # right brow, left brow
    168, 197, 5, 4, 75, 97, 2, 326, 305,  # bridge of the nose, nostrils
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,  # right eye, left eye
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,  # outer lips
    78, 82, 13, 312, 308, 317, 14, 87,  # inner lips
)  # fmt: skip
