"""Scenes of the puppet world: a seed gives a moving character in front of a background.

python -m animate_rt.benchmarks.puppets.world.scene SHEET.png [--split held-out] [--size 128]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .background import random_background
from .character import Character
from .drawing import Array, Canvas
from .figure import draw_figure
from .lively import Lively
from .motion import Body, keypoints, pose, random_motion
from .skeleton import draw_skeleton
from .soft import Soft, hanging, resting, softened

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]
GREEN, BLUE = (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
Split = Literal["train", "held-out", "train-soft", "held-out-soft"]
# Part of every seed, so that splits share no scene.
SPLITS: dict[Split, int] = {"train": 1, "held-out": 2, "train-soft": 3, "held-out-soft": 4}
SOFT: tuple[Split, ...] = ("train-soft", "held-out-soft")
HISTORIES = (-11, -5, 5, 11)  # frames from a frame to those whose histories could also have led to it
OPEN = 8  # levels of 255 by which a pixel must differ between histories


class Scene:
    """One character, background and motion, and a second motion that gives the reference its pose.

    In soft splits hair, skirt, scarf, eyelids, the top's pattern and the shadow depend on the frames before.
    """

    def __init__(self, split: Split, seed: int, size: int = 128):
        looks, moves, backdrop, softness, blinks = (
            np.random.default_rng([SPLITS[split], seed, part]) for part in range(5)
        )
        self.size = size
        self.character = Character.random(looks)
        self.motion, self.reference_motion = random_motion(moves), random_motion(moves)
        self.start, self.reference_time = moves.uniform(0, 200, 2)
        self.background: Array = random_background(backdrop, size)
        self.is_soft = split in SOFT
        if self.is_soft:
            self.character = softened(self.character, softness)
            self.soft, self.lively = Soft(self.character, self.body), Lively(self.body, blinks)

    def body(self, frame: float) -> Body:
        return pose(self.character.build, self.motion, self.start + frame)

    def frame(self, frame: int, history: int | None = None) -> Picture:
        """The true picture (size, size, 3), or that of the same pose with what depends on the frames before
        as it is in the frame `history`."""
        canvas = Canvas(self.background.copy())
        self.draw(canvas, self.character, frame, history)
        return canvas.as_bytes()

    def keypoints(self, frame: int) -> Array:
        """(18, 3): x and y in frame units, and 1 if visible, else 0."""
        return keypoints(self.character.build, self.body(frame))

    def pose(self, frame: int) -> Picture:
        """The pose picture (size, size, 3)."""
        return draw_skeleton(self.keypoints(frame), self.size)

    def reference(self) -> Picture:
        """The same character and background in another pose (size, size, 3)."""
        canvas = Canvas(self.background.copy())
        body = pose(self.character.build, self.reference_motion, self.reference_time)
        strands = resting(self.character, body) if self.is_soft else None
        draw_figure(canvas, self.character, body, strands)
        return canvas.as_bytes()

    def draw(self, canvas: Canvas, character: Character, frame: int, history: int | None = None) -> None:
        """The character, or one of the same shape in other colours, on the canvas."""
        body = self.body(frame)
        if self.is_soft:
            moment = frame if history is None else history
            strands = hanging(self.character, body, self.soft.at(moment))
            draw_figure(canvas, character, body, strands, self.lively.at(moment))
        else:
            draw_figure(canvas, character, body)

    def open(self, frame: int) -> Mask:
        """(size, size): which pixels the frame alone leaves open, because other histories change them."""
        true, found = self.frame(frame).astype(int), np.zeros((self.size, self.size), bool)
        for offset in HISTORIES if self.is_soft else ():
            found |= np.abs(self.frame(frame, frame + offset) - true).max(axis=2) > OPEN
        return found

    def mask(self, frame: int) -> Mask:
        """(size, size): which pixels show the character, without its shadow."""
        before = [self.flat(self.character, frame, shade) for shade in (0.0, 1.0)]
        return (before[1] - before[0]).mean(axis=2) < 0.4  # a shadow lets half of the background through

    def clothes(self, frame: int) -> Mask:
        """(2, size, size): which pixels show the cloth of the top, and which that of the bottom."""
        picture = self.flat(self.character.labelled(GREEN, BLUE), frame, 0.0)
        return np.stack(
            [
                (picture[..., i] > 0.3) & (picture[..., i] > 2 * picture[..., [0, 3 - i]].max(axis=2))
                for i in (1, 2)
            ]
        )

    def face(self, frame: int) -> Mask:
        """(size, size): which pixels are within the outline of the head."""
        x, y, _ = self.body(frame).joints["head"] * self.size - 0.5
        rows, columns = np.ogrid[: self.size, : self.size]
        return np.hypot(columns - x, rows - y) < self.character.build.head * self.size

    def flat(self, character: Character, frame: int, shade: float) -> Array:
        """A character in front of one shade of grey, RGB from 0 to 1."""
        canvas = Canvas.blank(self.size, (shade, shade, shade))
        self.draw(canvas, character, frame)
        return canvas.pixels


def sheet(split: Split, seeds: range, size: int, frames: range) -> Picture:
    """One row per scene: the reference, then each pose with its frame."""
    rows = []
    for seed in seeds:
        scene = Scene(split, seed, size)
        pictures = [scene.reference()]
        for frame in frames:
            pictures += [scene.pose(frame), scene.frame(frame)]
        rows.append(np.concatenate(pictures, axis=1))
    return np.concatenate(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sheet", type=Path)
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--scenes", type=int, default=8)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    from PIL import Image

    seeds = range(options.first, options.first + options.scenes)
    Image.fromarray(sheet(options.split, seeds, options.size, range(0, 16, 4))).save(options.sheet)


if __name__ == "__main__":
    main()
