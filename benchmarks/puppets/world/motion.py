"""The motion of a puppet: angles as smooth functions of time, and the joint positions they give.

Coordinates are in frame units: x to the right, y down and z towards the viewer; a picture drops z. At turn 0
a puppet faces the viewer; a positive turn is towards the right edge of the picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .drawing import Array, Point

GROUND = 0.93  # y of the ground under the feet
DOWN = np.array([0.0, 1.0, 0.0])
SIDES = {"right": -1.0, "left": 1.0}


@dataclass(frozen=True)
class Build:
    """Lengths of a body in frame units."""

    head: float  # half its height
    neck: float
    torso: float
    shoulders: float  # half the distance between them
    hips: float
    upper_arm: float
    forearm: float
    thigh: float
    shank: float
    foot: float
    girth: float  # thickness of all parts relative to the average

    @classmethod
    def random(cls, rng: np.random.Generator) -> Build:
        def about(length: float, spread: float = 0.1) -> float:
            return float(length * rng.uniform(1 - spread, 1 + spread))

        size = rng.uniform(0.88, 1.03)
        legs = about(size, 0.06)
        return cls(
            head=about(0.088 * size**0.5),
            neck=about(0.03 * size),
            torso=about(0.235 * size, 0.07),
            shoulders=about(0.092 * size, 0.14),
            hips=about(0.05 * size, 0.12),
            upper_arm=about(0.135 * size, 0.07),
            forearm=about(0.125 * size, 0.07),
            thigh=about(0.185 * legs, 0.05),
            shank=about(0.175 * legs, 0.05),
            foot=about(0.055 * size, 0.12),
            girth=about(1.0, 0.16),
        )


class Wave(NamedTuple):
    """A sine over time; `rate` is in cycles per frame."""

    centre: float
    amplitude: float = 0.0
    rate: float = 0.0
    phase: float = 0.0  # cycles

    def at(self, time: float) -> float:
        return float(self.centre + self.amplitude * np.sin(2 * np.pi * (self.rate * time + self.phase)))


class Path(NamedTuple):
    """Moves from knot to knot, slow at both ends, in `interval` frames each, and repeats."""

    knots: tuple[float, ...]
    interval: float

    def at(self, time: float) -> float:
        place = time / self.interval
        i, share = int(np.floor(place)), place % 1
        ease = share * share * (3 - 2 * share)
        start, end = self.knots[i % len(self.knots)], self.knots[(i + 1) % len(self.knots)]
        return start + ease * (end - start)


Course = Wave | Path
Motion = Mapping[str, Course]  # by the name of an angle; a missing angle keeps its rest value

REST = {
    "right_arm_out": 0.2, "left_arm_out": 0.2,
    "right_forearm_out": 0.1, "left_forearm_out": 0.1,
    "right_forearm_forward": 0.2, "left_forearm_forward": 0.2,
    "right_leg_out": 0.06, "left_leg_out": 0.06,
    "x": 0.5,
}  # fmt: skip


class Body(NamedTuple):
    """Joints (x, y, z) at one moment, and the directions that the body (`turn`) and head (`look`) face."""

    joints: dict[str, Point]
    turn: float
    look: float
    tilt: float  # of the head


def pose(build: Build, motion: Motion, time: float) -> Body:
    def angle(name: str) -> float:
        course = motion.get(name)
        return REST.get(name, 0.0) if course is None else course.at(time)

    turn, lean = angle("turn"), angle("lean")
    left = np.array([np.cos(turn), 0.0, -np.sin(turn)])
    forward = np.array([np.sin(turn), 0.0, np.cos(turn)])
    up = np.array([np.sin(lean), -np.cos(lean), 0.0])

    def limb(length: float, side: float, out: float, ahead: float) -> Point:
        sideways = left * (side * np.sin(out))
        return length * (np.cos(out) * (np.cos(ahead) * DOWN + np.sin(ahead) * forward) + sideways)

    joints = {"pelvis": np.zeros(3), "neck": up * build.torso}
    for name, side in SIDES.items():
        shoulder = joints["neck"] + left * (side * build.shoulders) + DOWN * 0.012
        out, ahead = angle(f"{name}_arm_out"), angle(f"{name}_arm_forward")
        elbow = shoulder + limb(build.upper_arm, side, out, ahead)
        out, ahead = angle(f"{name}_forearm_out"), angle(f"{name}_forearm_forward")
        joints[f"{name}_shoulder"], joints[f"{name}_elbow"] = shoulder, elbow
        joints[f"{name}_wrist"] = elbow + limb(build.forearm, side, out, ahead)
        hip = left * (side * build.hips)
        out, ahead, knee = angle(f"{name}_leg_out"), angle(f"{name}_leg_forward"), angle(f"{name}_knee")
        bend = hip + limb(build.thigh, side, out, ahead)
        ankle = bend + limb(build.shank, side, out * 0.5, ahead - knee)
        toe = 0.8 * forward + left * (0.35 * side) + DOWN * (0.45 - 0.5 * (ahead - knee))
        joints[f"{name}_hip"], joints[f"{name}_knee"], joints[f"{name}_ankle"] = hip, bend, ankle
        joints[f"{name}_toe"] = ankle + toe * build.foot
    lowest = max(joints["right_ankle"][1], joints["left_ankle"][1])
    ground = GROUND - 0.02 - abs(angle("hop"))
    shift = np.array([angle("x"), ground - lowest, 0.0])
    joints = {name: joint + shift for name, joint in joints.items()}
    tilt = 0.5 * lean + angle("tilt")
    towards = np.array([np.sin(tilt), -np.cos(tilt), 0.0])
    joints["head"] = joints["neck"] + towards * (build.neck + build.head)
    return Body(joints, turn, turn + angle("look"), tilt)


def face_point(build: Build, body: Body, sideways: float, above: float, ahead: float) -> Point:
    """A point on the head. Offsets are in half heads; `sideways` is to the puppet's left."""
    cos, sin = np.cos(body.look), np.sin(body.look)
    x = build.head * (sideways * cos + ahead * sin)
    y, z = -build.head * above, build.head * (ahead * cos - sideways * sin)
    cos, sin = np.cos(body.tilt), np.sin(body.tilt)
    return body.joints["head"] + np.array([x * cos - y * sin, x * sin + y * cos, z])


