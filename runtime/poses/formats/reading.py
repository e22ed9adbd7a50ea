"""Reading keypoint files of many tools. What a file is, is told from its content, not from its name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ....engines.files import read_bytes
from ....errors import InputError, InputMissing
from ....text import message_of, one_line, quoted
from ...media.folder import pictures
from ...media.notices import notice
from ...media.picture import MAX_NAME
from ..following import Found, Trail, follow
from ..keypoints import Keypoints
from ..people import Person
from . import coco, mediapipe, openpose
from .arrays import MAX_ARRAY, NPY, NPZ, PICKLES, REFUSED, read_npy, read_npz
from .document import MAX_BYTES, MAX_FRAMES, MAX_POSES, Recording, Size, one_size, parse, picture_size
from .units import to_pixels

MAX_FRAME_BYTES = 8 << 20  # of a file that holds one frame
# Names under which objects hold the list of frames.
LISTS = "frames", "instance_info", "poses"
FORMATS = (
    "OpenPose's or ControlNet's JSON, results of COCO, MMPose or AlphaPose, MediaPipe's landmarks, "
    "our .npz or a .npy array"
)


def read_keypoints(
    path: str | os.PathLike[str], *, person: Person = 0, size: Size | None = None
) -> Keypoints:
    """Read the keypoints of one person from a file, or from a folder with a JSON file for each frame.

    person: which one, if there are several: 0 is the largest by score times area in the first frame that has
    people, 1 the next; or a point x, y of that frame in pixels. This person is followed; see following.py.
    Frames in which the person is missing are zeros, and a warning names them. Our .npz has one person, who is
    taken as written.

    size: width and height in pixels of the pictures, for files that do not state it.

    Raises InputMissing, or InputError if the file cannot be used.
    """
    place = Path(os.fsdecode(path))
    name = quoted(os.fspath(place), MAX_NAME)
    if size is not None:
        picture_size(*size, "size")
    try:
        found = read_folder(place) if place.is_dir() else read_file(place)
        return found if isinstance(found, Keypoints) else keypoints(found, person, size, name)
    except FileNotFoundError as error:
        raise InputMissing(f"{name}: expected keypoints, found nothing there; check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", None) or one_line(message_of(error))
        raise InputError(f"{name}: cannot read these keypoints: {reason}") from error
    except InputError as error:
        raise type(error)(f"{name}: {error}") from error


def keypoints(recording: Recording, person: Person, size: Size | None, name: str) -> Keypoints:
    """One person of a recording."""
    if not any(recording.frames):
        raise InputError(f"expected people, found none in {len(recording.frames)} frames")
    width, height = to_pixels(recording, size)
    for note in recording.notes:
        notice(f"{name}: {note}")
    frames, trail = follow(with_usable_tracks(recording.frames), person)
    report(trail, name)
    return Keypoints(frames, width, height, recording.frame_rate)


def with_usable_tracks(frames: list[list[Found]]) -> list[list[Found]]:
    """The frames, without the numbers of tracks unless all people of a frame have different ones."""
    tracks = [[found.track for found in people if found.track is not None] for people in frames]
    if all(len(set(listed)) == len(people) for listed, people in zip(tracks, frames, strict=True)):
        return frames
    return [[Found(found.pose) for found in people] for people in frames]


def report(trail: Trail, name: str) -> None:
    if trail.missing:
        notice(f"{name}: the person is not in frames {ranges(trail.missing)}; nothing is drawn there")
    if trail.interpolated:
        notice(f"{name}: the person is not in frames {ranges(trail.interpolated)}; interpolated")
    if trail.jumped:
        notice(
            f"{name}: the only person of frames {ranges(trail.jumped)} is far from where the person was "
            "before; taken for the same"
        )


def ranges(indices: list[int]) -> str:
    """Frames for people, who count from 1: 3-5, 9 for the indices 2, 3, 4, 8. At most ten ranges."""
    found: list[list[int]] = []
    for number in (index + 1 for index in indices):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    shown = [f"{first}-{last}" if last > first else f"{first}" for first, last in found[:10]]
    return ", ".join(shown) + (f" and {len(found) - 10} more ranges" if len(found) > 10 else "")


def read_folder(folder: Path) -> Recording:
    """The frames of a folder's JSON files in natural order."""
    files = pictures(folder, {".json"})
    if not files:
        raise InputError("expected a folder of JSON files with keypoints, one for each frame, found none")
    if len(files) > MAX_FRAMES:
        raise InputError(f"expected at most {MAX_FRAMES} files, found {len(files)}")
    whole = Recording()
    sizes, rates, num_poses = set(), set(), 0
    for file in files:
        try:
            recording = recognised(parse(read_bytes(file, MAX_FRAME_BYTES)))
            if len(recording.frames) != 1:
                raise InputError(f"expected one frame, found {len(recording.frames)}")
        except InputError as error:
            raise InputError(f"{quoted(file.name)}: {error}") from error
        whole.frames += recording.frames
        whole.notes |= recording.notes
        num_poses += len(recording.frames[0])
        if num_poses > MAX_POSES:
            raise InputError(f"expected at most {MAX_POSES} poses, found more")
        sizes |= {recording.size} if recording.size else set()
        rates.add(recording.frame_rate)
    whole.size = one_size(sizes, "the files")
    whole.frame_rate = rates.pop() if len(rates) == 1 else None
    return whole


def read_file(path: Path) -> Recording | Keypoints:
    """The content of a file; our own .npz has one person already."""
    limit = max(MAX_ARRAY, MAX_BYTES)
    content = read_bytes(path, limit)
    if content.startswith(NPZ):
        return read_npz(content)
    if content.startswith(NPY):
        return read_npy(content)
    if content.startswith(PICKLES):
        raise InputError(REFUSED)
    if len(content) > MAX_BYTES:
        raise InputError(f"expected at most {MAX_BYTES >> 20} MiB of JSON, found {len(content) >> 20}")
    if content.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] not in (b"{", b"[") and b"\0" not in content[:4]:
        raise InputError(f"expected {FORMATS}, found something else")
    return recognised(parse(content))


def recognised(document: Any) -> Recording:
    """Read a JSON document of any of the formats. Raises InputError."""
    if isinstance(document, dict):
        if isinstance(document.get("annotations"), list) and document["annotations"]:
            return checked(coco.read_annotations(document))
        wrapped = next((document[name] for name in LISTS if isinstance(document.get(name), list)), None)
        frames = [document] if wrapped is None else wrapped
    else:
        frames = document
    if not isinstance(frames, list):
        raise InputError(f"expected {FORMATS}, found {quoted(frames)}")
    if len(frames) > MAX_POSES:
        raise InputError(f"expected at most {MAX_FRAMES} frames and {MAX_POSES} poses, found {len(frames)}")
    if frames and all(isinstance(frame, list) and len(frame) == 33 for frame in frames):
        frames = [{"landmarks": frame} for frame in frames]
    for frame in frames:
        for form in (openpose, coco, mediapipe):
            if isinstance(frame, dict) and form.is_frame(frame):
                return checked(form.read(frames))
    raise InputError(f"expected {FORMATS}, found {'an empty list' if frames == [] else quoted(frames[0])}")


def checked(recording: Recording) -> Recording:
    if len(recording.frames) > MAX_FRAMES:
        raise InputError(f"expected at most {MAX_FRAMES} frames, found {len(recording.frames)}")
    if sum(map(len, recording.frames)) > MAX_POSES:
        raise InputError(f"expected at most {MAX_POSES} poses in all frames, found more")
    return recording
