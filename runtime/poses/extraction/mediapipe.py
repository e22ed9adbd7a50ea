"""MediaPipe's models: a person detector, and networks that find body, hands and face inside regions.

The networks are read from .tflite files (../models.py) and run by OpenVINO on the CPU. Their inputs are
squares of the picture as float32 (1, pixels, pixels, 3), 0 to 1 for landmarks and -1 to 1 for the detector.
Sizes and factors are those of MediaPipe's holistic graph (mediapipe/modules/holistic_landmark).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import atan2
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ....engines.backends import open_device
from ....engines.cpu.openvino import load_model_file
from ....engines.library_calls import library_call
from ....engines.runner import Runner
from ..keypoints import FACE, LEFT_HAND, RIGHT_HAND, Pose
from ..layouts import FACE_OF_MESH, MEDIAPIPE_33
from ..models import MEDIAPIPE, find
from .models import Candidate, Estimate
from .region import Points, Region, distance

if TYPE_CHECKING:
    from PIL.Image import Image

Array = NDArray[Any]
Crop = Callable[[Region, "Image", int], NDArray[np.uint8]]

PERSON, PRESENT = 0.5, 0.5  # least score of a detection, and of a body, hand or face in its region
WRIST = 0.1  # least score of a wrist for the hand to be looked for
OVERLAP = 0.3  # two detections that overlap more (IoU) are of one person
STRIDES = (8, 16, 32, 32, 32)  # of the detector's grids; each has two anchors per cell
BODY_MARGIN, HAND_MARGIN, FACE_MARGIN = 1.25, 2.7, 1.5
HEAD_MARGIN = 2.0  # from the body's points of the head to the face's region
HIGHER = -0.1  # a hand's region is moved towards the fingers
# Of the 33 points of the body: [wrist, little finger, index finger].
LEFT_PALM, RIGHT_PALM = [15, 17, 19], [16, 18, 20]
NOSE, LEFT_EYE, RIGHT_EYE, HEAD = 0, 2, 5, slice(0, 11)
CENTRE, TOP = 33, 34  # two more points, which say where the body's region is
# Of the 468 points of the face; corners of eyes: [outer, inner].
NOSE_TIP, LEFT_CORNERS, RIGHT_CORNERS = 4, [263, 362], [33, 133]


class MediaPipe:
    """The models, loaded on the CPU. `folder` holds model sets; None is the user's cache folder.

    Raises InputMissing or InputError unless all models are there, DeviceError without OpenVINO. Close it when
    it is no longer needed.
    """

    def __init__(self, folder: Path | None = None):
        path = find(MEDIAPIPE, folder)
        self.device = open_device("openvino")

        def network(name: str, **options: Any) -> Network:
            with library_call():
                engine = load_model_file(path / f"{name}.tflite")
                return Network(Runner(engine, self.device, name), **options)

        self.detector = network("pose_detection", black=-1.0, crop=Region.crop)
        self.body = network("pose_landmark_full")
        self.palm = network("hand_recrop")
        self.hand = network("hand_landmark_full")
        self.face = network("face_landmark")
        self.anchors = anchors(self.detector.pixels)

    def close(self) -> None:
        self.device.close()

    def detect(self, picture: Image) -> list[Candidate]:
        """Everyone whom the detector finds, as bodies without hands and face."""
        width, height = picture.size
        whole = Region(width / 2, height / 2, max(width, height), 0.0)
        boxes, logits = self.detector(picture, whole)
        candidates = []
        for person in detections(boxes[0], logits[0, :, 0], self.anchors, self.detector.pixels):
            centre, top = whole.to_picture(person)
            points, score, region = self._body(picture, body_region(centre, top))
            if score >= PRESENT:
                candidates.append(Candidate(body_pose(points, picture.size), score, region))
        return candidates

    def estimate(self, picture: Image, region: Region) -> Estimate | None:
        """The pose of the person in a region, or None if there is nobody."""
        points, score, following = self._body(picture, region)
        if score < PRESENT:
            return None
        following = following.steadied(region)
        face = self._face(picture, points)
        if face[0, 2]:  # it places these three better than the body's network does
            points[NOSE, :2] = face[NOSE_TIP, :2]
            points[RIGHT_EYE, :2] = face[RIGHT_CORNERS, :2].mean(axis=0)
            points[LEFT_EYE, :2] = face[LEFT_CORNERS, :2].mean(axis=0)
        pose = body_pose(points, picture.size)
        pose[LEFT_HAND] = inside(self._hand(picture, points[LEFT_PALM]), picture.size)
        pose[RIGHT_HAND] = inside(self._hand(picture, points[RIGHT_PALM]), picture.size)
        pose[FACE] = inside(face[FACE_OF_MESH, :], picture.size)
        return Estimate(pose, following)

    def _body(self, picture: Image, region: Region) -> tuple[Points, float, Region]:
        """The 33 points of a body with scores, the score that a person is there, and the person's region."""
        if not region.is_sensible(picture):
            return np.zeros((CENTRE, 3)), 0.0, region
        landmarks, presence, *_ = self.body(picture, region)
        found = landmarks.reshape(-1, 5)  # x, y, z, visibility, presence
        points = region.to_picture(found[:, :2] / self.body.pixels)
        scores = sigmoid(found[:CENTRE, 3])
        return (
            np.column_stack([points[:CENTRE], scores]),
            float(presence.item()),
            body_region(points[CENTRE], points[TOP]),
        )

    def _hand(self, picture: Image, palm: Points) -> Pose:
        """The 21 points of a hand from [wrist, little finger, index finger] of the body."""
        (wrist, little, index), missing = palm[:, :2], np.zeros((21, 3))
        if palm[0, 2] < WRIST:
            return missing
        middle = (2 * index + little) / 3
        region = Region.between(middle, 2 * middle - wrist, 2 * distance(middle, wrist))
        region = region.moved(HIGHER).scaled(HAND_MARGIN)
        (square,) = self.palm(picture, region)
        centre, below = region.to_picture(square.reshape(2, 2) / self.palm.pixels)
        region = Region.between(centre, 2 * centre - below, 2 * distance(centre, below)).moved(HIGHER)
        landmarks, presence, *_ = self.hand(picture, region)
        if (score := float(presence.item())) < PRESENT:
            return missing
        points = region.to_picture(landmarks.reshape(21, 3)[:, :2] / self.hand.pixels)
        return np.column_stack([points, np.full(21, score)])

    def _face(self, picture: Image, body: Points) -> Points:
        """The 468 points of the face mesh from the 33 points of the body, (468, 3) with scores."""
        region = face_region(body[HEAD, :2], body[RIGHT_EYE], body[LEFT_EYE], HEAD_MARGIN)
        for _ in range(2):  # once to find the face, and once in a region that fits it
            landmarks, presence = self.face(picture, region)
            mesh = region.to_picture(landmarks.reshape(-1, 3)[:, :2] / self.face.pixels)
            region = face_region(mesh, mesh[RIGHT_CORNERS[0]], mesh[LEFT_CORNERS[0]], FACE_MARGIN)
        score = float(sigmoid(presence).item())
        return np.column_stack([mesh, np.full(len(mesh), score if score >= PRESENT else 0)])