def keypoints(build: Build, body: Body) -> Array:
    """The 18 keypoints of a pose detector (skeleton.KEYPOINTS), (18, 3): x, y and 1 if visible, else 0."""
    from .skeleton import KEYPOINTS

    places = dict(body.joints)
    for name, side in SIDES.items():
        places[f"{name}_eye"] = face_point(build, body, 0.38 * side, 0.1, 0.8)
        places[f"{name}_ear"] = face_point(build, body, 0.86 * side, 0.0, 0.0)
    places["nose"] = face_point(build, body, 0.0, -0.15, 0.95)
    points = np.array([[*places[name][:2], 1.0] for name in KEYPOINTS], np.float32)
    for name, side in SIDES.items():  # hidden by the head
        points[KEYPOINTS.index(f"{name}_ear"), 2] = side * np.sin(body.look) < 0.4
        points[KEYPOINTS.index(f"{name}_eye"), 2] = side * np.sin(body.look) < 0.85
    inside = ((points[:, :2] >= 0) & (points[:, :2] <= 1)).all(axis=1)
    points[:, 2] *= inside
    return points


# Motions. Amplitudes are in radians, times in frames.


def random_motion(rng: np.random.Generator) -> Motion:
    kinds = (walk, walk, wave, dance, dance, jacks, squats, gestures, gestures, turning)
    motion = dict(kinds[rng.integers(len(kinds))](rng))
    motion.setdefault("x", Wave(rng.uniform(0.4, 0.6)))
    motion.setdefault("look", Wave(rng.uniform(-0.2, 0.2), 0.15, 1 / rng.uniform(25, 60), rng.random()))
    motion.setdefault("tilt", Wave(0.0, rng.uniform(0, 0.12), 1 / rng.uniform(20, 40), rng.random()))
    return motion


