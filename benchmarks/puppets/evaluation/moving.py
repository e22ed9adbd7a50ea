"""A moving picture of soft scenes for the README: reference, poses, generated and true frames of each.

python -m animate_rt.benchmarks.puppets.evaluation.moving FOLDER PICTURE.gif

A bundle is built and kept in FOLDER.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from ....atomic import atomic
from ....runtime.animator import Animator
from ..training.model import SIZE, WEIGHTS
from ..world.scene import Picture, Scene
from .truth import HELD_OUT_SEEDS, Truth
from .variants import build, in_fastest_precision

SEEDS, FRAMES = HELD_OUT_SEEDS[:4], 32
DURATION = 1000 // 12  # ms per frame
COLOURS = 128


def moving(truths: list[Truth], animator: Animator) -> Picture:
    """(frames, H, W, 3): a column per scene; from above: reference, pose, generated, true."""
    columns = []
    for truth in truths:
        made = np.stack(list(animator.animate(truth.reference, truth.poses)))
        reference = np.broadcast_to(truth.reference, made.shape)
        columns.append(np.concatenate([reference, truth.poses, made, truth.frames], axis=1))
    return np.concatenate(columns, axis=2)


def write_gif(path: Path, frames: Picture) -> None:
    """All frames with one palette and without dithering, so that what stands still is stored once."""
    pictures = [Image.fromarray(frame) for frame in frames]
    palette = Image.fromarray(np.concatenate(list(frames[::8]))).quantize(COLOURS)
    first, *others = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    with atomic(path) as temporary:
        first.save(
            temporary, "GIF", save_all=True, append_images=others, duration=DURATION, loop=0, optimize=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    truths = [Truth(Scene("held-out-soft", seed, SIZE), FRAMES) for seed in SEEDS]
    with Animator.load(in_fastest_precision(build(WEIGHTS, options.folder / "whole"))) as animator:
        write_gif(options.picture, moving(truths, animator))


if __name__ == "__main__":
    main()
