"""Hats and headbands."""

from __future__ import annotations

import numpy as np

from .character import Character
from .drawing import Canvas, clipped
from .motion import Body, face_point


def draw_hat(canvas: Canvas, character: Character, body: Body, width: float) -> None:
    """What the character wears on its head, which is `width` wide from its middle, in frame units."""
    hat, cloth, half, tilt = character.hat, character.hat_cloth, character.build.head, body.tilt
    if hat is None:
        return
    up = np.array([np.sin(tilt), -np.cos(tilt)])
    side = np.array([-up[1], up[0]])
    head = body.joints["head"][:2]
    if hat == "headband":
        shape = canvas.ellipse(head + up * 0.05 * half, width * 1.1, half * 1.08, tilt)
        canvas.paint(clipped(shape, np.abs(shape.along + 0.5 * half) - 0.13 * half), cloth.colour, ink=0.3)
        return
    if hat == "top hat":
        base, top = head + up * half * 0.72, head + up * half * 1.7
        canvas.paint(
            canvas.capsule(base - side * width * 1.15, base + side * width * 1.15, half * 0.12),
            cloth.colour,
        )
        corners = [
            base - side * width * 0.7,
            base + side * width * 0.7,
            top + side * width * 0.75,
            top - side * width * 0.75,
        ]
        canvas.paint(canvas.polygon(corners, 0.004), cloth.colour)
        reach, rim = side * width * 0.72, base + up * half * 0.25
        band = [base - reach, base + reach, rim + reach, rim - reach]
        canvas.paint(canvas.polygon(band), cloth.accent, ink=0)
        return
    shape = canvas.ellipse(head + up * 0.1 * half, width * 1.16, half * 1.12, tilt)
    shape = clipped(shape, shape.along + np.float32(0.34 * half))
    canvas.paint(shape, cloth.look(shape.along, shape.across, 1 / canvas.size))
    if hat == "cap":
        start = face_point(character.build, body, 0, 0.5, 0.8)[:2]
        brim = face_point(character.build, body, 0, 0.34, 1.75)[:2]
        canvas.paint(
            canvas.capsule(
                start - side * half * 0.3 * float(np.cos(body.turn)), brim, half * 0.22, half * 0.2
            ),
            cloth.accent,
        )
    else:
        canvas.paint(canvas.ellipse(head + up * half * 1.3, half * 0.26, half * 0.26), cloth.accent)
