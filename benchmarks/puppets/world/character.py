"""The look of a character: body, skin, hair and clothes."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace

import numpy as np

from .cloth import EMBLEMS, PATTERNS, Cloth
from .motion import Build

RGB = tuple[float, float, float]

SKIN = ("#f6d3b8", "#eabf9a", "#d9a57a", "#bd8358", "#94603c", "#6b4429", "#4d3020")
HAIR = ("#1f1a18", "#3b2a20", "#5c3a21", "#8a5a2b", "#c79a4b", "#e6cf8e", "#a63d1f", "#8c8c92", "#d9d9de",
        "#4a5fb5", "#c25a93", "#3f8f6b")  # fmt: skip
HAIR_CUTS = ("bald", "short", "short", "bob", "long", "bun", "afro", "ponytail", "mohawk")
HATS = (None, None, None, None, "cap", "beanie", "top hat", "headband")
LEGWEAR = ("trousers", "trousers", "shorts", "skirt", "dress")


def colour(code: str) -> RGB:
    red, green, blue = (int(code[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def random_colour(rng: np.random.Generator) -> RGB:
    """A colour for clothes: usually saturated, in one of five cases dark grey, grey or nearly white."""
    if rng.random() < 0.2:
        grey = rng.choice([0.14, 0.5, 0.93])
        return (grey, grey, grey + 0.02)
    return colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.45, 0.9), rng.uniform(0.45, 0.95))


def luminance(shade: RGB) -> float:
    return 0.3 * shade[0] + 0.59 * shade[1] + 0.11 * shade[2]


def random_cloth(rng: np.random.Generator, plain: float = 0.0) -> Cloth:
    base, accent = random_colour(rng), random_colour(rng)
    if abs(luminance(base) - luminance(accent)) < 0.25:  # the pattern would be invisible
        accent = (0.95, 0.95, 0.93) if luminance(base) < 0.5 else (0.12, 0.12, 0.16)
    pattern = "plain" if rng.random() < plain else PATTERNS[rng.integers(len(PATTERNS))]
    return Cloth(base, accent, pattern, float(rng.uniform(0.05, 0.085)))


@dataclass(frozen=True)
class Character:
    build: Build
    skin: RGB
    hair: RGB
    cut: str
    top: Cloth
    emblem: str | None
    sleeve: float  # its length: 0 none, 1 to the elbow, 2 to the wrist
    legwear: str
    bottom: Cloth
    shoes: RGB
    socks: RGB | None
    hat: str | None
    hat_cloth: Cloth
    glasses: bool
    scarf: RGB | None
    belt: RGB | None
    gloves: RGB | None

    @classmethod
    def random(cls, rng: np.random.Generator) -> Character:
        def maybe(chance: float) -> RGB | None:
            shade = random_colour(rng)
            return shade if rng.random() < chance else None

        top = random_cloth(rng)
        emblem = EMBLEMS[rng.integers(len(EMBLEMS))] if rng.random() < 0.45 else None
        if emblem is not None:
            top = Cloth(top.colour, top.accent, "plain", top.period)
        return cls(
            build=Build.random(rng),
            skin=colour(SKIN[rng.integers(len(SKIN))]),
            hair=colour(HAIR[rng.integers(len(HAIR))]),
            cut=HAIR_CUTS[rng.integers(len(HAIR_CUTS))],
            top=top,
            emblem=emblem,
            sleeve=float(rng.choice([0.0, 0.55, 0.9, 2.0, 2.0])),
            legwear=LEGWEAR[rng.integers(len(LEGWEAR))],
            bottom=random_cloth(rng, plain=0.55),
            shoes=random_colour(rng),
            socks=maybe(0.3),
            hat=HATS[rng.integers(len(HATS))],
            hat_cloth=random_cloth(rng, plain=0.4),
            glasses=bool(rng.random() < 0.25),
            scarf=maybe(0.2),
            belt=maybe(0.35),
            gloves=maybe(0.15),
        )

    def labelled(self, top: RGB, bottom: RGB) -> Character:
        """The same shape with top and bottom in these plain colours; skin, hair and other clothes black."""
        black = (0.0, 0.0, 0.0)
        worn = {
            name: black for name in ("socks", "scarf", "belt", "gloves") if getattr(self, name) is not None
        }
        return replace(
            self,
            skin=black,
            hair=black,
            shoes=black,
            hat_cloth=Cloth(black, black, "plain", 1.0),
            top=Cloth(top, top, "plain", 1.0),
            bottom=Cloth(bottom, bottom, "plain", 1.0),
            **worn,
        )
