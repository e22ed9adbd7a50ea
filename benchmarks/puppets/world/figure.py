"""Drawing a character in one pose, from back to front."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from .character import Character
from .cloth import Cloth, emblem_share
from .drawing import Canvas, Point, Shape, clipped, mix
from .hat import draw_hat
from .lively import STILL, Life, feet
from .motion import SIDES, Body, face_point
from .soft import LOCKS, Strands, draw_skirt, draw_strand


def draw_figure(
    canvas: Canvas, character: Character, body: Body, strands: Strands | None = None, life: Life = STILL
) -> None:
    """The character on the canvas, with its shadow on the ground. Without strands its hair, skirt and scarf
    are stiff."""
    Figure(canvas, character, body, strands, life).draw()


class Figure:
    """One character at one moment."""

    def __init__(self, canvas: Canvas, character: Character, body: Body, strands: Strands | None, life: Life):
        self.canvas, self.character, self.body = canvas, character, body
        self.strands, self.life = strands, life
        self.build, self.girth = character.build, character.build.girth
        self.at = {name: joint[:2] for name, joint in body.joints.items()}
        self.depth = {name: float(joint[2]) for name, joint in body.joints.items()}
        self.cos, self.sin = float(np.cos(body.turn)), float(np.sin(body.turn))

    def draw(self) -> None:
        """Paint the parts in order of depth: the torso is at 0, with limbs behind and in front of it."""
        self.shadow()
        parts: list[tuple[float, Callable[[], None]]] = [
            (-0.02, self.neck),
            (0.0, self.torso),
            (0.035, self.head),
            *self.hair(),
        ]
        if self.character.legwear in ("skirt", "dress"):
            parts.append((0.004, self.skirt))  # also over a raised thigh
        for name in SIDES:
            arm = (self.depth[f"{name}_elbow"] + self.depth[f"{name}_wrist"]) / 2
            # An arm beside the body is painted in front of it, an arm raised forwards in front of the face.
            parts.append((arm * 1.2 + 0.012 if arm > -0.02 else -0.06 + arm * 0.1, self.arm(name)))
            knee = self.depth[f"{name}_knee"]
            parts.append((0.003 if knee > 0.11 else -0.05 + 0.1 * knee, self.leg(name)))
        for _, paint in sorted(parts, key=lambda part: part[0]):
            paint()

    def shadow(self) -> None:
        middle, spread = feet(self.body) + self.life.shadow
        shape = self.canvas.ellipse(np.array([middle, 0.938]), 0.11 + spread * 0.5, 0.026)
        self.canvas.soften(shape, (0.05, 0.04, 0.08), 0.5, 0.02)

    def clothe(self, shape: Shape, cloth: Cloth, ink: float = 0.5) -> None:
        looks = cloth.look(shape.along, shape.across, 1 / self.canvas.size)
        self.canvas.paint(shape, looks, ink=ink)

    # Limbs

    def leg(self, name: str) -> Callable[[], None]:
        def paint() -> None:
            look, canvas, girth = self.character, self.canvas, self.girth
            hip, knee, ankle = (self.at[f"{name}_{joint}"] for joint in ("hip", "knee", "ankle"))
            toe = self.at[f"{name}_toe"]
            thick, middle, thin = 0.042 * girth, 0.033 * girth, 0.022 * girth
            canvas.paint(canvas.capsule(knee, ankle, middle * 0.92, thin), look.skin)
            if look.socks is not None:
                canvas.paint(
                    canvas.capsule(knee + 0.45 * (ankle - knee), ankle, 0.028 * girth, thin * 1.1), look.socks
                )
            canvas.paint(canvas.capsule(ankle + np.array([0, 0.004]), toe, 0.024, 0.018), look.shoes)
            canvas.paint(canvas.capsule(hip, knee, thick, middle), look.skin)
            if look.legwear == "trousers":
                wide = 0.029 * girth
                self.clothe(
                    canvas.capsule(knee, ankle - 0.1 * (ankle - knee), middle * 1.05, wide), look.bottom
                )
                self.clothe(canvas.capsule(hip, knee, thick * 1.08, middle * 1.1), look.bottom, ink=0.35)
            elif look.legwear == "shorts":
                self.clothe(
                    canvas.capsule(hip, hip + 0.72 * (knee - hip), thick * 1.1, middle * 1.32), look.bottom
                )

        return paint

    def arm(self, name: str) -> Callable[[], None]:
        def paint() -> None:
            look, canvas, girth = self.character, self.canvas, self.girth
            shoulder, elbow, wrist = (self.at[f"{name}_{joint}"] for joint in ("shoulder", "elbow", "wrist"))
            thick, middle, thin = 0.031 * girth, 0.025 * girth, 0.019 * girth
            hand = wrist + (wrist - elbow) / max(float(np.hypot(*(wrist - elbow))), 0.02) * 0.014
            palm = look.skin if look.gloves is None else look.gloves
            canvas.paint(canvas.capsule(wrist, hand, 0.022, 0.021), palm)
            canvas.paint(canvas.capsule(elbow, wrist, middle, thin), look.skin)
            canvas.paint(canvas.capsule(shoulder, elbow, thick, middle), look.skin, ink=0.35)
            if look.sleeve > 1:
                self.clothe(
                    canvas.capsule(elbow, elbow + 0.92 * (wrist - elbow), middle * 1.12, 0.026 * girth),
                    look.top,
                )
            if look.sleeve > 0:
                reach = min(look.sleeve, 1.0)
                end = shoulder + reach * (elbow - shoulder)
                self.clothe(canvas.capsule(shoulder, end, thick * 1.12, middle * 1.25), look.top, ink=0.4)

        return paint

    # Trunk

    def half_width(self, frontal: float, depth: float) -> float:
        """Half the visible width of an oval cross-section with these half-axes, at the body's turn."""
        return float(np.hypot(frontal * self.cos, depth * self.sin))

    def torso(self) -> None:
        look, build, girth = self.character, self.build, self.girth
        neck, pelvis = self.at["neck"], self.at["pelvis"]
        up = (neck - pelvis) / build.torso
        side = np.array([-up[1], up[0]])
        chest = self.half_width(build.shoulders * 0.93, 0.058 * girth)
        waist = self.half_width(build.hips * 1.2 + 0.008 * girth, 0.055 * girth)
        hem = self.half_width(build.hips * 1.25 + 0.018 * girth, 0.06 * girth)
        rounding = 0.02
        rows = (
            (neck - 0.012 * up, chest - 0.012), (neck - 0.05 * up, chest),
            (pelvis + 0.085 * up, waist), (pelvis - 0.022 * up, hem),
        )  # fmt: skip
        right = [centre - side * (width - rounding) for centre, width in rows]
        left = [centre + side * (width - rounding) for centre, width in rows]
        shape = self.canvas.polygon([*right, *reversed(left)], rounding)
        shape = self.on_body(shape, neck, up, chest)
        across, down = self.life.slide.astype(np.float32)
        self.clothe(shape._replace(along=shape.along - down, across=shape.across - across), look.top)
        if look.emblem is not None:
            self.emblem(shape)
        if look.belt is not None and look.legwear != "dress":
            low = np.abs(shape.along - build.torso + 0.012) - 0.011
            self.canvas.paint(clipped(shape, low), look.belt, ink=0.3)

    def on_body(self, shape: Shape, origin: Point, up: Point, half: float) -> Shape:
        """The shape with coordinates down from `origin` and around the trunk from the middle of the chest."""
        x = self.canvas.centres[None, shape.cols] - np.float32(origin[0])
        y = self.canvas.centres[shape.rows, None] - np.float32(origin[1])
        along = -(x * np.float32(up[0]) + y * np.float32(up[1]))
        across = (y * np.float32(up[0]) - x * np.float32(up[1])) / np.float32(half)
        around = np.arcsin(across.clip(-1, 1)) - np.float32(self.body.turn)
        return shape._replace(
            along=along,
            across=(around * np.float32(self.build.shoulders)).astype(np.float32),
            normal_x=across.clip(-1, 1),
            normal_y=(along / np.float32(self.build.torso) - 0.5).clip(-1, 1) * 0.6,
        )

    def emblem(self, shape: Shape) -> None:
        name = self.character.emblem
        assert name is not None
        share = emblem_share(name, shape.along - 0.095, shape.across, 0.115)
        cloth = self.character.top
        self.canvas.paint(shape, mix(cloth.colour, cloth.accent, share), ink=0.5)

    def skirt(self) -> None:
        look, build, girth = self.character, self.build, self.girth
        pelvis = self.at["pelvis"]
        knees = self.at["right_knee"], self.at["left_knee"]
        cloth = look.top if look.legwear == "dress" else look.bottom
        if self.strands is not None:
            draw_skirt(self.canvas, self.strands.skirt, cloth, self.body.turn)
            return
        waist = self.half_width(build.hips * 1.2 + 0.014 * girth, 0.058 * girth)
        drop = float(np.mean([knee[1] for knee in knees]) - pelvis[1]) * 0.72
        low = min(float(knee[0]) for knee in knees) - 0.035 * girth
        high = max(float(knee[0]) for knee in knees) + 0.035 * girth
        wide = self.half_width(build.hips * 1.2 + 0.055, 0.09)
        low, high = min(low, pelvis[0] - wide), max(high, pelvis[0] + wide)
        top, hem = pelvis[1] - 0.03, pelvis[1] + max(drop, 0.06)
        corners = [
            (pelvis[0] - waist + 0.01, top),
            (pelvis[0] + waist - 0.01, top),
            (high - 0.01, hem),
            (low + 0.01, hem),
        ]
        shape = self.canvas.polygon(corners, 0.012)
        shape = self.on_body(shape, pelvis, np.array([0.0, -1.0]), max(high - low, 0.02) / 2)
        self.clothe(shape, cloth)

    def neck(self) -> None:
        start, end = self.at["neck"], self.at["head"]
        self.canvas.paint(self.canvas.capsule(start, end, 0.026 * self.girth), self.character.skin)

    # Head

    def on_face(self, sideways: float, above: float, ahead: float) -> tuple[Point, float]:
        """`face_point` as its position (x, y) and its depth z."""
        point = face_point(self.build, self.body, sideways, above, ahead)
        return point[:2], float(point[2])

    def hair(self) -> list[tuple[float, Callable[[], None]]]:
        """The hair that hangs behind the head, or in strands behind or in front of the body, by depth."""
        look, half = self.character, self.build.head
        behind = -0.10 if np.cos(self.body.look) > 0.3 else -0.02
        if self.strands is None:
            return [(behind, self.back_hair)]
        parts: list[tuple[float, Callable[[], None]]] = []
        for lock, points in zip(LOCKS[look.cut], self.strands.hair, strict=True):
            ahead = self.on_face(*lock.root)[1] > -0.5 * half
            widths = (half * lock.thick, half * lock.thin)
            parts.append(
                (0.02 if ahead else behind, partial(draw_strand, self.canvas, points, *widths, look.hair))
            )
        return parts

    def back_hair(self) -> None:
        look, canvas, half = self.character, self.canvas, self.build.head
        if look.cut in ("long", "bob"):
            start, _ = self.on_face(0, 0.15, -0.2)
            end, _ = self.on_face(0, -1.0 if look.cut == "bob" else -2.1, -0.35)
            canvas.paint(canvas.capsule(start, end, half * 1.02, half * 0.72), look.hair)
        elif look.cut == "ponytail":
            start, _ = self.on_face(0, 0.5, -0.85)
            end, _ = self.on_face(0.1, -1.3, -1.35)
            canvas.paint(canvas.capsule(start, end, half * 0.34, half * 0.16), look.hair)
        elif look.cut == "afro":
            centre, _ = self.on_face(0, 0.3, -0.15)
            canvas.paint(canvas.ellipse(centre, half * 1.42, half * 1.3, self.body.tilt), look.hair)

    def head(self) -> None:
        look, canvas, half, tilt = self.character, self.canvas, self.build.head, self.body.tilt
        if look.scarf is not None:
            neck = self.at["neck"] - np.array([0, 0.006])
            wide = self.half_width(0.052, 0.045)
            canvas.paint(canvas.ellipse(neck, wide, 0.026, tilt), look.scarf)
            if self.strands is None:
                tail = neck + np.array([0.03 * self.cos + 0.03 * self.sin, 0.1])
                start = neck + np.array([0.02 * self.cos, 0.01])
                canvas.paint(canvas.capsule(start, tail, 0.014, 0.019), look.scarf)
            else:
                for points in self.strands.scarf:
                    draw_strand(canvas, points, 0.016, 0.021, look.scarf)
        width = half * (0.86 + 0.06 * abs(np.sin(self.body.look)))
        for side in SIDES.values():
            ear, depth = self.on_face(0.86 * side, -0.05, -0.05)
            if depth > -0.4 * half:
                canvas.paint(canvas.ellipse(ear, half * 0.17, half * 0.24, tilt), look.skin)
        canvas.paint(canvas.ellipse(self.at["head"], width, half, tilt), look.skin)
        self.face()
        self.front_hair(width)
        draw_hat(canvas, look, self.body, width)

    def face(self) -> None:
        look, canvas, half, tilt = self.character, self.canvas, self.build.head, self.body.tilt
        dark = tuple(channel * 0.35 for channel in look.skin)
        for side in SIDES.values():
            eye, depth = self.on_face(0.38 * side, 0.08, 0.74)
            if depth < 0.12 * half:
                continue
            squeeze = min(1.0, 0.35 + depth / half)
            canvas.paint(
                canvas.ellipse(eye, half * 0.19 * squeeze, half * 0.22, tilt), (0.97, 0.97, 0.97), ink=0.3
            )
            pupil, _ = self.on_face(0.37 * side, 0.06, 0.8)
            canvas.paint(canvas.ellipse(pupil, half * 0.11, half * 0.15, tilt), (0.1, 0.08, 0.1), ink=0)
            if self.life.lids:
                lid = canvas.ellipse(eye, half * 0.21 * squeeze, half * 0.24, tilt)
                edge = (lid.along + half * (0.24 - 0.48 * self.life.lids)).astype(np.float32)
                canvas.paint(clipped(lid, edge), look.skin, ink=0.3)
            brow, _ = self.on_face(0.4 * side, 0.42, 0.74)
            canvas.paint(canvas.ellipse(brow, half * 0.2 * squeeze, half * 0.06, tilt), dark, ink=0)
            cheek, _ = self.on_face(0.5 * side, -0.3, 0.72)
            canvas.soften(
                canvas.ellipse(cheek, half * 0.2 * squeeze, half * 0.17), (0.9, 0.35, 0.3), 0.35, 0.012
            )
        nose, _ = self.on_face(0, -0.16, 1.0)
        canvas.paint(
            canvas.ellipse(nose, half * 0.1, half * 0.13, tilt), tuple(0.82 * c for c in look.skin), ink=0
        )
        mouth, depth = self.on_face(0, -0.5, 0.82)
        canvas.paint(
            canvas.ellipse(mouth, half * 0.28 * max(0.4, depth / half), half * 0.085, tilt),
            (0.62, 0.2, 0.2),
            ink=0.2,
        )
        if look.glasses:
            for side in SIDES.values():
                eye, depth = self.on_face(0.4 * side, 0.07, 0.78)
                if depth > 0.12 * half:
                    ring = canvas.ellipse(eye, half * 0.3 * min(1.0, 0.35 + depth / half), half * 0.3, tilt)
                    frame = ring._replace(distance=np.abs(ring.distance + 0.004) - 0.0045)
                    canvas.paint(frame, (0.1, 0.1, 0.13), ink=0)

    def front_hair(self, width: float) -> None:
        """The hair over the skull: the part of the head above a line from the forehead to the nape."""
        look, canvas, half, tilt = self.character, self.canvas, self.build.head, self.body.tilt
        if look.cut == "bald":
            return
        up = np.array([np.sin(tilt), -np.cos(tilt)])
        centre = self.at["head"] + up * (0.05 * half)
        thick = 1.28 if look.cut == "afro" else 1.08
        shape = canvas.ellipse(centre, width * thick, half * thick, tilt)
        turned = np.float32(np.sin(self.body.look))
        line = 0.42 + turned * (shape.across / half) * 1.1  # higher over the face, lower behind
        if look.cut in ("bob", "long"):
            line = line - 0.9 * (np.abs(shape.across / half) - 0.45).clip(0, 1)
        if look.cut == "mohawk":
            shape = canvas.capsule(
                centre + up * half * 0.55, centre + up * half * 1.25, half * 0.3, half * 0.2
            )
            canvas.paint(shape, look.hair)
            return
        canvas.paint(clipped(shape, (shape.along + line * half).astype(np.float32)), look.hair)
        if look.cut == "bun":
            canvas.paint(canvas.ellipse(centre + up * half * 1.18, half * 0.42, half * 0.38), look.hair)
