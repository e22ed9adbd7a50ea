"""Hair, skirts and scarves that swing with delay.

Each is made of strands: points that hang in a row from a root on the body. A damped spring pulls each point
to its place below the point before it, so it lags behind the body and swings on when the body stops. A pose
alone therefore does not determine where a strand is; the frames before do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from .character import Character, random_cloth, random_colour
from .cloth import Cloth
from .drawing import INK, OUTLINE, Array, Canvas, Point
from .motion import SIDES, Body, face_point

POINTS = 5  # of a strand, with its root
FOLDS = 7  # strands of a skirt
WARM_UP = 64  # frames before frame 0 in which the strands start to swing
SUBSTEPS = 4  # per frame
# Of each kind of strand: the period of the free swing in frames, and the fraction of critical damping.
SWINGS = {"hair": (11.0, 0.22), "scarf": (9.0, 0.18), "skirt": (10.0, 0.16)}


class Strands(NamedTuple):
    """Points (strands, POINTS, 2) of each kind in frame units, or their displacements from rest; a character
    without a kind has no strands of it. A skirt's strands run from its right side to its left one."""

    hair: Array
    scarf: Array
    skirt: Array


class Lock(NamedTuple):
    """A strand of hair. Lengths are in half heads."""

    root: tuple[float, float, float]  # as in `face_point`
    length: float
    thick: float
    thin: float


LOCKS = {
    "ponytail": (Lock((0.0, 0.45, -1.0), 3.2, 0.36, 0.16),),
    "pigtails": tuple(Lock((0.95 * side, 0.25, -0.25), 2.5, 0.3, 0.17) for side in SIDES.values()),
    "long": (
        Lock((0.0, 0.3, -0.75), 2.9, 0.95, 0.55),
        *(Lock((0.62 * side, 0.0, -0.25), 2.5, 0.36, 0.2) for side in SIDES.values()),
    ),
}  # by cut


def softened(character: Character, rng: np.random.Generator) -> Character:
    """The character with hair that hangs, often a skirt and a scarf, and a top with a pattern."""
    top = random_cloth(rng)
    while top.pattern in ("plain", "band"):
        top = random_cloth(rng)
    return replace(
        character,
        cut=tuple(LOCKS)[rng.integers(len(LOCKS))],
        hat=character.hat if rng.random() < 0.3 else None,
        scarf=random_colour(rng) if rng.random() < 0.7 else None,
        legwear=("skirt", "dress")[rng.integers(2)] if rng.random() < 0.75 else character.legwear,
        emblem=None,
        top=replace(top, period=float(rng.uniform(0.08, 0.12))),
    )


class Soft:
    """The swing of a character's strands, frame by frame."""

    def __init__(self, character: Character, body_at: Callable[[float], Body]):
        """`body_at` gives the body at a time in frames, of any sign."""
        self.character, self.body_at = character, body_at
        now = resting(character, body_at(-WARM_UP))
        self.points = np.concatenate(now)
        self.speeds = np.zeros_like(self.points)
        counts = [len(kind) for kind in now]
        self.ends = np.cumsum(counts)[:-1]
        periods, dampings = (np.repeat(column, counts) for column in zip(*SWINGS.values(), strict=True))
        self.pull = ((2 * np.pi / periods) ** 2)[:, None]
        self.drag = (4 * np.pi * dampings / periods)[:, None]
        self.displacements = [Strands(*(np.zeros_like(kind) for kind in now))]

    def at(self, frame: int) -> Strands:
        """Displacements from rest at a frame, which may be negative, down to -WARM_UP."""
        while len(self.displacements) <= frame + WARM_UP:
            self.step(len(self.displacements) - 1 - WARM_UP)
        return self.displacements[frame + WARM_UP]

    def step(self, frame: int) -> None:
        """Swing from this frame to the next."""
        time = 1 / SUBSTEPS
        for part in range(1, SUBSTEPS + 1):
            rest = np.concatenate(resting(self.character, self.body_at(frame + part * time)))
            before = self.points.copy()
            self.points[:, 0] = rest[:, 0]
            for i in range(1, POINTS):
                place, aim = self.points[:, i], self.points[:, i - 1] + rest[:, i] - rest[:, i - 1]
                speed = self.speeds[:, i]
                speed += time * (self.pull * (aim - place) - self.drag * speed)
                self.points[:, i] = place + time * speed
            self.points = taut(self.points, rest)
            self.speeds = (self.points - before) / time
        self.displacements.append(Strands(*np.split(self.points - rest, self.ends)))


def taut(points: Array, rest: Array) -> Array:
    """Strands that keep their directions, with the lengths of the strands at rest between their points."""
    lengths = np.linalg.norm(np.diff(rest, axis=1), axis=2, keepdims=True)
    ways = np.diff(points, axis=1)
    ways *= lengths / np.maximum(np.linalg.norm(ways, axis=2, keepdims=True), 1e-6)
    return np.concatenate([points[:, :1], points[:, :1] + np.cumsum(ways, axis=1)], axis=1)


