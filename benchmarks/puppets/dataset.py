"""Clips of the puppet world as latents, on disk in shards that are read where they lie.

A clip's poses are kept as keypoints and drawn when asked for, which takes less time than reading them would
take space. Shards are complete or absent, so that making a dataset goes on where it stopped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...runtime.picture import square
from .model import IMAGE_ENCODER_CONFIG, LATENT_CHANNELS, SIZE
from .world import Picture, Scene, Split

FRAMES = 16  # consecutive ones of a clip: the window the motion modules are trained at
SHARD = 64  # clips per file
SCENES = 3072
SIDE = SIZE // 8
IMAGE_SIDE = IMAGE_ENCODER_CONFIG["image_size"]

CLIP = np.dtype(
    [
        ("reference", np.float16, (LATENT_CHANNELS, SIDE, SIDE)),
        ("latents", np.float16, (FRAMES, LATENT_CHANNELS, SIDE, SIDE)),
        ("keypoints", np.float32, (FRAMES, 18, 3)),
        ("image", np.uint8, (IMAGE_SIDE, IMAGE_SIDE, 3)),  # the reference as the image encoder gets it
    ]
)
Clips = NDArray[Any]  # of dtype CLIP
Encode = Callable[[Picture], NDArray[np.float32]]  # pictures (n, H, W, 3) to latents (n, C, h, w)


def make_clips(split: Split, seeds: Iterable[int], encode: Encode) -> Clips:
    seeds = list(seeds)
    clips = np.zeros(len(seeds), CLIP)
    for clip, seed in zip(clips, seeds, strict=True):
        scene = Scene(split, seed, SIZE)
        reference = scene.reference()
        pictures = np.stack([reference, *(scene.frame(i) for i in range(FRAMES))])
        latents = encode(pictures)
        clip["reference"], clip["latents"] = latents[0], latents[1:]
        clip["keypoints"] = [scene.keypoints(i) for i in range(FRAMES)]
        clip["image"] = square(Image.fromarray(reference), IMAGE_SIDE)
    return clips


class Dataset:
    """The shards of one folder."""

    def __init__(self, folder: Path):
        self.shards = [np.load(path, mmap_mode="r") for path in sorted(folder.glob("clips-*.npy"))]

    def draw(self, rng: np.random.Generator, count: int) -> Clips:
        """Random clips, copied out of their files."""
        places = rng.integers(len(self.shards), size=count), rng.integers(SHARD, size=count)
        return np.stack([self.shards[shard][i] for shard, i in zip(*places, strict=True)])


def write_shards(folder: Path, encode: Encode, scenes: int, rank: int, workers: int) -> None:
    """Every `workers`th shard that is not there yet; scenes are seeded 0, 1, ... of the training split."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(rank, scenes // SHARD, workers):
        path = folder / f"clips-{number:04}.npy"
        if not path.exists():
            temporary = folder / f".clips-{number:04}.{os.getpid()}.npy"
            np.save(temporary, make_clips("train", range(number * SHARD, (number + 1) * SHARD), encode))
            os.replace(temporary, path)
