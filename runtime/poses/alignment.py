"""Fitting the skeleton of a driving person to the person in the reference picture.

The proportions are measured once and stay the same for the whole clip, so alignment adds no jitter. A bone is
certain in a frame if the scores of both its ends are above 0.5. Its ratio is its length in the reference,
divided by the median of its lengths in the driving frames in which it is certain; there must be three, or all
frames of a shorter clip. Both lengths are sums of left and right, as far as they are certain in both. The
overall scale is the median of these ratios, so neither the size of the driving video nor one wrong bone
decides it. A ratio is limited to between half and twice the overall scale. A bone without a certain ratio
takes the overall scale.

A fitted frame has the driving person's angles and the new lengths. It is built from the neck outwards. Eyes,
ears and face are scaled as one piece around the nose, each hand around its wrist. A joint that is not certain
in a frame still carries the joints beyond it: its position is interpolated from other frames.

Then the whole frame is moved. The anchor (the feet if the ankles are certain, else the neck) takes the
position that it has in the driving video, times the overall scale, plus one translation for the whole clip.
Feet that stand still in the driving video therefore stand still in the result, even if the legs change their
lengths. The translation is chosen so that the clip begins with the anchor where it is in the reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, InputError
from ...text import quoted
from .keypoints import (
    FACE,
    LEFT_ANKLE,
    LEFT_EAR,
    LEFT_ELBOW,
    LEFT_EYE,
    LEFT_HAND,
    LEFT_HIP,
    LEFT_KNEE,
    LEFT_SHOULDER,
    LEFT_WRIST,
    NECK,
    NOSE,
    RIGHT_ANKLE,
    RIGHT_EAR,
    RIGHT_ELBOW,
    RIGHT_EYE,
    RIGHT_HAND,
    RIGHT_HIP,
    RIGHT_KNEE,
    RIGHT_SHOULDER,
    RIGHT_WRIST,
    Keypoints,
)

Mode: TypeAlias = Literal["none", "scale", "bones"]
Array: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]

CERTAIN = 0.5  # the score that a point must exceed to be measured
LIMITS = (0.5, 2.0)  # of a ratio, relative to the overall scale
MEASURED = 3  # frames in which a bone must be certain, so that one wrong frame does not decide its length
SHORTEST = 1 / 1000  # a bone shorter than this part of the picture's shorter side is not measured

# Every bone as pairs of points. Those of the skeleton are listed from the neck outwards: (parent, joint).
SKELETON = {
    "head": ((NECK, NOSE),),
    "shoulder": ((NECK, RIGHT_SHOULDER), (NECK, LEFT_SHOULDER)),
    "upper arm": ((RIGHT_SHOULDER, RIGHT_ELBOW), (LEFT_SHOULDER, LEFT_ELBOW)),
    "forearm": ((RIGHT_ELBOW, RIGHT_WRIST), (LEFT_ELBOW, LEFT_WRIST)),
    "torso": ((NECK, RIGHT_HIP), (NECK, LEFT_HIP)),
    "thigh": ((RIGHT_HIP, RIGHT_KNEE), (LEFT_HIP, LEFT_KNEE)),
    "shin": ((RIGHT_KNEE, RIGHT_ANKLE), (LEFT_KNEE, LEFT_ANKLE)),
}
BRIDGE, CHIN, KNUCKLE = 27, 8, 9  # top of the nose, middle of the jaw; root of the middle finger
BONES = SKELETON | {
    "face": (
        (NOSE, RIGHT_EYE),
        (NOSE, LEFT_EYE),
        (RIGHT_EYE, RIGHT_EAR),
        (LEFT_EYE, LEFT_EAR),
        (FACE.start + BRIDGE, FACE.start + CHIN),
    ),
    "hand": ((RIGHT_HAND.start, RIGHT_HAND.start + KNUCKLE), (LEFT_HAND.start, LEFT_HAND.start + KNUCKLE)),
}
RIGID = (  # a bone's ratio, the joint around which it scales, and the points that it scales
    ("face", NOSE, slice(RIGHT_EYE, LEFT_EAR + 1)),
    ("face", NOSE, FACE),
    ("hand", RIGHT_WRIST, RIGHT_HAND),
    ("hand", LEFT_WRIST, LEFT_HAND),
)
NUM_JOINTS = LEFT_ANKLE + 1  # of the skeleton; eyes and ears follow

ANCHORS = {  # in order of preference
    "feet": (RIGHT_ANKLE, LEFT_ANKLE),
    "neck": (NECK,),
    "nose": (NOSE,),
    "hips": (RIGHT_HIP, LEFT_HIP),
}
BEGINNING = 5  # frames that must agree about where a clip begins


def align(driver: Keypoints, reference: Keypoints, mode: Mode = "bones") -> Keypoints:
    """The driver's poses, fitted to the person of the reference.

    reference: one frame, in the pixels of the reference picture.
    mode: "bones" changes the length of each bone as described above; "scale" applies the overall scale to all
        of them; "none" returns the driver as it is.

    The result is in pixels of the reference picture and has the driver's scores and frame rate. Missing
    points stay missing. If the reference is the driver's first frame and no bone changes its length in the
    picture, nothing changes.

    Raises InputError if no bone or no anchor is certain in both, or if the reference does not have exactly
    one frame; ConfigError for an unknown mode.
    """
    if mode == "none":
        return driver
    return fit(driver, reference, mode).apply(driver)


@dataclass(frozen=True, slots=True)
class Fit:
    """How a driving person is fitted to a reference.

    scale: the overall scale.
    ratios: new length / old length of each bone (the keys of BONES).
    uncertain: the bones without a certain ratio, which take the overall scale.
    anchor: a key of ANCHORS.
    translation: of the anchor, in pixels, after scaling.
    width, height: of the reference picture, in pixels.
    """

    scale: float
    ratios: Mapping[str, float]
    uncertain: tuple[str, ...]
    anchor: str
    translation: tuple[float, float]
    width: int
    height: int

    def apply(self, driver: Keypoints) -> Keypoints:
        """The driver's poses with the new lengths, in pixels of the reference picture.

        Joints that are not certain are interpolated within these frames, so this should be the whole clip.
        """
        points, certain = driver.points, driver.scores > CERTAIN
        joints, found = carriers(points, certain), set(np.nonzero(certain)[1].tolist())
        fitted, moved = np.empty_like(joints), np.empty_like(points)
        fitted[:, NECK] = self.scale * joints[:, NECK]
        moved[:, NECK] = self.scale * points[:, NECK]
        for bone, pairs in SKELETON.items():
            for parent, joint in pairs:
                ratio = self.ratios[bone] if parent in found else self.scale
                fitted[:, joint] = fitted[:, parent] + ratio * (joints[:, joint] - joints[:, parent])
                moved[:, joint] = fitted[:, parent] + ratio * (points[:, joint] - joints[:, parent])
        for bone, joint, group in RIGID:
            ratio = self.ratios[bone] if joint in found else self.scale
            moved[:, group] = fitted[:, joint, None] + ratio * (points[:, group] - joints[:, joint, None])
        shift = self.scale * place(joints, self.anchor) - place(fitted, self.anchor) + self.translation
        moved += shift[:, None]
        frames = np.concatenate([moved, driver.scores[..., None]], axis=2)
        return Keypoints(frames, self.width, self.height, driver.frame_rate)


def fit(driver: Keypoints, reference: Keypoints, mode: Literal["scale", "bones"]) -> Fit:
    """Measures how `align` changes the driver; arguments and errors as there."""
    if mode not in ("scale", "bones"):
        raise ConfigError(f"alignment: expected {', '.join(get_args(Mode))}, found {quoted(mode)}")
    if len(reference) != 1:
        raise InputError(f"alignment: expected one frame of reference keypoints, found {len(reference)}")
    for keypoints, what in ((driver, "driving poses"), (reference, "reference")):
        if not (keypoints.scores > CERTAIN).any():
            raise InputError(
                f"alignment: expected points with a score above {CERTAIN} in the {what}, found none:"
                " check that a person can be seen there"
            )
    measured = measured_ratios(driver, reference)
    if not measured:
        raise InputError(
            "alignment: expected a bone that is certain in both the driving poses and the reference, found"
            " none: take a reference that shows the same parts of the person, or do not align"
        )
    scale = float(np.median(list(measured.values())))
    ratios = dict.fromkeys(BONES, scale)
    if mode == "bones":
        ratios |= {
            bone: scale * min(max(ratio / scale, LIMITS[0]), LIMITS[1]) for bone, ratio in measured.items()
        }
    anchor = common_anchor(driver, reference)
    beginning = scale * beginning_of(driver, anchor)
    x, y = (place(reference.points, anchor)[0] - beginning).tolist()
    uncertain = tuple(bone for bone in BONES if bone not in measured)
    return Fit(scale, ratios, uncertain, anchor, (x, y), reference.width, reference.height)


def measured_ratios(driver: Keypoints, reference: Keypoints) -> dict[str, float]:
    """Length in the reference / length in the driver, of the bones that are certain in both."""
    ratios = {}
    for bone, pairs in BONES.items():
        old = new = 0.0
        for pair in pairs:
            lengths, length = certain_lengths(driver, pair), certain_lengths(reference, pair)
            if lengths.size >= min(MEASURED, len(driver)) and length.size:
                old += float(np.median(lengths))
                new += length.item()
        if old > SHORTEST * min(driver.width, driver.height) and new > SHORTEST * min(
            reference.width, reference.height
        ):
            ratios[bone] = new / old
    return ratios


def certain_lengths(keypoints: Keypoints, pair: tuple[int, int]) -> Array:
    """Distances between two points in the frames in which both are certain."""
    certain = (keypoints.scores[:, pair] > CERTAIN).all(axis=1)
    first, second = (keypoints.points[certain, point] for point in pair)
    lengths: Array = np.linalg.norm(first - second, axis=1)
    return lengths


def carriers(points: Array, certain: Mask) -> Array:
    """The skeleton's joints (frames, NUM_JOINTS, 2), also in frames in which they are not certain.

    There a joint's offset from its parent is interpolated in time between the nearest frames in which the
    joint is certain. A joint that is never certain is where its parent is.
    """
    joints = np.zeros((len(points), NUM_JOINTS, 2))
    joints[:, NECK] = interpolated(points[:, NECK], certain[:, NECK])
    for pairs in SKELETON.values():
        for parent, joint in pairs:
            offsets = interpolated(points[:, joint] - joints[:, parent], certain[:, joint])
            joints[:, joint] = joints[:, parent] + offsets
    return joints


def interpolated(values: Array, known: Mask) -> Array:
    """Values (frames, 2), linear between the known ones, constant before and after them; zero if none is."""
    times = np.arange(len(values))
    if not known.any():
        return np.zeros_like(values)
    return np.stack([np.interp(times, times[known], axis[known]) for axis in values.T], axis=1)


def place(points: Array, anchor: str) -> Array:
    """Where the anchor is in each frame: between its points, and as low as the lowest of them."""
    chosen = points[:, ANCHORS[anchor]]
    return np.stack([chosen[..., 0].mean(axis=1), chosen[..., 1].max(axis=1)], axis=1)


def common_anchor(driver: Keypoints, reference: Keypoints) -> str:
    """The first anchor that is certain in the reference and in half of the driver's frames with a person.

    If there is none, it is the one that is certain most often.
    """
    certain = driver.scores > CERTAIN
    shown = int(certain.any(axis=1).sum())
    counts = {
        name: int(certain[:, joints].all(axis=1).sum())
        for name, joints in ANCHORS.items()
        if (reference.scores[0, joints] > CERTAIN).all()
    }
    found = next((name for name, count in counts.items() if 2 * count >= shown), None)
    found = found or max(counts, key=counts.__getitem__, default=None)
    if found is None or not counts[found]:
        raise InputError(
            f"alignment: expected {' or '.join(ANCHORS)} to be certain in both the driving poses and the"
            " reference, found none of them: take a reference that shows the same parts of the person, or do"
            " not align"
        )
    return found


def beginning_of(driver: Keypoints, anchor: str) -> Array:
    """Where the anchor is when the clip begins, (2,).

    This is its position in the first frame in which it is certain, unless that is far from the median of the
    first five such frames: one wrong frame must not displace the whole clip.
    """
    certain = (driver.scores[:, ANCHORS[anchor]] > CERTAIN).all(axis=1)
    places = place(driver.points[certain][:BEGINNING], anchor)
    distances = np.linalg.norm(places - np.median(places, axis=0), axis=1)
    usual = max(5 * float(np.median(distances)), 0.01 * min(driver.width, driver.height))
    first: Array = places[np.argmax(distances <= usual)]
    return first
