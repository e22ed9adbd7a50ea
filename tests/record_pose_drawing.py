"""Records what OpenCV draws for the people of drawn_people.py, as golden data for test_pose_drawing.py.

The project does not depend on OpenCV, so this runs in an environment of its own:

    python -m venv cv && cv/bin/pip install opencv-python-headless==4.11.0.86 'numpy<2.3'
    cv/bin/python tests/record_pose_drawing.py

It writes one SHA-256 per person and style, and some whole pictures to look at, to tests/data/poses/.
"""

from __future__ import annotations

import colorsys
import hashlib
import math
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from drawn_people import COUNT, person, standing

FOLDER = Path(__file__).parent / "data" / "poses"
SHOWN = (0, 2, 3, 8)  # people whose pictures are kept, in addition to one that is standing

LIMBS = (
    *((2, 3), (2, 6), (3, 4), (4, 5), (6, 7), (7, 8), (2, 9), (9, 10), (10, 11), (2, 12), (12, 13), (13, 14)),
    *((2, 1), (1, 15), (15, 17), (1, 16), (16, 18)),
)
RAINBOW = (
    *((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0)),
    *((0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255)),
    *((170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85)),
)
BONES = [bone for first in range(1, 21, 4) for bone in pairwise((0, *range(first, first + 4)))]


def rounded_size(width: float, height: float, shorter: int) -> tuple[int, int]:
    factor = float(shorter) / min(height, width)
    return tuple(int(np.round(side * factor / 64.0)) * 64 for side in (width, height))


def by_length(length: float) -> int:
    return next((i for i, bound in enumerate((5, 10, 20, 40, 80, 160, 320), 1) if length < bound), 8)


def draw(pose: np.ndarray, width: int, height: int, style: str) -> np.ndarray:
    """The picture that the public tool of this style draws with OpenCV."""
    muse = style == "musepose"
    canvas_width, canvas_height = rounded_size(float(width), float(height), 1024 if muse else 512)
    points = pose[:, :2] / (float(width), float(height))
    scores = pose[:, 2]
    canvas = np.zeros((canvas_height, canvas_width, 3), np.uint8)

    for (start, end), colour in zip(LIMBS, RAINBOW, strict=False):
        ends = np.array((start, end)) - 1
        if not (scores[ends] > 0.3).all():
            continue
        x, y = points[ends, 0] * float(canvas_width), points[ends, 1] * float(canvas_height)
        length = ((y[0] - y[1]) ** 2 + (x[0] - x[1]) ** 2) ** 0.5
        angle = math.degrees(math.atan2(y[0] - y[1], x[0] - x[1]))
        centre, axes = (int(np.mean(x)), int(np.mean(y))), (int(length / 2), by_length(length) if muse else 4)
        cv2.fillConvexPoly(canvas, cv2.ellipse2Poly(centre, axes, int(angle), 0, 360, 1), colour)
    canvas = (canvas * 0.6).astype(np.uint8)
    for index in range(18):
        if scores[index] > 0.3:
            centre = int(points[index, 0] * canvas_width), int(points[index, 1] * canvas_height)
            cv2.circle(canvas, centre, 4, RAINBOW[index], thickness=-1)

    points = np.where((scores < 0.3)[:, None], -1.0, points)
    pixels = [(int(x * canvas_width), int(y * canvas_height)) for x, y in points]
    for hand in (pixels[18:39], pixels[39:60]):
        for number, (start, end) in enumerate(BONES):
            (x0, y0), (x1, y1) = hand[start], hand[end]
            if min(x0, y0, x1, y1) > 0.01:
                colour = [part * 255 for part in colorsys.hsv_to_rgb(number / 20, 1.0, 1.0)]
                length = ((x0 - x1) ** 2 + (y0 - y1) ** 2) ** 0.5
                cv2.line(canvas, (x0, y0), (x1, y1), colour, thickness=by_length(length) if muse else 2)
        for point in hand:
            if min(point) > 0.01:
                cv2.circle(canvas, point, 3 if muse else 4, (0, 0, 255), thickness=-1)
    if muse:
        size = rounded_size(float(canvas_width), float(canvas_height), 768)
        return cv2.resize(canvas, size, interpolation=cv2.INTER_LINEAR)
    for point in pixels[60:]:
        if min(point) > 0.01:
            cv2.circle(canvas, point, 3, (255, 255, 255), thickness=-1)
    return canvas


def main() -> None:
    for style in ("dwpose", "musepose"):
        digests = []
        for number in range(COUNT):
            picture = draw(*person(number), style)
            digests.append(hashlib.sha256(repr(picture.shape).encode() + picture.tobytes()).digest())
            if number in SHOWN:
                cv2.imwrite(str(FOLDER / f"{style}-{number}.png"), picture[..., ::-1])
        picture = draw(standing(512, 768), 512, 768, style)
        cv2.imwrite(str(FOLDER / f"{style}-standing.png"), picture[..., ::-1])
        (FOLDER / f"{style}.sha256").write_bytes(b"".join(digests))


if __name__ == "__main__":
    main()
