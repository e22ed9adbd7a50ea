"""Moving people whose every point is known, and changes of pictures of them."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import numpy as np
from animate_rt.runtime.poses.keypoints import FACE, LEFT_HAND, NUM_POINTS, RIGHT_HAND, Keypoints
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Lengths relative to the person's stature, under the names of alignment.BONES.
LENGTHS = {"upper arm": 0.17, "forearm": 0.14, "hand": 0.05, "thigh": 0.24, "shin": 0.23}
RIGHT_ARM, LEFT_ARM, RIGHT_LEG, LEFT_LEG = (2, 3, 4), (5, 6, 7), (8, 9, 10), (11, 12, 13)
HEAD_POINTS = (0, 14, 15, 16, 17, *range(*FACE.indices(NUM_POINTS)))
ARM_POINTS = (3, 4, 6, 7, *range(*LEFT_HAND.indices(NUM_POINTS)), *range(*RIGHT_HAND.indices(NUM_POINTS)))
LEG_POINTS = (9, 10, 12, 13)


def person(
    motion: str = "walk",
    *,
    frames: int = 25,
    heading: float = 0,
    stature: float = 300,
    feet: tuple[float, float] = (200, 460),
    speed: float = 0,
    proportions: Mapping[str, float] | None = None,
    size: tuple[int, int] = (512, 512),
    frame_rate: int = 25,
) -> Keypoints:
    """A person who walks, waves or squats.

    heading: degrees; 0 faces the camera, 90 walks to the right, 180 faces away.
    feet: where they begin (between the ankles, at the lower one), in pixels.
    speed: of the feet, in pixels per second to the right.
    proportions: factors of bones, under the names of alignment.BONES.

    Lengths in the picture are constant where the movement stays in its plane: "walk" and "squat" at a heading
    of 90 or 270, "wave" at 0 or 180.
    """
    lengths = dict.fromkeys(("head", "face", "shoulder", "torso"), 1.0) | LENGTHS
    for bone, factor in (proportions or {}).items():
        lengths[bone] *= factor
    time = np.arange(frames) / frame_rate
    angles = MOTIONS[motion](time)
    body = skeleton(angles, lengths)
    across, down, forward = body[..., 0], body[..., 1], body[..., 2]
    turn = np.radians(heading)
    points = stature * np.stack([across * np.cos(turn) + forward * np.sin(turn), down], axis=2)
    place = np.stack([points[:, (10, 13), 0].mean(axis=1), points[:, (10, 13), 1].max(axis=1)], axis=1)
    target = np.stack([feet[0] + speed * time, np.full(frames, feet[1])], axis=1)
    points += (target - place)[:, None]
    scores = np.full((frames, NUM_POINTS, 1), 0.9)
    if np.cos(turn) < -0.2:
        scores[:, (0, 14, 15, *range(60, 128))] = 0  # a person who faces away shows the ears only
    elif abs(np.sin(turn)) > 0.7:
        scores[:, (14, 16) if np.sin(turn) > 0 else (15, 17)] = 0.2
    return Keypoints(np.concatenate([points, scores], axis=2), *size, Fraction(frame_rate))


def walk(time: Array) -> dict[str, Array]:
    """Angles in radians: swing is forward, spread is sideways, both from hanging down."""
    phase = 2 * np.pi * 0.9 * time
    angles = {}
    for side, shift in (("right", 0.0), ("left", np.pi)):
        thigh = 0.45 * np.sin(phase + shift)
        angles[f"{side} thigh"] = thigh
        angles[f"{side} shin"] = thigh - 0.1 - 0.5 * np.maximum(0, np.cos(phase + shift))
        angles[f"{side} arm"] = -0.5 * np.sin(phase + shift)
        angles[f"{side} forearm"] = angles[f"{side} arm"] + 0.4
    return angles | {"lean": 0.05 + 0.02 * np.sin(2 * phase)}


def wave(time: Array) -> dict[str, Array]:
    swing = np.sin(2 * np.pi * 1.5 * time)
    return {
        "right arm spread": 1.3 + 0.1 * swing,
        "right forearm spread": 2.6 + 0.5 * swing,
        "left arm spread": 0.2 + 0.05 * swing,
        "left forearm spread": 0.15 + 0.1 * swing,
        "right thigh spread": np.full_like(time, 0.1),
        "left thigh spread": np.full_like(time, 0.1),
        "tilt": 0.12 * swing,
    }


def squat(time: Array) -> dict[str, Array]:
    depth = (1 - np.cos(2 * np.pi * 0.6 * time)) / 2
    sides = {f"{side} {part}": angle * depth for side in ("right", "left") for part, angle in SQUAT.items()}
    return sides | {"lean": 0.6 * depth}


SQUAT = {"thigh": 1.3, "shin": -0.5, "arm": 1.2, "forearm": 1.4}
MOTIONS = {"walk": walk, "wave": wave, "squat": squat}


def skeleton(angles: Mapping[str, Array], lengths: Mapping[str, float]) -> Array:
    """All points (frames, 128, 3) with the neck at 0: to the person's left, down, forward; stature 1."""
    frames = len(next(iter(angles.values())))
    zero = np.zeros(frames)
    body = np.zeros((frames, NUM_POINTS, 3))

    def hanging(name: str, side: int) -> Array:
        swing, spread = angles.get(name, zero), angles.get(f"{name} spread", zero)
        return np.stack(
            [side * np.sin(spread), np.cos(spread) * np.cos(swing), np.cos(spread) * np.sin(swing)], 1
        )

    tilt, lean = angles.get("tilt", zero), angles.get("lean", zero)
    body[:, 0] = lengths["head"] * 0.11 * np.stack([np.sin(tilt), -np.cos(tilt), zero + 0.2], axis=1)
    face = lengths["face"] * np.concatenate([HEAD, FACE_LAYOUT])
    turned = np.stack(
        [
            np.outer(np.cos(tilt), face[:, 0]) - np.outer(np.sin(tilt), face[:, 1]),
            np.outer(np.sin(tilt), face[:, 0]) + np.outer(np.cos(tilt), face[:, 1]),
            np.broadcast_to(face[:, 2], (frames, len(face))),
        ],
        axis=2,
    )
    body[:, 14:18], body[:, FACE] = np.split(body[:, None, 0] + turned, [4], axis=1)
    for name, side, arm, leg, hand in (
        ("right", -1, RIGHT_ARM, RIGHT_LEG, RIGHT_HAND),
        ("left", 1, LEFT_ARM, LEFT_LEG, LEFT_HAND),
    ):
        body[:, arm[0]] = lengths["shoulder"] * np.array([0.11 * side, 0.01, 0])
        body[:, arm[1]] = body[:, arm[0]] + lengths["upper arm"] * hanging(f"{name} arm", side)
        direction = hanging(f"{name} forearm", side)
        body[:, arm[2]] = body[:, arm[1]] + lengths["forearm"] * direction
        lateral = np.cross(direction, [0, 0, 1]) + np.array([1e-6, 0, 0])
        lateral /= np.linalg.norm(lateral, axis=1, keepdims=True)
        spread = HAND_LAYOUT[:, :1] * direction[:, None] - side * HAND_LAYOUT[:, 1:] * lateral[:, None]
        body[:, hand] = body[:, arm[2], None] + lengths["hand"] * spread
        hip = np.stack([zero + 0.06 * side, 0.3 * np.cos(lean), -0.3 * np.sin(lean)], axis=1)
        body[:, leg[0]] = lengths["torso"] * hip
        body[:, leg[1]] = body[:, leg[0]] + lengths["thigh"] * hanging(f"{name} thigh", side)
        body[:, leg[2]] = body[:, leg[1]] + lengths["shin"] * hanging(f"{name} shin", side)
    return body


