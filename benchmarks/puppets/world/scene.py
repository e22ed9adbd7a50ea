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
from .motion import Body, keypoints, pose, random_motion
from .skeleton import draw_skeleton

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]
GREEN, BLUE = (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
Split = Literal["train", "held-out"]
SPLITS: dict[Split, int] = {"train": 1, "held-out": 2}  # part of every seed, so that splits share no scene


class Scene:
    """One character, background and motion, and a second motion that gives the reference its pose."""

    def __init__(self, split: Split, seed: int, size: int = 128):
        looks, moves, backdrop = (np.random.default_rng([SPLITS[split], seed, part]) for part in range(3))
        self.size = size
        self.character = Character.random(looks)
        self.motion, self.reference_motion = random_motion(moves), random_motion(moves)
        self.start, self.reference_time = moves.uniform(0, 200, 2)
        self.background: Array = random_background(backdrop, size)

    def body(self, frame: int) -> Body:
        return pose(self.character.build, self.motion, self.start + frame)

    def frame(self, frame: int) -> Picture:
        """The true picture (size, size, 3)."""
        return self.draw(self.body(frame))

    def keypoints(self, frame: int) -> Array:
        """(18, 3): x and y in frame units, and 1 if visible, else 0."""
        return keypoints(self.character.build, self.body(frame))

    def pose(self, frame: int) -> Picture:
        """The pose picture (size, size, 3)."""
        return draw_skeleton(self.keypoints(frame), self.size)

    def reference(self) -> Picture:
        """The same character and background in another pose (size, size, 3)."""
        return self.draw(pose(self.character.build, self.reference_motion, self.reference_time))

    def draw(self, body: Body) -> Picture:
        canvas = Canvas(self.background.copy())
        draw_figure(canvas, self.character, body)
        return canvas.as_bytes()

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

    def flat(self, character: Character, frame: int, shade: float) -> Array:
        """A character in front of one shade of grey, RGB from 0 to 1."""
        canvas = Canvas.blank(self.size, (shade, shade, shade))
        draw_figure(canvas, character, self.body(frame))
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
