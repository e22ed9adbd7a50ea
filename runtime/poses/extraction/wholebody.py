"""A YOLOX detector and a whole-body network of 133 points, from a pose bundle, on the bundle's device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ....engines.backends import load_engine, open_device
from ....engines.library_calls import library_call
from ....engines.pose_bundle import DETECTOR, LANDMARKS, open_pose_bundle
from ....engines.runner import Runner
from ..keypoints import BODY, VISIBLE, Pose
from ..layouts import WHOLEBODY_133
from .models import Candidate, Estimate
from .person_crop import PersonCrop, bgr_input, heatmap_points, rgb_input, simcc_points
from .yolox import Box, letterboxed, people

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PEOPLE = 10  # of one picture, the most certain ones
MIN_POINTS = 3  # visible ones of a body
GROWTH = 1.25  # from the points of a person to the person's box in the next picture


class WholeBody:
    """The networks of a pose bundle, loaded. Close it when it is no longer needed.

    Raises InputMissing, BundleError or DeviceError.
    """

    def __init__(self, path: Path):
        bundle = open_pose_bundle(path)
        self.networks = bundle.manifest.networks
        self.device = open_device(bundle.manifest.backend)
        self.device.activate()

        def network(graph: str) -> Runner:
            with library_call():
                return Runner(load_engine(bundle, graph, self.device), self.device, graph)

        self.detector, self.landmarks = network(DETECTOR), network(LANDMARKS)

    def close(self) -> None:
        self.device.close()

    def detect(self, picture: Image) -> list[Candidate]:
        """Everyone whom the detector finds. If it finds nobody, the whole picture is looked at."""
        self.device.activate()
        side = self.networks.detector_side
        array, factor = letterboxed(picture, side)
        (output,) = self.detector({"picture": array}).values()
        found = people(output[0], side, factor)[:MAX_PEOPLE]
        boxes = [box for box, _score in found] or [Box(0, 0, *map(float, picture.size))]
        candidates = []
        for box in boxes:
            pose = self._pose(picture, box)
            if is_somebody(pose):
                candidates.append(Candidate(pose, float(pose[BODY, 2].mean()), box))
        return candidates

    def estimate(self, picture: Image, region: Box) -> Estimate | None:
        """The pose of the person in a box, or None if there is nobody."""
        self.device.activate()
        pose = self._pose(picture, region)
        return Estimate(pose, box_around(pose)) if is_somebody(pose) else None

    def _pose(self, picture: Image, box: Box) -> Pose:
        networks = self.networks
        crop = PersonCrop.around(box, (networks.width, networks.height))
        if networks.kind == "simcc":
            found = self.landmarks({"person": bgr_input(crop.picture(picture))})
            points = simcc_points(found["simcc_x"][0], found["simcc_y"][0])
        else:
            found = self.landmarks({"person": rgb_input(crop.picture(picture))})
            points = heatmap_points(found["heatmaps"][0])
        there = points[:, 2] > 0
        points[there, :2] = crop.to_picture(points[there, :2])
        return WHOLEBODY_133.pose(points)


def is_somebody(pose: Pose) -> bool:
    return int((pose[BODY, 2] > VISIBLE).sum()) >= MIN_POINTS


def box_around(pose: Pose) -> Box:
    """The box of a person from the visible points."""
    points = pose[pose[:, 2] > VISIBLE, :2]
    low, high = points.min(axis=0), points.max(axis=0)
    middle, half = (low + high) / 2, GROWTH * np.maximum(high - low, 1) / 2
    return Box(*map(float, (*(middle - half), *(middle + half))))
