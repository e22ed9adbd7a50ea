"""Two people who walk to the right: what the recorded keypoint files in tests/data/poses/formats hold."""

from __future__ import annotations

from typing import Any

import numpy as np
from animate_rt.runtime.poses.keypoints import BODY_NAMES, FACE, LEFT_HAND, NECK, NUM_POINTS, RIGHT_HAND
from numpy.typing import NDArray

WIDTH, HEIGHT = 512, 768
STEP = 4  # pixels from one frame to the next

# x and y in pixels of the larger person in frame 0, in the order of BODY_NAMES.
BODY_POINTS = (
    (200, 120), (200, 200),
    (150, 200), (130, 300), (120, 390), (250, 200), (270, 300), (280, 390),
    (170, 400), (165, 540), (160, 680), (230, 400), (235, 540), (240, 680),
    (185, 105), (215, 105), (165, 115), (235, 115),
)  # fmt: skip


def truth(frame: int = 0, person: int = 0) -> NDArray[Any]:
    """The pose of a person: 0 is the larger one, 1 stands to the right at half the size."""
    pose = np.ones((NUM_POINTS, 3))
    pose[: len(BODY_NAMES), :2] = BODY_POINTS
    angles = 2 * np.pi * np.arange(68) / 68
    pose[FACE, :2] = np.stack([200 + 30 * np.cos(angles), 120 + 40 * np.sin(angles)], axis=1)
    finger, joint = np.arange(21) % 5, np.arange(21) // 5
    for hand, wrist in (LEFT_HAND, (280, 390)), (RIGHT_HAND, (120, 390)):
        pose[hand, :2] = np.stack([wrist[0] + 4 * finger, wrist[1] + 5 * joint], axis=1)
    pose[:, 2] = np.round(0.5 + 0.003 * np.arange(NUM_POINTS), 3)
    pose[NECK, 2] = 1  # as it is where the neck is made from the shoulders
    if person:
        pose[:, :2] = pose[:, :2] / 2 + (230, 300)
    pose[:, 0] += STEP * frame
    pose[:, :2] = pose[:, :2].round(3)
    return pose


def named(pose: NDArray[Any]) -> dict[str, list[float]]:
    """x, y and score of every point by its name, as the public tools name it."""
    names = [name.replace(" ", "_") for name in BODY_NAMES]
    names += [f"left_hand_{i}" for i in range(21)] + [f"right_hand_{i}" for i in range(21)]
    names += [f"face_{i}" for i in range(68)]
    return {name: pose[i].tolist() for i, name in enumerate(names)}
