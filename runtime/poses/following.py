"""Following one person through frames in which poses have been found already, as in keypoint files.

If the file numbers its tracks, the person is whoever has the same number. Otherwise it is whoever is near the
place where the person was before, and nearer to it than to that of anybody else. No other person is taken
instead: frames in which the person is not found are interpolated if they are few, and missing otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from .gaps import MAX_LOST, Gaps, filled
from .keypoints import BODY, NUM_POINTS, Pose
from .people import REACH, STEP, Person, check_person, chosen, movements

MAX_OTHERS = 64  # poses of other people that are remembered


class Found(NamedTuple):
    """Someone in a frame. `track` is the same for the same person in all frames; None if it is not known."""

    pose: Pose
    track: int | None = None

    @property
    def score(self) -> float:
        return float(self.pose[BODY, 2].mean())


@dataclass(slots=True)
class Trail(Gaps):
    """In which frames, counted from 0, the person was not simply there.

    jumped: found far from the frame before, and taken for the same person because there was nobody else.
    """

    jumped: list[int] = field(default_factory=list)


def follow(frames: Sequence[Sequence[Found]], person: Person = 0) -> tuple[NDArray[np.float64], Trail]:
    """The poses of one person, (frames, NUM_POINTS, 3), and the frames in which the person was not found.

    person: an index by score times area in the first frame that has people, 0 is the largest; or a point x, y
    in that frame, in pixels. Raises InputError if there is no such person, ConfigError for an impossible one.
    """
    check_person(person)
    trail = Trail()
    follower = Follower(person, trail)
    found = (follower.find(number, people) for number, people in enumerate(frames))
    poses = np.zeros((len(frames), NUM_POINTS, 3))
    for place, pose in zip(poses, filled(found, trail, trail.jumped), strict=True):
        place[:] = pose
    return poses, trail


class Other(NamedTuple):
    """Somebody else: the pose when last found, and the frames since then."""

    pose: Pose
    age: int = 0


class Follower:
    """Finds one person in one frame after another. `lost` counts the frames since the person was `seen`."""

    def __init__(self, person: Person, trail: Trail):
        self.person, self.trail = person, trail
        self.seen: Found | None = None
        self.lost = 0
        self.others: list[Other] = []

    def find(self, number: int, people: Sequence[Found]) -> Pose | None:
        """The pose of the person in a frame, or None."""
        there = [each for each in people if each.pose[:, 2].any()]
        if self.seen is None:
            found = self.first(number, there) if there else None
            self.others = [Other(each.pose) for each in there if each is not found]
        elif self.seen.track is not None:
            track = self.seen.track
            found = next((each for each in there if each.track == track), None)
        else:
            found = self.again(number, there, self.seen)
        if found is None:
            self.lost += 1
            return None
        self.seen, self.lost = found, 0
        return found.pose

    def first(self, number: int, people: list[Found]) -> Found:
        """The person who is meant. Raises InputError if there is none."""
        found, person = chosen(people, self.person), self.person
        if found is not None:
            return found
        if isinstance(person, tuple):
            raise InputError(
                f"person: expected a person at {person[0]:g},{person[1]:g} in frame {number}, found none; "
                "give a point between the shoulders and hips"
            )
        raise InputError(
            f"person: expected 0 to {len(people) - 1} for one of the people in frame {number}, found {person}"
        )

    def again(self, number: int, people: list[Found], seen: Found) -> Found | None:
        """The person who was seen before, or None if nobody in the frame is certain to be that person.

        Everybody in the frame is matched with the nearest of the people before. While the person is lost, the
        others come first, so that somebody who walks to the person's place is not taken for the person.
        """
        moves = movements([seen.pose, *(other.pose for other in self.others)], [each.pose for each in people])
        reach = [REACH if age else STEP for age in (self.lost, *(other.age for other in self.others))]
        first_others = np.zeros((len(reach), 1))
        first_others[0] = 2 * REACH if self.lost else 0
        place = matched(moves, np.array(reach)[:, None], moves + first_others)
        mine = place.pop(0, None)
        if mine is None and len(people) == 1 and not self.others:
            mine = 0
            if isfinite(moves[0, 0]):
                self.trail.jumped.append(number)
        found = [Other(people[column].pose) for column in place.values()]
        gone = [
            Other(other.pose, other.age + 1)
            for row, other in enumerate(self.others, start=1)
            if row not in place and (mine is None or other.age < MAX_LOST)
        ]
        new = [
            Other(each.pose)
            for column, each in enumerate(people)
            if column != mine and column not in place.values()
        ]
        self.others = [*gone, *found, *new][-MAX_OTHERS:]
        return None if mine is None else people[mine]


def matched(
    moves: NDArray[np.float64], reach: NDArray[np.float64], order: NDArray[np.float64]
) -> dict[int, int]:
    """A column for every row, as far as there are any within its `reach`; the smallest in `order` first."""
    columns: dict[int, int] = {}
    rows, others = np.nonzero(moves <= reach)
    for place in np.argsort(order[rows, others], kind="stable"):
        row, column = int(rows[place]), int(others[place])
        if row not in columns and column not in columns.values():
            columns[row] = column
    return columns
