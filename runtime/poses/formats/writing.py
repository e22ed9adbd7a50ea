"""Writing keypoints: OpenPose's JSON as one list or as a folder with a file for each frame, and .npz."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from ....atomic import atomic, atomic_folder, unwritable
from ....errors import ConfigError, OutputError
from ....text import quoted
from ...media.folder import listed
from ..keypoints import BODY, FACE, LEFT_HAND, RIGHT_HAND, Keypoints, Pose

VERSION = 1.3  # of OpenPose's form
PARTS = {
    "pose_keypoints_2d": BODY,
    "face_keypoints_2d": FACE,
    "hand_left_keypoints_2d": LEFT_HAND,
    "hand_right_keypoints_2d": RIGHT_HAND,
}
FILE_NAME = re.compile(r"[0-9]{12,}_keypoints\.json")


def write_keypoints(path: str | os.PathLike[str], keypoints: Keypoints) -> None:
    """Write keypoints to NAME.json, NAME.npz or, for a name without an ending, a folder of JSON files.

    The JSON is OpenPose's, in pixels and with 18 points of the body, with the size of the pictures under
    ControlNet's names and the frame rate under `frame_rate`. The numbers are exact. OpenPose's form cannot
    hold points at exactly 0, 0 or -1, -1, which mean missing ones, nor parts that lie within two pixels of
    the corner, which are taken for normalised; and as in every file of JSON, gaps of a few frames are
    interpolated when it is read. The folder's files have OpenPose's names; a folder that has
    other files is not replaced.

    Raises ConfigError for another ending, OutputError if the result cannot be written.
    """
    place = Path(os.fsdecode(path))
    suffix = place.suffix.lower()
    if suffix not in (".json", ".npz", ""):
        raise ConfigError(f"expected a name ending in .json or .npz, or a folder, found {quoted(place.name)}")
    try:
        if suffix == ".json":
            write_list(place, keypoints)
        elif suffix == ".npz":
            write_npz(place, keypoints)
        else:
            write_folder(place, keypoints)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise unwritable(place, error) from error


def write_list(path: Path, keypoints: Keypoints) -> None:
    """A list with one frame on each line."""
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for number, pose in enumerate(keypoints):
            file.write(("[\n" if number == 0 else ",\n") + text_of(pose, keypoints))
        file.write("\n]\n" if len(keypoints) else "[]\n")


def write_folder(path: Path, keypoints: Keypoints) -> None:
    with atomic_folder(path, check_replaceable) as folder:
        for number, pose in enumerate(keypoints):
            text = text_of(pose, keypoints) + "\n"
            (folder / f"{number:012d}_keypoints.json").write_text(text, encoding="utf-8")


def write_npz(path: Path, keypoints: Keypoints) -> None:
    rate = keypoints.frame_rate
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            frames=keypoints.frames,
            size=np.array([keypoints.width, keypoints.height]),
            frame_rate=np.array("" if rate is None else f"{rate.numerator}/{rate.denominator}"),
        )


def text_of(pose: Pose, keypoints: Keypoints) -> str:
    """One frame as JSON on one line. Without any points there are no people."""
    parts = {name: pose[part].ravel().tolist() if pose[part].any() else [] for name, part in PARTS.items()}
    frame: dict[str, Any] = {
        "version": VERSION,
        "people": [{"person_id": [-1], **parts}] if pose.any() else [],
        "canvas_width": keypoints.width,
        "canvas_height": keypoints.height,
    }
    if rate := keypoints.frame_rate:
        frame["frame_rate"] = f"{rate.numerator}/{rate.denominator}"
    return json.dumps(frame, allow_nan=False)


def check_replaceable(path: Path) -> None:
    """Raise OutputError unless `path` is a folder in which all files are of keypoints."""
    other = (
        [entry.name for entry in listed(path) if not FILE_NAME.fullmatch(entry.name)]
        if path.is_dir()
        else ["?"]
    )
    if other:
        reason = f"found {quoted(other[0])} there" if path.is_dir() else "found a file"
        raise OutputError(
            f"{quoted(os.fspath(path))}: expected a new folder or one of keypoints, {reason}; "
            "choose another name"
        )
