"""Rendered people: shaded three-dimensional bodies whose every joint is known, for measuring extraction.

A body is made of round parts, seen by parallel rays and lit by one light. It moves as the puppets do
(puppets/world/motion.py), and is built in human proportions. Coordinates are those of the motion: in frame
units, x to the right, y down, z towards the viewer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .puppets.world.background import random_background
from .puppets.world.character import HAIR, RGB, SKIN, colour, random_colour
from .puppets.world.drawing import Array, Point
from .puppets.world.motion import Body, Build, face_point, pose, random_motion
from .puppets.world.skeleton import KEYPOINTS

BUILD = Build(
    head=0.058, neck=0.03, torso=0.225, shoulders=0.086, hips=0.048, upper_arm=0.14, forearm=0.12,
    thigh=0.2, shank=0.19, foot=0.06, girth=1.0,
)  # fmt: skip
LIGHT = np.array([-0.4, -0.6, 0.7]) / np.linalg.norm([-0.4, -0.6, 0.7])
AMBIENT = 0.45
SPHERES = 20  # of a limb
# Places on the head, in half heads: to the person's left, above the middle, ahead.
EYE, EAR, NOSE = (0.3, 0.08, 0.63), (0.72, 0.0, 0.0), (0.0, -0.14, 0.82)
BELOW = np.array([0, 0.012, 0])  # from an ankle to the sole, from the neck to the line of the shoulders


class Part(NamedTuple):
    """A limb: spheres from one point to another, whose radius changes evenly."""

    start: Point
    end: Point
    radii: tuple[float, float]
    colour: RGB


class RenderedPerson:
    """A person with random looks, motion and background; `size` is the side of the pictures in pixels."""

    def __init__(self, seed: int, size: int):
        looks, moves, backdrop = (np.random.default_rng([seed, part]) for part in range(3))
        self.size = size
        self.skin, self.hair = (colour(codes[looks.integers(len(codes))]) for codes in (SKIN, HAIR))
        self.top, self.trousers, self.shoes = (random_colour(looks) for _ in range(3))
        self.motion, self.start = random_motion(moves), float(moves.uniform(0, 200))
        self.background: Array = random_background(backdrop, size)

    def body(self, frame: int) -> Body:
        return pose(BUILD, self.motion, self.start + frame)

    def keypoints(self, frame: int) -> NDArray[np.float64]:
        """The 18 points of OpenPose, (18, 3): x and y in pixels, and 1 if visible, else 0.

        Joints are visible unless they leave the picture, points of the face unless the head hides them.
        """
        body = self.body(frame)
        places = body.joints | {"nose": head_point(body, NOSE)}
        for side, sign in (("left", 1), ("right", -1)):
            places[f"{side}_eye"] = head_point(body, EYE, sign)
            places[f"{side}_ear"] = head_point(body, EAR, sign)
        points = np.array([[*places[name][:2], 1.0] for name in KEYPOINTS])
        middle = body.joints["head"][2]
        for i, name in enumerate(KEYPOINTS):
            if name.endswith(("nose", "eye")):
                points[i, 2] = places[name][2] > middle + 0.2 * BUILD.head
            if name.endswith("ear"):
                points[i, 2] = places[name][2] > middle - 0.3 * BUILD.head
        points[:, 2] *= ((points[:, :2] >= 0) & (points[:, :2] < 1)).all(axis=1)
        points[:, :2] *= self.size
        return points

    def frame(self, frame: int) -> NDArray[np.uint8]:
        """The picture (size, size, 3)."""
        size = self.size
        depth, pixels = np.full((size, size), -np.inf), np.array(self.background, np.float64)
        for part in self.parts(self.body(frame)):
            draw(part, depth, pixels)
        return (255 * pixels.clip(0, 1)).round().astype(np.uint8)

    def parts(self, body: Body) -> Iterator[Part]:
        joints = body.joints
        hips = (joints["left_hip"] + joints["right_hip"]) / 2
        chest = joints["neck"] * 0.75 + hips * 0.25
        yield Part(joints["neck"], joints["head"], (0.026, 0.024), self.skin)
        yield Part(chest, hips, (0.058, 0.052), self.top)
        for side in ("left", "right"):
            shoulder, hip = joints[f"{side}_shoulder"], joints[f"{side}_hip"]
            inner = shoulder * 0.72 + joints["neck"] * 0.28
            yield Part(inner, hip, (0.042, 0.05), self.top)
            yield Part(joints["neck"] + BELOW, shoulder, (0.03, 0.032), self.top)
            elbow, wrist = joints[f"{side}_elbow"], joints[f"{side}_wrist"]
            yield Part(shoulder, elbow, (0.033, 0.026), self.top)
            yield Part(elbow, wrist, (0.025, 0.017), self.skin)
            yield Part(wrist, wrist + 0.35 * (wrist - elbow), (0.019, 0.016), self.skin)
            knee, ankle, toe = joints[f"{side}_knee"], joints[f"{side}_ankle"], joints[f"{side}_toe"]
            yield Part(hip, knee, (0.048, 0.036), self.trousers)
            yield Part(knee, ankle, (0.035, 0.023), self.trousers)
            yield Part(ankle + BELOW, toe + BELOW, (0.024, 0.019), self.shoes)
        yield from self.head(body)

    def head(self, body: Body) -> Iterator[Part]:
        def part(start: Point, end: Point, radius: float, colour: RGB) -> Part:
            ends = head_point(body, start), head_point(body, end)
            return Part(*ends, (radius * BUILD.head, radius * BUILD.head), colour)

        dark, white, lips = (0.1, 0.07, 0.06), (0.95, 0.95, 0.95), (0.65, 0.25, 0.25)
        yield part((0, 0.3, 0), (0, -0.35, 0.03), 0.7, self.skin)
        yield part((0, -0.5, 0.1), (0, -0.6, 0.2), 0.42, self.skin)
        yield part((0, 0.4, -0.2), (0, 0.0, -0.3), 0.76, self.hair)
        yield part((0, 0.0, 0.66), NOSE, 0.1, self.skin)
        yield part((-0.2, -0.5, 0.62), (0.2, -0.5, 0.62), 0.055, lips)
        for sign in (-1, 1):
            x, y, z = EYE[0] * sign, EYE[1], EYE[2]
            yield part((x - 0.06, y, z), (x + 0.06, y, z), 0.1, white)
            yield part((x, y, z + 0.05), (x, y, z + 0.05), 0.075, dark)
            yield part((x - 0.13, y + 0.23, z + 0.02), (x + 0.13, y + 0.23, z + 0.02), 0.04, self.hair)
            yield part((EAR[0] * sign, 0.1, 0), (EAR[0] * sign, -0.15, 0), 0.12, self.skin)


def head_point(body: Body, place: Point, sign: float = 1.0) -> Point:
    """A place on the head; `sign` -1 mirrors it to the person's right."""
    sideways, above, ahead = place
    return face_point(BUILD, body, sideways * sign, above, ahead)


def draw(part: Part, depth: Array, pixels: Array) -> None:
    """Draw a part where it is in front of what has been drawn."""
    size = len(depth)
    for share in np.linspace(0, 1, SPHERES):
        centre = (part.start + share * (part.end - part.start)) * size
        radius = (part.radii[0] + share * (part.radii[1] - part.radii[0])) * size
        (left, top), (right, bottom) = (
            (int(np.clip(place, 0, size)) for place in centre[:2] + offset)
            for offset in (-radius - 1, radius + 2)
        )
        x = np.arange(left, right) + 0.5 - centre[0]
        y = np.arange(top, bottom)[:, None] + 0.5 - centre[1]
        height = np.sqrt((radius**2 - x**2 - y**2).clip(0))
        seen = (height > 0) & (centre[2] + height > depth[top:bottom, left:right])
        light = (x * LIGHT[0] + y * LIGHT[1] + height * LIGHT[2]) / radius
        shade = AMBIENT + (1 - AMBIENT) * light.clip(0)
        depth[top:bottom, left:right][seen] = (centre[2] + height)[seen]
        pixels[top:bottom, left:right][seen] = shade[seen][:, None] * part.colour
