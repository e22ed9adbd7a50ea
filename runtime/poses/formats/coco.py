"""Results in COCO's form and its relatives: MMPose, rtmlib, ViTPose and AlphaPose.

The layout follows from the number of points: 17, 26, 133, 134 or 136. The forms of a file:

* COCO's results and AlphaPose: a list of people, each with `image_id`, a number or a name like "12.jpg".
* MMPose for videos: a list of `frame_id` and `instances`, or an object with that list in `instance_info`.
* MMPose for pictures: the list of people of one picture.
* rtmlib's arrays as lists: for each frame `keypoints` (people, points, 2) and `scores` (people, points).
"""

from __future__ import annotations

import re
from typing import Any

from ....errors import InputError
from ....text import quoted
from ..following import Found
from ..keypoints import FACE, LEFT_HAND, RIGHT_HAND
from ..layouts import BODY_25, LAYOUTS, MEDIAPIPE_33
from .document import (
    MAX_FRAMES,
    Recording,
    dictionary,
    one_size,
    people_in,
    picture_size,
    points,
    track_number,
)

BODIES = {count: layout for count, layout in LAYOUTS.items() if layout not in (MEDIAPIPE_33, BODY_25)}
# COCO-WholeBody's own results have the parts beside the 17 points of the body.
PARTS = ("face_kpts", 68, FACE), ("lefthand_kpts", 21, LEFT_HAND), ("righthand_kpts", 21, RIGHT_HAND)
NUMBER = re.compile(r"[0-9]{1,12}(?!.*[0-9])", re.ASCII | re.DOTALL)  # the last number of a name


def is_frame(frame: dict[str, Any]) -> bool:
    return bool(frame.keys() & {"keypoints", "instances"})


def read(frames: list[Any]) -> Recording:
    """Read a list of frames or of people. Raises InputError."""
    first = next(frame for frame in frames if isinstance(frame, dict) and is_frame(frame))
    if "instances" in first:
        return Recording(
            in_order([(frame_id(frame, i), instances(frame, i)) for i, frame in enumerate(frames)])
        )
    if "image_id" in first or "frame_id" in first:
        people = [(frame_id(entry, i), [person(entry, f"entry {i}")]) for i, entry in enumerate(frames)]
        return Recording(in_order(people))
    if depth(first["keypoints"]) > 2:  # people, points, x and y
        return Recording([arrays(frame, f"frame {i}") for i, frame in enumerate(frames)])
    return Recording([[person(entry, f"person {i}") for i, entry in enumerate(people_in(frames, "people"))]])


def read_annotations(document: dict[str, Any]) -> Recording:
    """Read COCO's form of a data set, with `images` and `annotations`."""
    recording = read([dictionary(entry, "annotations") for entry in document["annotations"]])
    images = document.get("images", [])
    sizes = {
        picture_size(dictionary(image, "images").get("width"), image.get("height"), "images")
        for image in (images if isinstance(images, list) else [])
    }
    recording.size = one_size({size for size in sizes if size}, "images")
    return recording


def depth(value: Any) -> int:
    """How deeply lists are nested, by their first elements; at most 3."""
    levels = 0
    while isinstance(value, list) and levels < 3:
        levels, value = levels + 1, value[0] if value else None
    return levels


def instances(frame: Any, index: int) -> list[Found]:
    listed = people_in(dictionary(frame, f"frame {index}").get("instances"), f"frame {index}: instances")
    return [person(each, f"frame {index}, person {i}") for i, each in enumerate(listed)]


def arrays(frame: Any, where: str) -> list[Found]:
    """The people of a frame whose points and scores are in one array each."""
    fields = dictionary(frame, where)
    listed = people_in(fields.get("keypoints"), f"{where}: keypoints")
    scores = fields.get("keypoint_scores", fields.get("scores"))
    if not isinstance(scores, list) or len(scores) != len(listed):
        raise InputError(f"{where}: expected scores of {len(listed)} people, found {quoted(scores)}")
    return [
        person({"keypoints": table, "keypoint_scores": column}, f"{where}, person {i}")
        for i, (table, column) in enumerate(zip(listed, scores, strict=True))
    ]


def person(value: Any, where: str) -> Found:
    fields = dictionary(value, where)
    scores = fields.get("keypoint_scores")
    body = points(fields.get("keypoints"), BODIES, f"{where}: keypoints", scores)
    if body is None:
        raise InputError(f"{where}: expected keypoints, found none")
    pose = BODIES[len(body)].pose(body)
    for name, count, place in PARTS:
        part = points(fields.get(name), (count,), f"{where}: {name}")
        if part is not None:
            pose[place] = part
    return Found(pose, track_number(fields.get("idx", fields.get("track_id"))))


def frame_id(entry: Any, index: int) -> int:
    """The number of the frame that an entry belongs to, counted from anywhere."""
    fields = dictionary(entry, f"entry {index}")
    value = fields.get("frame_id", fields.get("image_id", index))
    if isinstance(value, str) and (found := NUMBER.search(value.rpartition(".")[0] or value)):
        return int(found[0])
    if type(value) is int and 0 <= value < 10**12:
        return value
    raise InputError(f"entry {index}: expected a frame's number or a name with one, found {quoted(value)}")


def in_order(numbered: list[tuple[int, list[Found]]]) -> list[list[Found]]:
    """People by frame, from the first number to the last. Frames in between that have no entry are empty."""
    if not numbered:
        return []
    first, last = min(number for number, _ in numbered), max(number for number, _ in numbered)
    if last - first >= MAX_FRAMES:
        raise InputError(
            f"expected at most {MAX_FRAMES} frames, found the numbers {first} to {last}; "
            "only the frames of one video can be used"
        )
    frames: list[list[Found]] = [[] for _ in range(last - first + 1)]
    for number, people in numbered:
        frames[number - first] += people
    for number, people in enumerate(frames):
        people_in(people, f"frame {number}")
    return frames
