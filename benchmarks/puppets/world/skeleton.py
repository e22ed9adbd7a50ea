"""The 18 keypoints of a body, and pictures of them as pose detectors draw them (SPEC.md 4.7)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .drawing import Array

KEYPOINTS = (
    "nose", "neck",
    "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle",
    "right_eye", "left_eye", "right_ear", "left_ear",
)  # fmt: skip
LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10),
    (1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip
COLOURS = (
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0),
    (0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255),
    (0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85),
)  # fmt: skip
LIMB_SHARE = 0.6  # brightness at which a limb's colour is drawn
# Detectors draw lines with a half-width of 4 pixels at about 512 pixels. At 128 pixels that would be a single
# pixel, so lines are 1.5 times as wide here.
HALF_WIDTH = 6 / 512
OVERSAMPLED = 4
CIRCLE = np.linspace(0, 2 * np.pi, 16, endpoint=False)


def draw_skeleton(keypoints: Array, size: int) -> NDArray[np.uint8]:
    """Keypoints (18, 3): x, y in frame units, 0 if not visible -> picture (size, size, 3) on black."""
    scale = size * OVERSAMPLED
    points, seen = keypoints[:, :2] * scale, keypoints[:, 2] > 0
    radius = HALF_WIDTH * scale
    image = Image.new("RGB", (scale, scale))
    draw = ImageDraw.Draw(image)
    for (start, end), colour in zip(LIMBS, COLOURS, strict=False):
        if seen[start] and seen[end]:
            middle, half = (points[start] + points[end]) / 2, (points[end] - points[start]) / 2
            length = max(float(np.hypot(*half)), 1e-6)
            side = np.array([-half[1], half[0]]) * (radius / length)
            rim = middle + np.cos(CIRCLE)[:, None] * half + np.sin(CIRCLE)[:, None] * side
            fill = tuple(int(LIMB_SHARE * channel) for channel in colour)
            draw.polygon(rim.ravel().tolist(), fill=fill)
    for (x, y), visible, colour in zip(points.tolist(), seen, COLOURS, strict=True):
        if visible:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return np.asarray(image.reduce(OVERSAMPLED))