def walk(rng: np.random.Generator) -> Motion:
    """Walk to and fro, turned to the direction of movement."""
    rate, phase = 1 / rng.uniform(14, 24), rng.random()
    stride, swing, reach = rng.uniform(0.3, 0.55), rng.uniform(0.2, 0.6), rng.uniform(0.0, 0.18)
    slow, start, turn = rate / rng.uniform(3, 6), rng.random(), rng.uniform(0.3, 1.25)
    motion: dict[str, Course] = {
        "x": Wave(0.5, reach, slow, start),
        "turn": Wave(0.0, turn, slow, start + 0.25),  # faces the direction in which x moves
        "lean": Wave(rng.uniform(-0.05, 0.05), 0.03, 2 * rate, phase),
        "hop": Wave(0.0, 0.006, rate, phase),
    }
    for name, side in (("right", 0.0), ("left", 0.5)):
        motion |= {
            f"{name}_leg_forward": Wave(0.08, stride, rate, phase + side),
            f"{name}_knee": Wave(0.38, 0.36, rate, phase + side + 0.3),
            f"{name}_arm_forward": Wave(0.0, swing, rate, phase + side + 0.5),
            f"{name}_forearm_forward": Wave(0.35, swing, rate, phase + side + 0.47),
        }
    return motion


def wave(rng: np.random.Generator) -> Motion:
    """Wave with one arm or both, above the shoulder."""
    rate, phase = 1 / rng.uniform(8, 16), rng.random()
    slow = rate / rng.uniform(2, 4)
    motion: dict[str, Course] = {
        "turn": Wave(rng.uniform(-0.5, 0.5), rng.uniform(0, 0.3), slow, rng.random()),
        "lean": Wave(0.0, rng.uniform(0, 0.08), slow, phase),
    }
    arms = [("right",), ("left",), ("right", "left")][rng.integers(3)]
    for name in arms:
        motion |= {
            f"{name}_arm_out": Wave(rng.uniform(1.3, 2.3), rng.uniform(0, 0.3), rate, phase),
            f"{name}_forearm_out": Wave(rng.uniform(2.6, 3.2), rng.uniform(0.3, 0.7), rate, phase + 0.1),
            f"{name}_arm_forward": Wave(rng.uniform(0, 0.3)),
            f"{name}_forearm_forward": Wave(rng.uniform(0, 0.3)),
        }
    return motion


def dance(rng: np.random.Generator) -> Motion:
    """All parts swing to the same beat."""
    rate, phase = 1 / rng.uniform(14, 26), rng.random()
    mirrored = rng.choice([0.0, 0.5])

    def swing(low: float, high: float, most: float, beats: float = 1.0, shift: float = 0.0) -> Wave:
        return Wave(rng.uniform(low, high), rng.uniform(0.3, 1) * most, beats * rate, phase + shift)

    motion: dict[str, Course] = {
        "x": swing(0.45, 0.55, 0.07),
        "turn": swing(-0.3, 0.3, 0.7),
        "lean": swing(-0.04, 0.04, 0.16),
        "hop": swing(0.0, 0.0, 0.035),
        "tilt": swing(0.0, 0.0, 0.2),
    }
    arm_out, forearm_out = swing(0.3, 1.9, 0.9), swing(0.2, 2.6, 1.0, rng.choice([1.0, 2.0]))
    forward, knee = swing(0.0, 0.4, 0.5), swing(0.3, 0.5, 0.3)
    for name, side in (("right", 0.0), ("left", mirrored)):
        motion |= {
            f"{name}_arm_out": arm_out._replace(phase=phase + side),
            f"{name}_forearm_out": forearm_out._replace(phase=forearm_out.phase + side + 0.1),
            f"{name}_arm_forward": forward._replace(phase=phase + side + 0.2),
            f"{name}_forearm_forward": forward._replace(centre=forward.centre + 0.4, phase=phase + side),
            f"{name}_leg_forward": Wave(0.25, 0.25, rate, phase + side + 0.5),
            f"{name}_knee": knee._replace(phase=phase + side + 0.5),
            f"{name}_leg_out": Wave(rng.uniform(0.06, 0.25), 0.06, rate, phase + side),
        }
    return motion


