"""The background of a scene: drawn once, the same in every frame."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np

from .drawing import Array, Canvas, mix

RNG = np.random.Generator


def random_background(rng: RNG, size: int) -> Array:
    """RGB from 0 to 1, (size, size, 3)."""
    kinds: tuple[Callable[[RNG, Canvas], None], ...] = (meadow, room, city, beach, studio, stage)
    canvas = Canvas.blank(size)
    kinds[rng.integers(len(kinds))](rng, canvas)
    return canvas.pixels


def hue(
    rng: RNG, saturation: tuple[float, float], value: tuple[float, float], around: float | None = None
) -> Array:
    """A random colour (3,) in these ranges; its hue is within 0.04 of `around` if that is given."""
    angle = rng.random() if around is None else (around + rng.uniform(-0.04, 0.04)) % 1
    return np.array(colorsys.hsv_to_rgb(angle, rng.uniform(*saturation), rng.uniform(*value)), np.float32)


def fade(canvas: Canvas, top: Array, bottom: Array, start: float = 0.0, end: float = 1.0) -> None:
    """Paint a vertical gradient over the rows from `start` to `end` (frame units)."""
    edge = ((canvas.centres - start) * canvas.size + 0.5).clip(0, 1) * (
        (end - canvas.centres) * canvas.size + 0.5
    ).clip(0, 1)
    share = ((canvas.centres - start) / (end - start)).clip(0, 1)
    colours = mix(top, bottom, share)[:, None]
    canvas.pixels += edge[:, None, None] * (colours - canvas.pixels)


def meadow(rng: RNG, canvas: Canvas) -> None:
    sky = hue(rng, (0.2, 0.5), (0.8, 1.0), rng.choice([0.55, 0.6, 0.08]))
    horizon = rng.uniform(0.62, 0.78)
    fade(canvas, sky, mix(sky, (1, 1, 1), np.float32(0.6)), 0, horizon + 0.02)
    sun = np.array([rng.uniform(0.1, 0.9), rng.uniform(0.08, 0.25)])
    canvas.soften(canvas.ellipse(sun, 0.13, 0.13), (1, 0.97, 0.8), 0.7, 0.09)
    canvas.paint(canvas.ellipse(sun, 0.055, 0.055), (1, 0.93, 0.6), shade=0, ink=0)
    clouds(rng, canvas, 0.35)
    grass = hue(rng, (0.35, 0.65), (0.5, 0.8), 0.29)
    for step in (1, 0):
        centre = np.array([rng.uniform(0, 1), horizon + 0.36 - 0.05 * step])
        shade = mix(grass, sky, np.float32(0.25 + 0.2 * step))
        canvas.paint(canvas.ellipse(centre, rng.uniform(0.5, 0.8), 0.4), shade, shade=0.1, ink=0)
    fade(canvas, grass, grass * 0.72, horizon)


def clouds(rng: RNG, canvas: Canvas, lowest: float) -> None:
    for _ in range(rng.integers(0, 4)):
        middle = np.array([rng.uniform(0, 1), rng.uniform(0.06, lowest)])
        for offset in (-0.05, 0.0, 0.055):
            puff = canvas.ellipse(middle + np.array([offset, 0.008]), 0.05, 0.03 + 0.012 * (offset == 0))
            canvas.paint(puff, (1, 1, 1), opacity=0.85, shade=0.04, ink=0)


def room(rng: RNG, canvas: Canvas) -> None:
    wall, floor = hue(rng, (0.1, 0.4), (0.6, 0.95)), hue(rng, (0.3, 0.55), (0.4, 0.7), 0.07)
    horizon = rng.uniform(0.74, 0.84)
    fade(canvas, wall * 1.05, wall * 0.9, 0, horizon)
    if rng.random() < 0.5:  # wallpaper
        period = rng.uniform(0.1, 0.2)
        stripes = ((canvas.centres / period) % 1 < 0.5).astype(np.float32) * 0.06
        canvas.pixels *= 1 - stripes[None, :, None]
    fade(canvas, floor, floor * 0.75, horizon)
    fade(canvas, wall * 0.6, wall * 0.6, horizon - 0.02, horizon)
    for left in (0.04, 0.7)[: rng.integers(1, 3)]:
        top = rng.uniform(0.08, 0.3)
        width, height = rng.uniform(0.2, 0.3), rng.uniform(0.2, 0.32)
        corners = np.array(
            [(left, top), (left + width, top), (left + width, top + height), (left, top + height)]
        )
        canvas.paint(canvas.polygon(corners, 0.012), hue(rng, (0.1, 0.5), (0.3, 0.9)), shade=0.05, ink=0.3)
        canvas.paint(canvas.polygon(corners), hue(rng, (0.2, 0.5), (0.6, 1.0)), shade=0.15, ink=0)
        middle = np.array([left + width / 2, top + height * 0.6])
        canvas.paint(
            canvas.ellipse(middle, width * 0.3, height * 0.25), hue(rng, (0.3, 0.7), (0.4, 0.9)), ink=0
        )


def city(rng: RNG, canvas: Canvas) -> None:
    sky = hue(rng, (0.2, 0.6), (0.5, 1.0), rng.choice([0.58, 0.7, 0.05, 0.9]))
    horizon = rng.uniform(0.72, 0.82)
    fade(canvas, sky, mix(sky, (1, 0.9, 0.8), np.float32(0.5)), 0, horizon)
    tone = hue(rng, (0.1, 0.3), (0.25, 0.6))
    left = -0.05
    while left < 1:
        width, top = rng.uniform(0.12, 0.22), rng.uniform(0.2, 0.55)
        shade = tone * rng.uniform(0.75, 1.25)
        corners = np.array([(left, top), (left + width, top), (left + width, 1), (left, 1)])
        canvas.paint(canvas.polygon(corners), shade, shade=0.06, ink=0.15)
        lit = rng.uniform(1.2, 1.6)
        for x in np.arange(left + 0.03, left + width - 0.03, 0.05):
            for y in np.arange(top + 0.04, horizon - 0.04, 0.075):
                canvas.paint(canvas.polygon([(x, y), (x + 0.022, y), (x + 0.022, y + 0.035), (x, y + 0.035)]),
                             np.minimum(shade * lit + 0.05, 1), shade=0, ink=0)  # fmt: skip
        left += width
    road = np.float32(rng.uniform(0.3, 0.5)) * np.ones(3, np.float32)
    fade(canvas, road, road * 0.85, horizon)
    fade(canvas, road * 1.5, road * 1.4, horizon, horizon + 0.025)


def beach(rng: RNG, canvas: Canvas) -> None:
    sky, sea = hue(rng, (0.2, 0.5), (0.85, 1.0), 0.56), hue(rng, (0.4, 0.7), (0.55, 0.85), 0.54)
    sand = hue(rng, (0.25, 0.4), (0.8, 0.95), 0.11)
    horizon, shore = rng.uniform(0.42, 0.55), rng.uniform(0.7, 0.78)
    fade(canvas, sky, mix(sky, (1, 1, 1), np.float32(0.7)), 0, horizon)
    clouds(rng, canvas, horizon - 0.12)
    fade(canvas, sea * 0.8, sea, horizon, shore)
    fade(canvas, mix(sand, (1, 1, 1), np.float32(0.5)), sand, shore - 0.012)
    fade(canvas, sand, sand * 0.88, shore + 0.02)
    if rng.random() < 0.6:
        foot = np.array([rng.choice([0.1, 0.9]), 0.74])
        top = foot + np.array([rng.uniform(-0.04, 0.04), -0.45])
        canvas.paint(
            canvas.capsule(foot, top, 0.022, 0.014), hue(rng, (0.4, 0.5), (0.35, 0.5), 0.08), ink=0.3
        )
        leaf = hue(rng, (0.5, 0.7), (0.4, 0.6), 0.33)
        for angle in np.linspace(-0.3, np.pi + 0.3, 6):
            tip = top + 0.17 * np.array([np.cos(angle), -0.55 * np.sin(angle) + 0.25])
            canvas.paint(canvas.capsule(top, tip, 0.022, 0.006), leaf, ink=0.25)


def studio(rng: RNG, canvas: Canvas) -> None:
    base = hue(rng, (0.0, 0.45), (0.45, 0.9))
    canvas.pixels[:] = base
    glow = np.array([rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.5)])
    canvas.soften(canvas.ellipse(glow, 0.75, 0.75), np.minimum(base * 1.3 + 0.05, 1), 0.8, 0.7)
    horizon = rng.uniform(0.78, 0.86)
    fade(canvas, base * 0.85, base * 0.7, horizon)
    if rng.random() < 0.5:
        accent = hue(rng, (0.2, 0.6), (0.5, 0.95))
        for _ in range(rng.integers(2, 6)):
            centre = np.array([rng.uniform(0, 1), rng.uniform(0.05, horizon - 0.15)])
            radius = rng.uniform(0.03, 0.12)
            canvas.paint(canvas.ellipse(centre, radius, radius), accent, opacity=0.6, shade=0.1, ink=0)


def stage(rng: RNG, canvas: Canvas) -> None:
    curtain, boards = hue(rng, (0.5, 0.8), (0.35, 0.7)), hue(rng, (0.3, 0.5), (0.4, 0.65), 0.08)
    folds = 1 + 0.16 * np.sin(2 * np.pi * canvas.centres / rng.uniform(0.09, 0.16))
    horizon = rng.uniform(0.76, 0.84)
    canvas.pixels[:] = curtain * folds[None, :, None].astype(np.float32)
    fade(canvas, boards * 0.9, boards * 1.15, horizon)
    light = np.array([rng.uniform(0.35, 0.65), 0.45])
    canvas.soften(canvas.ellipse(light, 0.5, 0.6), np.minimum(curtain * 1.5 + 0.15, 1), 0.4, 0.4)
    canvas.soften(canvas.ellipse(np.array([light[0], 0.92]), 0.42, 0.08), (1, 0.97, 0.85), 0.45, 0.06)
