"""Random people for the tests of drawing, the same on every machine. Needs only numpy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

COUNT = 2000
SIZES = ((512, 512), (512, 768), (1280, 720), (720, 1280), (333, 500), (1920, 1080), (640, 480), (61, 97))

# A standing person, in hundredths of the picture's height; x is counted from the middle.
BODY = (
    *((0, 12), (0, 22), (-9, 22), (-13, 36), (-11, 50), (9, 22), (13, 36), (11, 50)),
    *((-5, 52), (-6, 72), (-6, 92), (5, 52), (6, 72), (6, 92), (-2, 10), (2, 10), (-4, 12), (4, 12)),
)
FINGERS = ((-3, 1), (-2, 3), (0, 4), (1, 3), (2, 2))  # directions from the wrist


class Person(NamedTuple):
    """One frame of keypoints, (128, 3), in pixels of a picture of this size."""

    pose: NDArray[np.float64]
    width: int
    height: int


def standing(width: int, height: int) -> NDArray[np.float64]:
    """A complete person who stands in the middle of the picture; all scores are 1."""
    hands = [
        [(x + dx * joint / 4, 50 + dy * joint / 4) for dx, dy in FINGERS for joint in range(1, 5)]
        for x in (11, -11)
    ]
    around = np.arange(17) / 16 * 2 - 1  # the jaw and, scaled down, other rings
    face = [(5 * x * size, 12 + 6 * (1 - x * x) * size) for size in (1, 0.75, 0.5, 0.25) for x in around]
    points = [*BODY, (11, 50), *hands[0], (-11, 50), *hands[1], *face]
    pose = np.ones((128, 3))
    pose[:, :2] = np.array(points) * height / 100 + (width / 2, 0)
    return pose


def person(number: int) -> Person:
    """The person of this number; eight kinds of people take turns."""
    random = np.random.RandomState(number)  # its numbers never change, unlike those of newer generators
    width, height = SIZES[random.randint(len(SIZES))]
    size = np.array((width, height))
    kind, where = number % 8, random.random_sample((128, 2))
    if kind == 0:
        points = (
            standing(width, height)[:, :2] * (0.3 + random.random_sample(2)) + (where - 0.5) * size * 0.05
        )
        points += (random.random_sample(2) - 0.5) * size * 0.5
    elif kind == 1:
        points = where * size
    elif kind == 2:
        points = (where * 2 - 0.5) * size
    elif kind == 3:  # at the borders, exactly on pixels and between them
        points = np.rint((where * 1.2 - 0.1) * 8) / 8 * size
        points += random.randint(-12, 13, (128, 2)) * random.choice((1, 0.5, 0.125), (128, 1))
    elif kind == 4:
        points = random.random_sample(2) * size + (where - 0.5) * 12
    elif kind == 5:  # far away: as far as OpenCV's own arithmetic reaches, which is less for lines
        points = (where - 0.5) * np.where(np.arange(128) < 18, 2e6, 2e4)[:, None]
        near = random.random_sample(128) < 0.6
        points[near] = where[near] * size
    elif kind == 6:  # many equal points
        points = (where * size)[random.randint(0, 6, 128)]
    else:
        points = np.rint(where * size)
    scores = np.minimum(1, random.random_sample(128) * 3)
    scores[random.random_sample(128) < 0.02] = 0.3
    for group in (slice(0, 18), slice(18, 39), slice(39, 60), slice(60, 128)):
        if random.random_sample() < 0.15:
            scores[group] = 0
    pose = np.concatenate([points, scores[:, None]], axis=1)
    pose[scores == 0] = 0
    return Person(pose, width, height)