def hand_layout() -> Array:
    """21 points (along the forearm, towards the thumb) in lengths of wrist to middle knuckle."""
    thumb = [(0.3, 0.35), (0.55, 0.6), (0.75, 0.75), (0.95, 0.85)]
    fingers = [
        (base + length * step, across)
        for base, across, length in ((0.98, 0.25, 0.7), (1, 0, 0.85), (0.95, -0.2, 0.75), (0.85, -0.4, 0.6))
        for step in (0, 0.45, 0.75, 1)
    ]
    return np.array([(0, 0), *thumb, *fingers])


def face_layout() -> Array:
    """The 68 points (to the person's left, down, forward) from the nose, in statures."""

    def ellipse(
        centre: tuple[float, float], radii: tuple[float, float], degrees: list[float]
    ) -> list[list[float]]:
        around = np.radians(degrees)
        return [[centre[0] + radii[0] * np.cos(a), centre[1] + radii[1] * np.sin(a)] for a in around]

    brow = [[-0.032, -0.03], [-0.026, -0.034], [-0.019, -0.035], [-0.012, -0.034], [-0.006, -0.031]]
    points = [
        *ellipse((0, -0.012), (0.04, 0.055), list(np.linspace(180, 0, 17))),
        *brow,
        *[[-x, y] for x, y in reversed(brow)],
        *[[0, -0.021 + 0.007 * step] for step in range(4)],
        *[[0.004 * step, 0.004] for step in range(-2, 3)],
        *ellipse((-0.018, -0.022), (0.006, 0.003), [180, 240, 300, 0, 60, 120]),
        *ellipse((0.018, -0.022), (0.006, 0.003), [180, 240, 300, 0, 60, 120]),
        *ellipse((0, 0.018), (0.013, 0.006), [180, 210, 240, 270, 300, 330, 0, 30, 60, 90, 120, 150]),
        *ellipse((0, 0.018), (0.009, 0.002), [180, 225, 270, 315, 0, 45, 90, 135]),
    ]
    flat = np.array(points)
    return np.concatenate([flat, -25 * flat[:, :1] ** 2], axis=1)


