"""OpenPose's JSON, and the form that ControlNet's tools have made of it (ComfyUI's POSE_KEYPOINT).

One frame is an object with `people`; a file holds one frame or a list of them. Each person has lists of x, y,
score, x, y, score, and so on. ControlNet's tools add `canvas_width` and `canvas_height`, and write null for a
missing part. Files do not say whether coordinates are normalised; see units.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ....errors import InputError
from ..following import Found
from ..keypoints import FACE, LEFT_HAND, NUM_POINTS, RIGHT_HAND
from ..layouts import BODY_18, BODY_25
from .document import (
    Recording,
    Size,
    dictionary,
    one_size,
    people_in,
    picture_size,
    points,
    rate_of,
    track_number,
)

BODIES = {layout.num_points: layout for layout in (BODY_18, BODY_25)}
# 70 has the pupils after the 68; ControlNet's own face model adds a 71st, which is the background.
FACES = (68, 70, 71)


def is_frame(frame: dict[str, Any]) -> bool:
    return "people" in frame


def read(frames: list[Any]) -> Recording:
    """Read a list of frames. Raises InputError."""
    sizes: set[Size] = set()
    rates = set()
    recording = Recording()
    for number, frame in enumerate(frames):
        where = f"frame {number}"
        people = people_in(dictionary(frame, where).get("people"), f"{where}: people")
        found = [person(each, f"{where}, person {i}", recording.notes) for i, each in enumerate(people)]
        recording.frames.append(found)
        size = picture_size(frame.get("canvas_width"), frame.get("canvas_height"), f"{where}: canvas")
        sizes |= {size} if size else set()
        rates.add(rate_of(frame.get("frame_rate"), f"{where}: frame_rate"))
    recording.size = one_size(sizes, "canvas_width and canvas_height")
    if len(rates) > 1:
        raise InputError("frame_rate: expected the same in all frames, found several")
    recording.frame_rate = next(iter(rates), None)
    return recording


def person(value: Any, where: str, notes: set[str]) -> Found:
    fields = dictionary(value, where)

    def part(name: str) -> Any:
        return fields.get(f"{name}_2d", fields.get(name))  # without _2d before OpenPose 1.2

    pose = np.zeros((NUM_POINTS, 3))
    body = points(part("pose_keypoints"), BODIES, f"{where}: pose_keypoints_2d")
    if body is not None:
        pose = BODIES[len(body)].pose(body)
    for side, place in ("left", LEFT_HAND), ("right", RIGHT_HAND):
        hand = points(part(f"hand_{side}_keypoints"), (21,), f"{where}: hand_{side}_keypoints_2d")
        if hand is not None:
            pose[place] = hand
    face = known_face(part("face_keypoints"), notes)
    face = points(face, FACES, f"{where}: face_keypoints_2d")
    if face is not None:
        pose[FACE] = face[:68]
    return Found(pose, track_number(fields.get("person_id")))


def known_face(value: Any, notes: set[str]) -> Any:
    """The list of a face's points, or None if it does not say which points it has.

    ControlNet's own face model leaves out points that it has not found.
    """
    if isinstance(value, list) and value and not isinstance(value[0], list):
        count, rest = divmod(len(value), 3)
        if not rest and count < max(FACES) and count not in FACES:
            notes.add(
                f"faces of {count} points are not drawn, as the file does not say which of the 68 they are"
            )
            return None
    return value
