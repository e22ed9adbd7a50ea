"""People in a picture: which of them is meant, and how far two poses are from each other."""

from __future__ import annotations

from collections.abc import Sequence
from math import hypot, inf
from typing import Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ...text import quoted
from .keypoints import (
    BODY,
    LEFT_HIP,
    LEFT_SHOULDER,
    NECK,
    NOSE,
    NUM_POINTS,
    RIGHT_HIP,
    RIGHT_SHOULDER,
    VISIBLE,
    Pose,
)

# Which person: by size, 0 is the largest; or whoever is at a point of the picture, x and y in pixels.
Person: TypeAlias = int | tuple[float, float]
Box: TypeAlias = tuple[float, float, float, float]  # left, top, right and bottom in pixels

MAX_PEOPLE = 1000  # indices of people beyond are taken for mistakes
STEP, REACH = 0.25, 0.5  # most movement between two frames, and while lost, in units of the person's size
STEADY = [NOSE, NECK, RIGHT_SHOULDER, LEFT_SHOULDER, RIGHT_HIP, LEFT_HIP]  # move less than arms and legs
IS_STEADY = np.isin(np.arange(BODY.stop), STEADY)


class Someone(Protocol):
    """A person in a picture, and how certain it is that this is one."""

    @property
    def pose(self) -> Pose: ...

    @property
    def score(self) -> float: ...


AnyOne = TypeVar("AnyOne", bound=Someone)


def check_person(person: Person) -> None:
    """Raise ConfigError unless the value can stand for a person."""
    if isinstance(person, tuple):
        are_numbers = all(isinstance(part, int | float) and -inf < part < inf for part in person)
        if len(person) != 2 or not are_numbers:
            raise ConfigError(f"person: expected a point x,y in pixels, found {quoted(person)}")
    elif not isinstance(person, int) or not 0 <= person < MAX_PEOPLE:
        raise ConfigError(f"person: expected 0 for the largest, 1 for the next, ..., found {quoted(person)}")


def chosen(people: Sequence[AnyOne], person: Person) -> AnyOne | None:
    """The one who is meant, or None if there is none. The size of a person is score times area."""
    if isinstance(person, tuple):
        there = [each for each in people if is_inside(person, box(each.pose))]
        return min(there, key=lambda each: off_centre(person, box(each.pose)), default=None)
    largest_first = sorted(people, key=lambda each: -each.score * area(box(each.pose)))
    return largest_first[person] if person < len(largest_first) else None


def movement(before: Pose, after: Pose) -> float:
    """How far a person has moved from one pose to another; see `movements`."""
    return float(movements([before], [after])[0, 0])


def movements(before: Sequence[Pose], after: Sequence[Pose]) -> NDArray[np.float64]:
    """How far a person has moved from every pose before to every pose after, (before, after).

    It is the median over the points of head and torso that are visible in both, or else over those of the
    limbs, in units of the person's size before; infinity if there are none.
    """
    one, other = (np.array(poses).reshape(-1, NUM_POINTS, 3)[:, BODY] for poses in (before, after))
    visible = (one[:, None, :, 2] > VISIBLE) & (other[None, :, :, 2] > VISIBLE)
    steady = visible & IS_STEADY
    used = np.where(steady.any(axis=-1, keepdims=True), steady, visible)
    moved = np.hypot(*np.moveaxis(other[None, :, :, :2] - one[:, None, :, :2], -1, 0))
    moved[~used] = inf
    moved.sort(axis=-1)  # the points that are not used come last
    count = used.sum(axis=-1, keepdims=True)
    middle = np.take_along_axis(
        moved, np.concatenate([np.maximum(count - 1, 0) // 2, count // 2], axis=-1), axis=-1
    )
    sizes = np.array([max(right - left, bottom - top) for left, top, right, bottom in map(box, before)])
    sizes[sizes <= 0] = np.nan
    found: NDArray[np.float64] = middle.mean(axis=-1) / sizes[:, None]
    found[np.isnan(found)] = inf
    return found


def box(pose: Pose) -> Box:
    """The box around the body's visible points; zeros if there are none."""
    points = pose[BODY][pose[BODY, 2] > VISIBLE, :2]
    if not len(points):
        return 0.0, 0.0, 0.0, 0.0
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    return float(left), float(top), float(right), float(bottom)


def area(box: Box) -> float:
    left, top, right, bottom = box
    return (right - left) * (bottom - top)


def is_inside(point: tuple[float, float], box: Box) -> bool:
    left, top, right, bottom = box
    return left <= point[0] <= right and top <= point[1] <= bottom


def off_centre(point: tuple[float, float], box: Box) -> float:
    left, top, right, bottom = box
    return hypot(point[0] - (left + right) / 2, point[1] - (top + bottom) / 2)
