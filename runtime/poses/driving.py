"""Driving: what drives a clip, a video of a person or a file of keypoints, as drawn skeletons."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

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
)
from .alignment import Fit, Mode, fit
from .drawing import draw_all, pose_pictures
from .extraction.extract import Report, extract, open_models
from .formats.reading import ranges, read_keypoints
from .interpolation import at_rate
from .keypoints import Keypoints, Pose
from .people import Person, check_person
from .smoothing import smooth, smooth_forward
from .sources import OnFrame, Sized, extracted, is_keypoint_source, open_driver, source_frames

if TYPE_CHECKING:
    from PIL import Image

Smoothing = Literal["both", "forward", "none"]


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
    source: PoseSource | Keypoints,
    *,
    reference: Picture | None = None,
    align: Mode | None = None,
    reference_keypoints: str | os.PathLike[str] | Keypoints | None = None,
    person: Person = 0,
    smooth: Smoothing = "both",
    models: str | os.PathLike[str] | None = None,
    style: PoseStyle = "dwpose",
    frames: int | None = None,
    pose_fps: Fraction | float | None = None,
) -> PoseSequence:
    """Open a video of a person, or keypoints, as a pose sequence of drawn skeletons.

    source: a video, a picture, a directory or iterable of pictures with a person in them; a keypoint file
        (.json, .npz, .npy) or a folder of such files; or Keypoints. Pictures of an iterable are those of
        `Animator.animate`: paths, PIL images or uint8 arrays (height, width, 3).
    reference: the character's picture. reference_keypoints: the keypoints in it, of one frame, which are
        otherwise found by the models.
    align: fits the skeleton to the character as in Driving. By default "bones" if there is a reference, and
        else "none".
    person, smooth, models: as in Driving.
    style: the tool whose skeletons the weights know: "dwpose" or "musepose". Give the bundle's,
        `animator.bundle.manifest.model.pose_style`.
    frames: the most frames that are used. pose_fps: another rate in frames per second; keypoints are
        interpolated.

    The sequence gives one RGB picture for each frame. A skeleton that is fitted to a reference has the
    reference's aspect ratio, and else the source's; its shorter side has 512 pixels for dwpose and 768 for
    musepose, before sides are rounded to the tool's multiple of 64. `frame_rate` is the source's or
    `pose_fps`, and 24 for pictures without one.

    With align "none" and smooth "forward" or "none", poses are extracted while the sequence is read, so that
    it may be endless. Otherwise they are extracted here.

    Raises ConfigError for an option that cannot be used, InputMissing for a source or models that are not
    there, InputError for a source that cannot be read or has no frames or a reference without a person,
    BundleError for models that cannot be used, and DeviceError. Reading the sequence raises the same.
    """
    has_reference = reference is not None or reference_keypoints is not None
    mode: Mode = align or ("bones" if has_reference else "none")
    given = path = None
    if isinstance(reference_keypoints, Keypoints):
        given = reference_keypoints
    elif reference_keypoints:
        path = Path(os.fsdecode(reference_keypoints))
    driving = Driving(
        align=mode,
        reference_keypoints=path,
        person=person,
        smooth=smooth,
        models=Path(models) if models else None,
    )
    if mode != "none" and reference is None:
        raise ConfigError(f"align {mode}: expected the reference picture, found none; give `reference`")
    check_limit(frames)
    wanted = None if pose_fps is None else checked_rate(pose_fps)
    if mode == "none" and smooth != "both" and not is_keypoint_source(source) and wanted is None:
        return streamed(open_driver(source, frames), driving, style)
    keypoints = keypoints_of(source, driving, FrameRange(stop=frames, frame_rate=wanted))
    if reference is not None and mode != "none":
        keypoints = fitted(keypoints, reference, driving, reference_keypoints=given)
    else:
        keypoints = smoothed(keypoints, driving)
    return pose_pictures(keypoints, style)


def keypoints_of(
    source: PoseSource | Keypoints,
    driving: Driving,
    frames: FrameRange | None = None,
    *,
    size: tuple[int, int] | None = None,
    report: Report | None = None,
    on_frame: OnFrame = lambda _done, _total: None,
) -> Keypoints:
    """The keypoints of the frames of a range: given, read from a file, or extracted from pictures.

    size: of the pictures that a file refers to, if it does not say. Raises InputError if there are no frames.
    """
    frames = frames or FrameRange()
    if is_keypoint_source(source):
        found = source
        if not isinstance(found, Keypoints):
            assert isinstance(found, str | os.PathLike)
            found = read_keypoints(found, person=driving.person, size=size)
        rate = found.frame_rate or DEFAULT_FRAME_RATE
        frames = frames.at(rate)
        first, last = source_frames(frames, rate)
        part = replace(found, frames=found.frames[first:last], frame_rate=rate)
    else:
        pictures = open_driver(source)
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
    *,
    reference_keypoints: Keypoints | None = None,
) -> Keypoints:
    """Smooth the keypoints and align them to a reference picture. Raises InputError.

    reference_keypoints: those of the reference, if they are neither in a file nor to be found by the models.
    """
    keypoints = smoothed(keypoints, driving)
    if driving.align == "none":
        return keypoints
    found = fit(keypoints, reference_pose(reference, driving, reference_keypoints), driving.align)
    if report is not None:
        report.fit = found
    return found.apply(keypoints)


def reference_pose(reference: Picture, driving: Driving, given: Keypoints | None = None) -> Keypoints:
    """The keypoints of the reference, in pixels of its picture. Raises InputError if nobody is in it."""
    picture = read_picture(reference)
    if given is None and driving.reference_keypoints is not None:
        given = read_keypoints(driving.reference_keypoints, size=picture.size)
    if given is not None:
        found = scaled_to(given, *picture.size)
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

    return PoseSequence(read, rate, pictures.num_frames, style)
