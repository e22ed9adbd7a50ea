"""Driving: what drives a clip, a video of a person or a file of keypoints, as drawn skeletons."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain, islice
from math import ceil, floor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from ...engines.model import PoseStyle
from ...errors import ConfigError, InputError
from ...text import quoted
from ..media.frame_range import FrameRange
from ..media.picture import MAX_NAME, Picture, read_picture
from ..media.pose_sequence import (
    DEFAULT_FRAME_RATE,
    PoseSequence,
    PoseSource,
    check_limit,
    checked_rate,
    open_pose,
)
from .alignment import Fit, Mode, fit
from .drawing import draw_all, pose_pictures
from .extraction.extract import Report, extract, open_models
from .extraction.people import Models, Person, check_person
from .formats.reading import ranges, read_keypoints
from .interpolation import at_rate
from .keypoints import Keypoints, Pose
from .smoothing import smooth, smooth_forward

if TYPE_CHECKING:
    from PIL import Image

Smoothing = Literal["both", "forward", "none"]
KEYPOINT_SUFFIXES = {".json", ".npz", ".npy"}

OnFrame = Callable[[int, int | None], None]  # called with frames done and their number, if known


@dataclass(frozen=True, slots=True, kw_only=True)
class Driving:
    """How keypoints are found and fitted to the character.

    align: "bones" gives the skeleton the reference's proportions, "scale" only its size and place, "none"
        leaves it as it is.
    reference_keypoints: the reference's keypoints, as a file; by default they are found in the picture.
    person: which person of a video or file: 0 is the largest, 1 the next, or a point x, y in pixels of the
        first frame.
    smooth: "both" filters forward and backward, without lag; "forward" sees no later frames, for streams.
    models: a pose bundle, or a folder of `animate-rt models fetch`; None is the user's folder.

    Raises ConfigError for values of another kind.
    """

    align: Mode = "bones"
    reference_keypoints: Path | None = None
    person: Person = 0
    smooth: Smoothing = "both"
    models: Path | None = None

    def __post_init__(self) -> None:
        check_person(self.person)
        for name, kind in (("align", Mode), ("smooth", Smoothing)):
            if getattr(self, name) not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise ConfigError(f"{name}: expected one of {known}, found {quoted(getattr(self, name))}")


@dataclass(slots=True)
class DrivingReport:
    """What became of a driving video: its extraction and its fit, None where there was none."""

    extraction: Report | None = None
    fit: Fit | None = None

    def lines(self) -> list[str]:
        """What people should know: frames without the person, somebody chosen anew, uncertain bones."""
        lines, found = [], self.extraction
        if found is not None:
            if found.missing:
                lines.append(
                    f"the person is missing in frames {ranges(found.missing)}; they have no skeleton"
                )
            if found.interpolated:
                lines.append(
                    f"the person was lost in frames {ranges(found.interpolated)}, which are interpolated"
                )
            if len(found.chosen) > 1:
                lines.append(f"a person was chosen anew in frames {ranges(found.chosen[1:])}; look at them")
        if self.fit is not None and self.fit.uncertain:
            bones = ", ".join(self.fit.uncertain)
            lines.append(f"not seen in both driver and reference, so only scaled: {bones}")
        return lines


def open_poses(
    source: PoseSource,
    *,
    reference: Picture | None = None,
    align: Mode | None = None,
    reference_keypoints: str | os.PathLike[str] | None = None,
    person: Person = 0,
    smooth: Smoothing = "both",
    models: str | os.PathLike[str] | None = None,
    style: PoseStyle = "dwpose",
    frames: int | None = None,
    pose_fps: Fraction | float | None = None,
) -> PoseSequence:
    """Open a video of a person, or a keypoint file, as a pose sequence of drawn skeletons.

    `source` is a video, a directory or iterable of pictures with a person in them, or a keypoint file (.json,
    .npz, .npy) or a folder of such files. `reference` is the character's picture. `align` is "bones" by
    default if there is a reference, and else "none". `style` is the bundle's,
    `animator.bundle.manifest.model.pose_style`. `frames` and `pose_fps` are those of `Animator.animate`;
    keypoints are interpolated. The other arguments are those of Driving.

    With align "none" and smooth "forward" or "none", poses are extracted while the sequence is read, so that
    it may be endless. Otherwise they are extracted here.

    Raises ConfigError, InputError or DeviceError.
    """
    mode: Mode = align or ("none" if reference is None and reference_keypoints is None else "bones")
    driving = Driving(
        align=mode,
        reference_keypoints=Path(reference_keypoints) if reference_keypoints else None,
        person=person,
        smooth=smooth,
        models=Path(models) if models else None,
    )
    if mode != "none" and reference is None:
        raise ConfigError(f"align {mode}: expected the reference picture, found none; give `reference`")
    check_limit(frames)
    wanted = None if pose_fps is None else checked_rate(pose_fps)
    if mode == "none" and smooth != "both" and not is_keypoint_source(source) and wanted is None:
        return streamed(open_pose(source, frames), driving, style)
    keypoints = keypoints_of(source, driving, FrameRange(stop=frames, frame_rate=wanted))
    if reference is not None and mode != "none":
        keypoints = fitted(keypoints, reference, driving)
    else:
        keypoints = smoothed(keypoints, driving)
    return pose_pictures(keypoints, style)


def keypoints_of(
    source: PoseSource,
    driving: Driving,
    frames: FrameRange | None = None,
    *,
    size: tuple[int, int] | None = None,
    report: Report | None = None,
    on_frame: OnFrame = lambda _done, _total: None,
) -> Keypoints:
    """The keypoints of the frames of a range, read from a file or extracted from pictures.

    size: of the pictures that a file refers to, if it does not say. Raises InputError if there are no frames.
    """
    frames = frames or FrameRange()
    if is_keypoint_source(source):
        assert isinstance(source, str | os.PathLike)
        found = read_keypoints(source, person=driving.person, size=size)
        rate = found.frame_rate or DEFAULT_FRAME_RATE
        frames = frames.at(rate)
        first, last = source_frames(frames, rate)
        part = replace(found, frames=found.frames[first:last], frame_rate=rate)
    else:
        pictures = open_pose(source, None)
        rate = pictures.frame_rate or DEFAULT_FRAME_RATE
        frames = frames.at(rate)
        first, last = source_frames(frames, rate)
        total = None if pictures.num_frames is None else min(pictures.num_frames, last or 1 << 40) - first
        with closing(open_models(driving.models)) as models:
            chosen = islice(pictures, first, last)
            part = extracted(chosen, models, driving.person, rate, report, total, on_frame)
    if not len(part):
        name = quoted(os.fspath(source), MAX_NAME) if isinstance(source, str | os.PathLike) else "the source"
        raise InputError(f"{name} has no frame {frames.start + 1}: choose an earlier start")
    if frames.frame_rate is None:
        return part
    part = at_rate(part, frames.frame_rate, frames.start * rate / frames.frame_rate - first)
    count = None if frames.stop is None else frames.stop - frames.start
    return replace(part, frames=part.frames[:count])


def source_frames(frames: FrameRange, rate: Fraction) -> tuple[int, int | None]:
    """The first frame of the source that a range needs, and the one to stop before."""
    step = rate / (frames.frame_rate or rate)
    stop = None if frames.stop is None else ceil((frames.stop - 1) * step) + 1
    return floor(frames.start * step), stop


def extracted(
    pictures: Iterable[Image.Image],
    models: Models,
    person: Person,
    frame_rate: Fraction | None,
    report: Report | None = None,
    total: int | None = None,
    on_frame: OnFrame = lambda _done, _total: None,
) -> Keypoints:
    """The keypoints of one person in pictures, in pixels of the first one."""
    sized = Sized(pictures)
    poses: list[Pose] = []
    for pose in extract(sized, models, person=person, report=report):
        poses.append(pose)
        on_frame(len(poses), total)
    frames = np.array(poses) if poses else np.zeros((0, 128, 3))
    width, height = sized.first or (1, 1)
    return Keypoints(frames, width, height, frame_rate)


class Sized:
    """Pictures, all in the size of the first one, which is `first` once it has been read."""

    def __init__(self, pictures: Iterable[Image.Image]):
        self.pictures = pictures
        self.first: tuple[int, int] | None = None

    def __iter__(self) -> Iterator[Image.Image]:
        for picture in self.pictures:
            self.first = self.first or picture.size
            yield picture if picture.size == self.first else picture.resize(self.first)


def smoothed(keypoints: Keypoints, driving: Driving) -> Keypoints:
    if driving.smooth == "none":
        return keypoints
    if driving.smooth == "both":
        return smooth(keypoints)
    rate = keypoints.frame_rate or DEFAULT_FRAME_RATE
    frames = smooth_forward(keypoints, keypoints.width, keypoints.height, rate)
    return replace(keypoints, frames=np.array(list(frames)))


def fitted(
    keypoints: Keypoints,
    reference: Picture,
    driving: Driving,
    report: DrivingReport | None = None,
) -> Keypoints:
    """Smooth the keypoints and align them to a reference picture. Raises InputError."""
    keypoints = smoothed(keypoints, driving)
    if driving.align == "none":
        return keypoints
    found = fit(keypoints, reference_pose(reference, driving), driving.align)
    if report is not None:
        report.fit = found
    return found.apply(keypoints)


def reference_pose(reference: Picture, driving: Driving) -> Keypoints:
    """The keypoints of the reference, in pixels of its picture. Raises InputError if nobody is in it."""
    picture = read_picture(reference)
    if driving.reference_keypoints is not None:
        found = scaled_to(read_keypoints(driving.reference_keypoints, size=picture.size), *picture.size)
        return replace(found, frames=found.frames[:1])
    with closing(open_models(driving.models)) as models:
        found = extracted([picture], models, 0, None)
    if not found.scores.any():
        raise InputError(
            "the reference: expected a person whose skeleton can be found, found none; give its keypoints "
            "(--reference-keypoints), or use --align none"
        )
    return found


def scaled_to(keypoints: Keypoints, width: int, height: int) -> Keypoints:
    """The same keypoints in pixels of a picture of another size."""
    factors = (width / keypoints.width, height / keypoints.height, 1)
    return replace(keypoints, frames=keypoints.frames * factors, width=width, height=height)


def streamed(pictures: PoseSequence, driving: Driving, style: PoseStyle) -> PoseSequence:
    """Skeletons that are extracted while they are read."""
    rate = pictures.frame_rate or DEFAULT_FRAME_RATE

    def read() -> Iterator[Image.Image]:
        with closing(open_models(driving.models)) as models:
            frames = iter(pictures)
            first = next(frames, None)
            if first is None:
                return
            sized = Sized(chain([first], frames))
            poses: Iterable[Pose] = extract(sized, models, person=driving.person)
            if driving.smooth == "forward":
                poses = smooth_forward(poses, *first.size, rate)
            yield from draw_all(poses, *first.size, style)

    return PoseSequence(read, pictures.frame_rate, pictures.num_frames, style)


def is_keypoint_source(source: Any) -> bool:
    """Whether a source is a keypoint file, or a folder that has JSON files."""
    if not isinstance(source, str | os.PathLike):
        return False
    path = Path(os.fsdecode(source))
    if path.is_dir():
        return any(entry.suffix.lower() == ".json" for entry in path.iterdir())
    return path.suffix.lower() in KEYPOINT_SUFFIXES