def hanging(character: Character, body: Body, displacements: Strands) -> Strands:
    """The strands of a body with these displacements, which may be those of another pose."""
    rest = resting(character, body)
    return Strands(*(taut(a + b, a) for a, b in zip(rest, displacements, strict=True)))


# At rest


def resting(character: Character, body: Body) -> Strands:
    """The points of all strands when the body has been still for long."""
    down = np.array([0.0, character.build.head])
    hair = [
        row(face_point(character.build, body, *lock.root)[:2], lock.length * down)
        for lock in LOCKS[character.cut]
    ]
    neck, (cos, sin) = body.joints["neck"], (np.cos(body.turn), np.sin(body.turn))
    tails = [
        row(
            neck[:2] + np.array([0.022 * side * cos, 0.006]), np.array([0.03 * side * cos + 0.02 * sin, 0.23])
        )
        for side in (SIDES.values() if character.scarf else ())
    ]
    folds = skirt_folds(character, body) if character.legwear in ("skirt", "dress") else []
    return Strands(*(stacked(kind) for kind in (hair, tails, folds)))


def row(root: Point, way: Point) -> Array:
    """Points (POINTS, 2) at equal distances from the root to the end of the way."""
    return root + np.linspace(0, 1, POINTS)[:, None] * way


def stacked(strands: list[Array]) -> Array:
    return np.stack(strands) if strands else np.zeros((0, POINTS, 2))


def skirt_folds(character: Character, body: Body) -> list[Array]:
    """From the waist to the hem, between and beside the knees."""
    build, pelvis = character.build, body.joints["pelvis"][:2]
    knees = [body.joints[f"{name}_knee"][:2] for name in SIDES]
    cos, sin = np.cos(body.turn), np.sin(body.turn)
    waist = np.hypot((build.hips * 1.2 + 0.014 * build.girth) * cos, 0.058 * build.girth * sin) - 0.01
    wide = np.hypot((build.hips * 1.2 + 0.065) * cos, 0.1 * sin)
    reach = 0.035 * build.girth
    low = min(pelvis[0] - wide, *(knee[0] - reach for knee in knees))
    high = max(pelvis[0] + wide, *(knee[0] + reach for knee in knees))
    drop = max(0.78 * float(np.mean([knee[1] for knee in knees]) - pelvis[1]), 0.07)
    tops = np.linspace(pelvis[0] - waist, pelvis[0] + waist, FOLDS)
    hems = np.linspace(low, high, FOLDS)
    return [
        row(np.array([top, pelvis[1] - 0.03]), np.array([hem - top, drop + 0.03]))
        for top, hem in zip(tops, hems, strict=True)
    ]


# Drawing


def draw_strand(canvas: Canvas, points: Array, thick: float, thin: float, colour: object) -> None:
    """One strand (POINTS, 2) that narrows or widens from its root to its end, in frame units."""
    widths = np.linspace(thick, thin, POINTS)
    for inner, ink in ((0.0, INK), (OUTLINE, 0.0)):  # the outline of all limbs is under the inside of all
        for i in range(POINTS - 1):
            limb = canvas.capsule(points[i], points[i + 1], widths[i] - inner, widths[i + 1] - inner)
            canvas.paint(limb, colour, ink=ink)


def draw_skirt(canvas: Canvas, folds: Array, cloth: Cloth, turn: float) -> None:
    """The cloth between folds (FOLDS, POINTS, 2), whose pattern swings with it."""
    corners = np.concatenate([folds[0], folds[1:-1, -1], folds[-1, ::-1], folds[-2:0:-1, 0]])
    shape = canvas.polygon(corners, 0.01)
    x, y = canvas.centres[None, shape.cols], canvas.centres[shape.rows, None]
    heights = np.maximum.accumulate(folds[FOLDS // 2, :, 1])
    middle = np.interp(y, heights, folds[FOLDS // 2, :, 0])
    half = np.interp(y, heights, (folds[-1, :, 0] - folds[0, :, 0]).clip(0.02) / 2)
    across = ((x - middle) / half).clip(-1, 1)
    around = (np.arcsin(across) - turn) * half[-1]
    shape = shape._replace(
        along=np.float32(y - heights[0] + 0 * x),
        across=np.float32(around),
        normal_x=np.float32(across),
        normal_y=np.float32((y - heights.mean()) / np.ptp(heights) + 0 * x),
    )
    canvas.paint(shape, cloth.look(shape.along, shape.across, 1 / canvas.size))
    for fold in folds[1:-1:2]:
        for i in range(1, POINTS - 1):
            crease = canvas.capsule(fold[i], fold[i + 1], 0.003)
            canvas.paint(crease, 0.6 * np.asarray(cloth.colour), opacity=0.6, shade=0, ink=0)
