"""People in a picture: what models find, which of them is meant, and whether two poses are of one person."""

from __future__ import annotations

from math import hypot, inf
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from ....errors import ConfigError
from ....text import quoted
from ..keypoints import (
    BODY,
    LEFT_HIP,
    LEFT_SHOULDER,
    NECK,
    NOSE,
    RIGHT_HIP,
    RIGHT_SHOULDER,
    VISIBLE,
    Pose,
)

if TYPE_CHECKING:
    from PIL.Image import Image

# Which person: by size, 0 is the largest; or whoever is at a point of the picture, x and y in pixels.
Person: TypeAlias = int | tuple[float, float]

MAX_PEOPLE = 1000  # indices of people beyond are taken for mistakes
STEADY = [NOSE, NECK, RIGHT_SHOULDER, LEFT_SHOULDER, RIGHT_HIP, LEFT_HIP]  # move less than arms and legs


class Candidate(NamedTuple):
    """Someone whom a detector has found. `region` is where the models look for the person, in their own form.

    The pose may be of the body alone.
    """

    pose: Pose
    score: float
    region: Any


class Estimate(NamedTuple):
    """A whole pose. `region` is where the models look for the person in the next picture."""

    pose: Pose
    region: Any


class Models(Protocol):
    """Networks that find people. Called from one thread at a time."""

    def detect(self, picture: Image) -> list[Candidate]:
        """Find everyone in an RGB picture. Raises DeviceError."""

    def estimate(self, picture: Image, region: Any) -> Estimate | None:
        """The pose of the person in a region, or None if there is nobody. Raises DeviceError."""

    def close(self) -> None:
        """Free the models' memory."""


def check_person(person: Person) -> None:
    """Raise ConfigError unless the value can stand for a person."""
    if isinstance(person, tuple):
        are_numbers = all(isinstance(part, int | float) and -inf < part < inf for part in person)
        if len(person) != 2 or not are_numbers:
            raise ConfigError(f"person: expected a point x,y in pixels, found {quoted(person)}")
    elif not isinstance(person, int) or not 0 <= person < MAX_PEOPLE:
        raise ConfigError(f"person: expected 0 for the largest, 1 for the next, ..., found {quoted(person)}")


def chosen(candidates: list[Candidate], person: Person) -> Candidate | None:
    """The candidate that is meant, or None if there is none."""
    if isinstance(person, tuple):
        there = [each for each in candidates if is_inside(person, box(each.pose))]
        return min(there, key=lambda each: off_centre(person, box(each.pose)), default=None)
    largest_first = sorted(candidates, key=lambda each: -each.score * area(box(each.pose)))
    return largest_first[person] if person < len(largest_first) else None


def movement(before: Pose, after: Pose) -> float:
    """How far a person has moved from one pose to another, in units of the person's size.

    The median over the points of head and torso that are visible in both, or else over those of the limbs;
    infinity if there are none.
    """
    visible = (before[BODY, 2] > VISIBLE) & (after[BODY, 2] > VISIBLE)
    both = [i for i in STEADY if visible[i]] or list(np.flatnonzero(visible))
    left, top, right, bottom = box(before)
    size = max(right - left, bottom - top)
    if not both or size <= 0:
        return inf
    moved = np.hypot(*(after[both, :2] - before[both, :2]).T)
    return float(np.median(moved) / size)


def box(pose: Pose) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the body's visible points, in pixels; zeros if there are none."""
    points = pose[BODY][pose[BODY, 2] > VISIBLE, :2]
    if not len(points):
        return 0.0, 0.0, 0.0, 0.0
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    return float(left), float(top), float(right), float(bottom)


def area(box: tuple[float, float, float, float]) -> float:
    left, top, right, bottom = box
    return (right - left) * (bottom - top)


def is_inside(point: tuple[float, float], box: tuple[float, float, float, float]) -> bool:
    left, top, right, bottom = box
    return left <= point[0] <= right and top <= point[1] <= bottom


def off_centre(point: tuple[float, float], box: tuple[float, float, float, float]) -> float:
    left, top, right, bottom = box
    return hypot(point[0] - (left + right) / 2, point[1] - (top + bottom) / 2)