def jacks(rng: np.random.Generator) -> Motion:
    rate, phase = 1 / rng.uniform(16, 26), rng.random()
    top = rng.uniform(2.2, 2.8)
    motion: dict[str, Course] = {
        "turn": Wave(rng.uniform(-0.4, 0.4)),
        "hop": Wave(0.0, rng.uniform(0.02, 0.05), rate, phase),
    }
    for name in SIDES:
        motion |= {
            f"{name}_arm_out": Wave(top / 2 + 0.1, top / 2, rate, phase),
            f"{name}_forearm_out": Wave(top / 2 + 0.1, top / 2 + 0.2, rate, phase - 0.04),
            f"{name}_leg_out": Wave(0.25, 0.2, rate, phase),
        }
    return motion


def squats(rng: np.random.Generator) -> Motion:
    rate, phase, depth = 1 / rng.uniform(18, 32), rng.random(), rng.uniform(0.25, 0.5)
    motion: dict[str, Course] = {"turn": Wave(rng.uniform(-1.2, 1.2))}
    for name in SIDES:
        motion |= {
            f"{name}_leg_forward": Wave(depth + 0.05, depth, rate, phase),
            f"{name}_knee": Wave(2 * depth + 0.1, 2 * depth, rate, phase),
            f"{name}_arm_forward": Wave(0.75, 0.7, rate, phase),
            f"{name}_forearm_forward": Wave(0.95, 0.7, rate, phase),
        }
    return motion


def gestures(rng: np.random.Generator) -> Motion:
    """Move from one random pose to the next."""
    interval, knots = rng.uniform(9, 18), 5
    ranges = {
        "turn": (-1.0, 1.0), "lean": (-0.12, 0.12), "tilt": (-0.15, 0.15), "x": (0.42, 0.58),
        "look": (-0.35, 0.35),
    }  # fmt: skip
    for name in SIDES:
        ranges |= {
            f"{name}_arm_out": (0.0, 2.6), f"{name}_forearm_out": (-0.8, 2.9),
            f"{name}_arm_forward": (-0.3, 1.2), f"{name}_forearm_forward": (0.0, 1.3),
            f"{name}_leg_out": (0.02, 0.4), f"{name}_leg_forward": (-0.2, 0.7), f"{name}_knee": (0.0, 0.9),
        }  # fmt: skip
    return {
        name: Path(tuple(rng.uniform(low, high, knots).tolist()), interval)
        for name, (low, high) in ranges.items()
    }


def turning(rng: np.random.Generator) -> Motion:
    """Turn from side to side on the spot, with one arm stretched out."""
    rate, phase = 1 / rng.uniform(24, 44), rng.random()
    motion: dict[str, Course] = {"turn": Wave(0.0, rng.uniform(0.8, 1.3), rate, phase)}
    name = ("right", "left")[rng.integers(2)]
    for part in ("arm", "forearm"):
        motion |= {
            f"{name}_{part}_out": Wave(0.8, rng.uniform(0.2, 0.6), rate, phase),
            f"{name}_{part}_forward": Wave(0.5, rng.uniform(0.2, 0.6), 2 * rate, phase),
        }
    return motion