class Network:
    """One network, which sees squares of the picture. Black is `black` in its input, white is 1."""

    def __init__(self, runner: Runner, *, black: float = 0.0, crop: Crop = Region.extended_crop):
        self.runner, self.black, self.crop = runner, black, crop
        (self.input,) = runner.contract.inputs
        self.pixels = self.input.shape[1]

    def __call__(self, picture: Image, region: Region) -> list[Array]:
        """The outputs for one region, in the order of the network."""
        square = self.crop(region, picture, self.pixels) * np.float32((1 - self.black) / 255)
        return list(self.runner({self.input.name: square + np.float32(self.black)}).values())


def body_region(centre: Any, top: Any) -> Region:
    """The region of a body from its centre and a point on the circle around it, above its centre."""
    return Region.between(centre, top, 2 * distance(centre, top)).scaled(BODY_MARGIN)


def face_region(points: Points, right_eye: Any, left_eye: Any, margin: float) -> Region:
    """The region of a face, level with its eyes."""
    x, y = left_eye[:2] - right_eye[:2]
    return Region.around(points, atan2(y, x)).scaled(margin)


def body_pose(points: Points, size: tuple[int, int]) -> Pose:
    """The pose of 33 points. Points outside the picture are guesses, so they are missing."""
    return MEDIAPIPE_33.pose(inside(points, size))


def inside(points: Points, size: tuple[int, int]) -> Points:
    """The points, with those outside a picture of this size, and those of score 0, set to zeros."""
    x, y, score = points.T
    return np.where(((score > 0) & (x >= 0) & (x < size[0]) & (y >= 0) & (y < size[1]))[:, None], points, 0)


def anchors(pixels: int) -> Points:
    """Centres of the detector's anchors in the order of its output, as fractions of the picture, (n, 2)."""
    grids = []
    for stride, layers in Counter(STRIDES).items():
        cells = pixels // stride
        y, x = (np.mgrid[:cells, :cells] + 0.5) / cells
        grids.append(np.repeat(np.column_stack([x.ravel(), y.ravel()]), 2 * layers, axis=0))
    return np.concatenate(grids)


def detections(boxes: Array, logits: Array, anchors: Points, pixels: int) -> list[Points]:
    """Centre and upper point of the body of each detected person, as fractions of the picture, (2, 2).

    boxes: (n, 12) of each anchor: centre, width and height of the head's box, and four points, in pixels from
    the anchor. Those of one person are averaged, weighted by their scores.
    """
    scores = sigmoid(logits)
    order = [i for i in np.argsort(-scores) if scores[i] >= PERSON]
    values = boxes.astype(np.float64) / pixels
    centres, sizes = values[:, :2] + anchors, values[:, 2:4]
    corners = np.hstack([centres - sizes / 2, centres + sizes / 2])
    people = []
    while order:
        first = order[0]
        same = [i for i in order if i == first or overlap(corners[i], corners[first]) > OVERLAP]
        points = values[same, 4:8].reshape(-1, 2, 2) + anchors[same, None]
        people.append(np.average(points, axis=0, weights=scores[same]))
        order = [i for i in order if i not in same]
    return people


def overlap(one: Array, other: Array) -> float:
    """Intersection over union of two boxes of left, top, right, bottom."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    common = float(sides.clip(0).prod())
    union = float((one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod()) - common
    return common / union if union > 0 else 0.0


def sigmoid(values: Array) -> Array:
    scores: Array = 1 / (1 + np.exp(-values.astype(np.float64).clip(-100, 100)))
    return scores
