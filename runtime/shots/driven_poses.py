"""The poses of a shot: read as they are drawn, or drawn from a driving video whose keypoints are kept.

Another kind of CPU would extract other keypoints, so those of an unfinished shot stay in its partial clip.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...atomic import unwritable
from ...engines.bundle import MANIFEST
from ...engines.files import digest_of, hashed
from ...engines.model import PoseStyle
from ...errors import InputError
from ...text import escaped
from ..clip.progress import Progress, ProgressCallback
from ..media.frame_range import FrameRange
from ..media.notices import notice
from ..media.pose_sequence import DEFAULT_FRAME_RATE, PoseSequence
from ..media.sound import Sound
from ..poses.drawing import pose_pictures
from ..poses.driving import Driving, DrivingReport, fitted, keypoints_of
from ..poses.extraction.extract import Report
from ..poses.formats.reading import read_keypoints
from ..poses.formats.writing import write_keypoints
from ..poses.keypoints import Keypoints
from ..poses.models import MEDIAPIPE, find
from ..poses.sources import driving_pictures, is_keypoint_source, sound_from
from .resume import KEYPOINTS

EXTRACT = "extract"  # the stage of progress


def open_driven(
    source: Path,
    reference: Path,
    driving: Driving,
    frames: FrameRange,
    style: PoseStyle,
    folder: Path,
    progress: ProgressCallback,
) -> PoseSequence:
    """Draw the poses of a driving video. Its keypoints are those in the folder, if it has some.

    Raises InputError, ConfigError, DeviceError or OutputError.
    """
    kept, report = folder / KEYPOINTS, DrivingReport()
    keypoints = read_kept(kept)
    if keypoints is None:
        report.extraction = None if is_keypoint_source(source) else Report()
        keep(kept, found_in(source, driving, frames, report, progress))
        keypoints = read_keypoints(kept)  # of the first process, if several make the shot
    keypoints = fitted(keypoints, reference, driving, report)
    for line in report.lines():
        notice(f"{escaped(str(source))}: {line}")
    return pose_pictures(keypoints, style)


def found_in(
    source: Path, driving: Driving, frames: FrameRange, report: DrivingReport, progress: ProgressCallback
) -> Keypoints:
    def on_frame(done: int, total: int | None) -> None:
        progress(Progress(EXTRACT, done, total))

    keypoints = keypoints_of(source, driving, frames, report=report.extraction, on_frame=on_frame)
    if not keypoints.scores.any():
        raise InputError(
            f"{escaped(str(source))}: expected a person in the driving video, found nobody; choose another "
            "--person or --start, or give keypoints"
        )
    return keypoints


def read_kept(path: Path) -> Keypoints | None:
    with suppress(InputError):
        return read_keypoints(path)
    return None


def has_keypoints(folder: Path) -> bool:
    """Whether a partial clip has keypoints that can be read."""
    return read_kept(folder / KEYPOINTS) is not None


def keep(path: Path, keypoints: Keypoints) -> None:
    """Keep keypoints, unless another process has kept some meanwhile. Raises OutputError."""
    temporary = path.with_name(f"{os.getpid()}.npz")
    try:
        write_keypoints(temporary, keypoints)
        if read_kept(path) is None:
            path.unlink(missing_ok=True)
        with suppress(FileExistsError):
            os.link(temporary, path)
        temporary.unlink()
    except OSError as error:
        raise unwritable(path, error) from error


def check_driven(source: Path, driving: Driving, frames: FrameRange) -> Iterable[Any]:
    """Check what can be known before models are loaded. Raises InputError or BundleError.

    Returns the pictures or the keypoints of the range.
    """
    pictures = driving_pictures(source, frames)
    found = keypoints_of(source, driving, frames) if pictures is None else pictures
    models_digest(source, driving)
    return found


def models_digest(source: Path, driving: Driving) -> str | None:
    """Digest of the models that find keypoints; None if none are needed. Raises InputError or BundleError."""
    needed = driving.align != "none" and driving.reference_keypoints is None
    if is_keypoint_source(source) and not needed:
        return None
    if driving.models is not None and (manifest := driving.models / MANIFEST).is_file():
        return hashed(manifest).file.sha256
    find(MEDIAPIPE, driving.models)
    return digest_of({name: file.sha256 for name, file in MEDIAPIPE.files.items()})


def sound_of(source: Path, frames: FrameRange, *, same_speed: bool) -> Sound | None:
    """The sound of a driving video from the clip's first frame on; None if there is none.

    A clip at another speed has none either.
    """
    pictures = driving_pictures(source, FrameRange())
    if pictures is None:
        return None
    own_rate = pictures.frame_rate or DEFAULT_FRAME_RATE
    sound = sound_from(source, frames.at(own_rate).start / (frames.frame_rate or own_rate))
    if sound and not same_speed:
        notice(f"{escaped(str(source))}: --fps changes the speed: no sound; --pose-fps would keep both")
        return None
    return sound
