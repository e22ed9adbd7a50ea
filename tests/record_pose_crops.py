"""Records how OpenCV crops and resizes the pictures of blobs.py, as golden data for test_pose_decoding.py.

The project does not depend on OpenCV, so this runs in an environment of its own:

    python -m venv cv && cv/bin/pip install opencv-python-headless==4.11.0.86 'numpy<2.3'
    cv/bin/python tests/record_pose_crops.py

The calls of OpenCV, and their arguments, are those of the public pose tools: an affine warp of a person's box
for MMPose's networks, a resize with a grey border for YOLOX.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from blobs import CASES, INPUTS, SIDES, case, centroids, samples
from numpy.typing import NDArray

FILE = Path(__file__).parent / "data" / "poses" / "crops.json"


def warped(picture: NDArray[np.uint8], box: Any, pixels: tuple[int, int]) -> NDArray[np.uint8]:
    """Crop by three points: the centre, one above it, and one beside it."""
    left, top, right, bottom = box
    centre = np.array([(left + right) * 0.5, (top + bottom) * 0.5])
    width, height = 1.25 * (right - left), 1.25 * (bottom - top)
    aspect = pixels[0] / pixels[1]
    if width > height * aspect:
        height = width / aspect
    else:
        width = height * aspect
    above = np.array([0, -width * 0.5])
    middle = np.array([pixels[0] * 0.5, pixels[1] * 0.5])
    over = np.array([0, -pixels[0] * 0.5])
    source = np.float32([centre, centre + above, third(centre, centre + above)])
    target = np.float32([middle, middle + over, third(middle, middle + over)])
    matrix = cv2.getAffineTransform(source, target)
    result: NDArray[np.uint8] = cv2.warpAffine(picture, matrix, pixels, flags=cv2.INTER_LINEAR)
    return result


def third(one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    direction = one - other
    return other + np.array([-direction[1], direction[0]])


def letterboxed(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    square = np.full((side, side, 3), 114, np.uint8)
    factor = min(side / picture.shape[0], side / picture.shape[1])
    size = int(picture.shape[1] * factor), int(picture.shape[0] * factor)
    square[: size[1], : size[0]] = cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR)
    return square


def main() -> None:
    crops, squares = [], []
    for number in range(CASES):
        picture, _, box = case(number)
        for pixels in INPUTS:
            crop = warped(picture, box, pixels)
            crops.append([centroids(crop).round(4).tolist(), samples(crop)])
        for side in SIDES:
            square = letterboxed(picture, side)
            squares.append([centroids(square).round(4).tolist(), samples(square)])
    lines = [json.dumps(line, separators=(",", ":")) for line in (*crops, *squares)]
    FILE.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
