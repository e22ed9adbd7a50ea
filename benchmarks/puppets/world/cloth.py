"""Cloth: two-colour patterns as a function of the position on the body, and emblems for the chest."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from .drawing import Array, mix

PATTERNS = ("plain", "plain", "hoops", "stripes", "dots", "checks", "band")
EMBLEMS = (*"ABCEHKMPRSTXZ2358", "star", "heart", "ring", "bolt", "diamond")
TEXELS = 64  # along each side of an emblem


@dataclass(frozen=True)
class Cloth:
    """Two colours and a pattern, which repeats every `period` frame units."""

    colour: tuple[float, float, float]
    accent: tuple[float, float, float]
    pattern: str
    period: float

    def look(self, along: Array, across: Array, pixel: float) -> Any:
        """The colour at coordinates on the body: (3,) if it is the same everywhere, else (h, w, 3).

        `pixel` is the width of a pixel in frame units.
        """
        if self.pattern == "plain":
            return self.colour
        soft = 1 / pixel
        if self.pattern == "hoops":
            share = stripe(along, self.period, soft)
        elif self.pattern == "stripes":
            share = stripe(across, self.period, soft)
        elif self.pattern == "checks":
            share = 0.5 * (stripe(along, self.period, soft) + stripe(across, self.period, soft))
        elif self.pattern == "band":
            share = (0.5 - (np.abs(along - 0.07) - 0.022) * soft).clip(0, 1)
        else:
            half = self.period / 2
            row = np.floor(along / self.period)
            dx = (across + half * (row % 2)) % self.period - half
            dy = along - (row + 0.5) * self.period
            share = (0.5 - (np.hypot(dx, dy) - 0.32 * self.period) * soft).clip(0, 1)
        return mix(self.colour, self.accent, np.asarray(share + 0 * (along + across), np.float32))


def stripe(position: Array, period: float, soft: float) -> Array:
    """1 on one half of every period and 0 on the other, with anti-aliased edges."""
    triangle = np.abs((position / period) % 1 - 0.5) * period - period / 4
    return (0.5 + triangle * soft).clip(0, 1)


def emblem_share(name: str, along: Array, across: Array, side: float) -> Array:
    """Coverage of each point, 0 to 1, by an emblem centred at (0, 0) with sides of length `side`."""
    texels = emblem(name)
    row = ((along / side + 0.5) * TEXELS).astype(int).clip(0, TEXELS - 1)
    col = ((across / side + 0.5) * TEXELS).astype(int).clip(0, TEXELS - 1)
    return texels[row, col]


@cache
def emblem(name: str) -> Array:
    """Coverage (64, 64), blurred by about a pixel of a small picture; the outermost texels are 0."""
    image = Image.new("L", (TEXELS, TEXELS))
    draw = ImageDraw.Draw(image)
    middle, reach = TEXELS / 2, TEXELS * 0.4
    if len(name) == 1:
        font = ImageFont.load_default(size=TEXELS * 0.95)
        draw.text((middle, middle), name, fill=255, font=font, anchor="mm", stroke_width=3)
    elif name == "ring":
        draw.ellipse((10, 10, TEXELS - 10, TEXELS - 10), outline=255, width=11)
    else:
        draw.polygon([(middle + reach * x, middle + reach * y) for x, y in outline(name)], fill=255)
    blurred = image.filter(ImageFilter.BoxBlur(2))
    texels = np.asarray(blurred, np.float32) / 255
    texels[[0, -1]] = 0
    texels[:, [0, -1]] = 0
    return texels


def outline(name: str) -> list[tuple[float, float]]:
    """Corners (x, y) of an emblem's outline, about -1 to 1."""
    if name == "star":
        turns = np.arange(10) * np.pi / 5
        return [(np.sin(a) * r, -np.cos(a) * r) for a, r in zip(turns, [1.0, 0.42] * 5, strict=True)]
    if name == "heart":
        turns = np.linspace(0, 2 * np.pi, 40)
        x = np.sin(turns) ** 3
        y = (13 * np.cos(turns) - 5 * np.cos(2 * turns) - 2 * np.cos(3 * turns) - np.cos(4 * turns)) / 16
        return list(zip(x.tolist(), (-y).tolist(), strict=True))
    if name == "bolt":
        return [(0.2, -1), (-0.7, 0.15), (-0.1, 0.15), (-0.3, 1), (0.7, -0.25), (0.1, -0.25)]
    return [(0, -1), (0.75, 0), (0, 1), (-0.75, 0)]