HAND_LAYOUT, FACE_LAYOUT = hand_layout(), face_layout()
HEAD = np.array(
    [[-0.018, -0.022, -0.005], [0.018, -0.022, -0.005], [-0.045, -0.012, -0.045], [0.045, -0.012, -0.045]]
)


# Changes of a picture


def mirrored_points() -> list[int]:
    """For each point the one that takes its place when left and right are exchanged."""
    body = [0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16]
    face = [*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, *range(35, 30, -1)]
    face += [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
    face += [54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
    return [*body, *range(39, 60), *range(18, 39), *(60 + index for index in face)]


MIRRORED = mirrored_points()


def changed(keypoints: Keypoints, points: Array, *, size: tuple[int, int] | None = None) -> Keypoints:
    """The same scores with other coordinates."""
    frames = np.concatenate([points, keypoints.scores[..., None]], axis=2)
    return Keypoints(frames, *(size or (keypoints.width, keypoints.height)), keypoints.frame_rate)


def mirrored(keypoints: Keypoints) -> Keypoints:
    """As in a mirror: the picture's left and right and the person's left and right are exchanged."""
    frames = keypoints.frames[:, MIRRORED] * [-1, 1, 1] + [keypoints.width, 0, 0]
    return Keypoints(frames, keypoints.width, keypoints.height, keypoints.frame_rate)


def shifted(keypoints: Keypoints, x: float, y: float) -> Keypoints:
    return changed(keypoints, keypoints.points + np.array([x, y]))


def resized(keypoints: Keypoints, factor: int) -> Keypoints:
    """The same in a picture `factor` times as large."""
    size = keypoints.width * factor, keypoints.height * factor
    return changed(keypoints, keypoints.points * factor, size=size)


def without(
    keypoints: Keypoints, points: tuple[int, ...] | list[int], frames: slice = slice(None)
) -> Keypoints:
    """The same with these points missing."""
    changed_frames = np.array(keypoints.frames)
    changed_frames[frames, list(points)] = 0
    return Keypoints(changed_frames, keypoints.width, keypoints.height, keypoints.frame_rate)


def frame(keypoints: Keypoints, index: int = 0) -> Keypoints:
    """One frame alone."""
    return Keypoints(keypoints.frames[index, None], keypoints.width, keypoints.height, keypoints.frame_rate)
