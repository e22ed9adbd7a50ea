"""MediaPipe's landmarks as people save them: the pose, and the hands and face of its holistic model.

MediaPipe has no file format. People save its results under the names that its interfaces have:
`poseLandmarks` in JavaScript, `pose_landmarks` in Python, `landmarks` (one list for each person) in its
tasks, `landmark` in its messages. A point is an object with x, y, z and visibility, or a list of these. x and
y are normalised; z is not used. Left and right are the person's own, unless the picture was mirrored before
it was given to MediaPipe.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ....errors import InputError
from ....text import quoted
from ..following import Found
from ..keypoints import FACE, LEFT_HAND, NUM_POINTS, RIGHT_HAND
from ..layouts import FACE_OF_MESH, MEDIAPIPE_33
from .document import Array, Recording, cleaned, dictionary, numbers, one_size, people_in, picture_size, rows

POSE = ("poseLandmarks", "pose_landmarks", "landmarks", "landmark")
LEFT = ("leftHandLandmarks", "left_hand_landmarks")
RIGHT = ("rightHandLandmarks", "right_hand_landmarks")
MESH = ("faceLandmarks", "face_landmarks")
MESHES = (468, 478)  # the last 10 are the irises


def is_frame(frame: dict[str, Any]) -> bool:
    return not frame.keys().isdisjoint({*POSE, *LEFT, *RIGHT, *MESH})


def read(frames: list[Any]) -> Recording:
    """Read a list of frames; null stands for a frame without people. Raises InputError."""
    recording = Recording()
    sizes = set()
    for number, frame in enumerate(frames):
        where = f"frame {number}"
        fields = {} if frame is None else dictionary(frame, where)
        recording.frames.append(people(fields, where))
        sizes.add(picture_size(fields.get("width"), fields.get("height"), where))
    recording.size = one_size({size for size in sizes if size}, "width and height")
    return recording


def people(frame: dict[str, Any], where: str) -> list[Found]:
    """The people of a frame. Hands and faces belong to the person of the same index."""
    poses, left, right, meshes = (lists(frame, names, where) for names in (POSE, LEFT, RIGHT, MESH))
    found = []
    for index in range(max(map(len, (poses, left, right, meshes)))):
        pose = np.zeros((NUM_POINTS, 3))
        if index < len(poses):
            pose = MEDIAPIPE_33.pose(landmarks(poses[index], (33,), f"{where}: pose landmarks"))
        for hands, place in (left, LEFT_HAND), (right, RIGHT_HAND):
            if index < len(hands):
                pose[place] = landmarks(hands[index], (21,), f"{where}: hand landmarks", scored=False)
        if index < len(meshes):
            mesh = landmarks(meshes[index], MESHES, f"{where}: face landmarks", scored=False)
            pose[FACE] = mesh[list(FACE_OF_MESH)]
        found.append(Found(pose))
    return found


def lists(frame: dict[str, Any], names: tuple[str, ...], where: str) -> list[Any]:
    """The lists of landmarks under one of the names, one for each person."""
    value = next((frame[name] for name in names if name in frame), None)
    if isinstance(value, dict):  # a message
        value = value.get("landmark")
    if value is None or value == []:
        return []
    listed = people_in_or_points(value, where)
    return [each for each in listed if each]


def people_in_or_points(value: Any, where: str) -> list[Any]:
    first = value[0] if isinstance(value, list) else None
    if isinstance(first, list) and (not first or isinstance(first[0], dict | list)):
        return people_in(value, where)
    return [value]


def landmarks(value: Any, counts: tuple[int, ...], where: str, scored: bool = True) -> Array:
    """The points of a list of landmarks, (n, 3), n being one of `counts`. Raises InputError.

    scored: whether the points have a visibility, which is then the score.
    """
    if isinstance(value, dict):
        value = value.get("landmark")
    if not isinstance(value, list) or len(value) not in counts:
        found = f"{len(value)} points" if isinstance(value, list) else quoted(value)
        raise InputError(f"{where}: expected {' or '.join(map(str, counts))} points, found {found}")
    if isinstance(value[0], dict):
        names = ("x", "y", "visibility") if scored else ("x", "y")
        points = [dictionary(point, where) for point in value]
        flat = [point.get(name, 1 if name == "visibility" else None) for point in points for name in names]
        table = numbers(flat, where).reshape(len(value), -1)
    else:
        table = rows(value, where)
        if table.shape[1] not in ((2, 4) if scored else (2, 3, 4)):
            raise InputError(
                f"{where}: expected points of x, y, z and visibility, found {table.shape[1]} numbers"
            )
        table = table[:, [0, 1, 3]] if scored and table.shape[1] == 4 else table[:, :2]
    return cleaned(table, where)
