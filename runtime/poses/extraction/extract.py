"""Extraction: one person followed through a video, frame by frame.

The person is detected once. After that the models look where the person was in the frame before, and people
are detected again only when nobody is found there, when the pose has jumped, or after a cut. A person who is
lost for a few frames and found again nearby is interpolated; other frames without the person are missing.
Frames at which somebody was chosen anew are in the report, so no change to another person goes unnoticed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ....engines.bundle import MANIFEST
from ..gaps import MAX_LOST, Gaps, filled
from ..keypoints import Pose
from ..people import REACH, STEP, Person, check_person, chosen, movement
from .models import Candidate, Models

if TYPE_CHECKING:
    from PIL.Image import Image

Picture = NDArray[np.uint8]

GRID = (32, 18)  # the picture is averaged to about this size to find cuts
CUT = 24.0  # least mean difference of two frames' averages, of 255, that is a cut


@dataclass(slots=True)
class Report(Gaps):
    """What happened during extraction. Frames are counted from 0.

    chosen: frames at which a person was chosen: the first one, and again after a loss or a cut.
    cuts: frames that look like the first of another scene.
    detections: frames in which people were detected; in the others the person was followed.
    most_people: the most people detected in one frame.
    seconds: time spent, without that of the frames' source.
    """

    frames: int = 0
    chosen: list[int] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    detections: int = 0
    most_people: int = 0
    seconds: float = 0.0


def extract(
    frames: Iterable[Picture | Image],
    models: Models,
    *,
    person: Person = 0,
    report: Report | None = None,
) -> Iterator[Pose]:
    """Yield the pose of one person for each frame, all zeros where the person is missing.

    frames: RGB pictures, uint8 (height, width, 3) or PIL's. person: an index by size, 0 is the largest, or a
    point x, y of the first frame in pixels; it is applied again when somebody is chosen anew. The report is
    filled in while the poses are taken.

    Poses leave in order, at most MAX_LOST frames after their frame was read. Raises ConfigError for an
    impossible `person`, at once, and DeviceError.
    """
    check_person(person)
    report = Report() if report is None else report
    return filled(Follower(models, person, report).poses(frames), report, report.chosen)


def open_models(path: Path | None = None) -> Models:
    """Load the models in a pose bundle, or MediaPipe's in a folder of model sets; None is the user's folder.

    Raises InputMissing or InputError unless the models are there, BundleError for a bundle that cannot be
    used, DeviceError.
    """
    if path is not None and os.path.lexists(path / MANIFEST):
        from .wholebody import WholeBody

        return WholeBody(path)
    from .mediapipe import MediaPipe

    return MediaPipe(path)


class Follower:
    """Follows one person. `seen` is the last pose that was found, `lost` counts the frames since then."""

    def __init__(self, models: Models, person: Person, report: Report):
        self.models, self.person, self.report = models, person, report
        self.seen: Pose | None = None
        self.region: Any = None
        self.lost = 0
        self.average: NDArray[np.float32] | None = None

    def poses(self, frames: Iterable[Picture | Image]) -> Iterator[Pose | None]:
        """For each frame the person's pose, or None."""
        from PIL import Image

        for frame in frames:
            began = perf_counter()
            picture = frame if isinstance(frame, Image.Image) else Image.fromarray(frame)
            pose = self.pose(picture)
            self.report.frames += 1
            self.report.seconds += perf_counter() - began
            yield pose

    def pose(self, picture: Image) -> Pose | None:
        report, number = self.report, self.report.frames
        cut = self.is_cut(picture)
        if cut:
            report.cuts.append(number)
        elif self.region is not None and (pose := self.found_in(picture, self.region, STEP)) is not None:
            return pose
        candidates = self.models.detect(picture)
        report.detections += 1
        report.most_people = max(report.most_people, len(candidates))
        pose = self.found_again(picture, candidates)
        if pose is not None and self.lost <= MAX_LOST:
            self.lost = 0
            return pose
        if pose is None and (self.seen is None or cut or self.lost >= MAX_LOST):
            person = chosen(candidates, self.person)
            pose = self.found_in(picture, person.region, inf) if person else None
        if pose is not None:
            report.chosen.append(number)
            self.lost = 0
            return pose
        self.lost += 1
        self.region = None
        return None

    def found_in(self, picture: Image, region: Any, reach: float) -> Pose | None:
        """The pose in a region, if it is near enough to the one that was seen before, or if none was."""
        estimate = self.models.estimate(picture, region)
        if estimate is None or (self.seen is not None and movement(self.seen, estimate.pose) > reach):
            return None
        self.seen, self.region = estimate
        return estimate.pose

    def found_again(self, picture: Image, candidates: list[Candidate]) -> Pose | None:
        """The pose of the candidate who is nearest to where the person was last seen, if that is near."""
        if self.seen is None or not candidates:
            return None
        seen = self.seen
        nearest = min(candidates, key=lambda each: movement(seen, each.pose))
        return self.found_in(picture, nearest.region, REACH)

    def is_cut(self, picture: Image) -> bool:
        """Whether the picture differs from the one before as a whole."""
        width, height = picture.size
        factors = max(1, width // GRID[0]), max(1, height // GRID[1])
        before, self.average = self.average, np.asarray(picture.reduce(factors), np.float32)
        if before is None:
            return False
        return before.shape != self.average.shape or float(np.abs(before - self.average).mean()) > CUT
