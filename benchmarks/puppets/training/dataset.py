"""Clips of the puppet world on disk: pictures, drawn by all cores, and latents, once the VAE is trained.

A field is one file, which is complete or absent. On a CPU the file is memory-mapped; a GPU holds all of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ....atomic import atomic
from ....runtime.media.picture import square
from ..world.scene import Mask, Picture, Scene, Split
from .model import IMAGE_ENCODER_CONFIG, LATENT_CHANNELS, SIZE

FRAMES = 16  # consecutive frames in a clip: the window that motion modules are trained with
SCENES = {"cpu": 3072, "cuda": 6144}  # as many as training on a device uses; 1.7 MB each
PART = 64  # scenes drawn or encoded at a time
MIXED: tuple[Split, ...] = ("train", "train-soft")  # training takes scenes of these in turns
WATCHED: tuple[Split, ...] = ("held-out", "held-out-soft")
# How much more an error counts in the face, which is a few pixels that one looks at, and where a single frame
# leaves the picture open, which are the pixels that only the motion modules can get right.
FACE, OPEN = 3.0, 2.0
UNIT = 32  # the weight 1 of an error as it is stored
IMAGE_SIDE = IMAGE_ENCODER_CONFIG["image_size"]

Encode = Callable[[Picture], NDArray[np.float32]]  # pictures (n, H, W, 3) to latents (n, C, h, w)


class Drawn(NamedTuple):
    """One clip, or several with a leading axis."""

    pictures: Picture  # (1 + FRAMES, SIZE, SIZE, 3): the reference, then the frames
    poses: Picture  # (FRAMES, SIZE, SIZE, 3)
    image: Picture  # (IMAGE_SIDE, IMAGE_SIDE, 3): the reference as input of the image encoder
    weight: Picture  # (FRAMES, SIZE / 8, SIZE / 8): of an error in each latent pixel, in units of 1 / UNIT


SHAPES = Drawn(
    (1 + FRAMES, SIZE, SIZE, 3),
    (FRAMES, SIZE, SIZE, 3),
    (IMAGE_SIDE, IMAGE_SIDE, 3),
    (FRAMES, SIZE // 8, SIZE // 8),
)
LATENTS_SHAPE = (1 + FRAMES, LATENT_CHANNELS, SIZE // 8, SIZE // 8)


def scenes_of(splits: tuple[Split, ...], numbers: Iterable[int]) -> list[Scene]:
    """Scenes by number, which come from the splits in turns."""
    return [Scene(splits[n % len(splits)], n // len(splits), SIZE) for n in numbers]


def draw_clip(scene: Scene) -> Drawn:
    reference = scene.reference()
    return Drawn(
        np.stack([reference, *(scene.frame(i) for i in range(FRAMES))]),
        np.stack([scene.pose(i) for i in range(FRAMES)]),
        square(Image.fromarray(reference), IMAGE_SIDE),
        np.stack([weights(scene.face(i), scene.open(i)) for i in range(FRAMES)]),
    )


def weights(face: Mask, opened: Mask) -> NDArray[np.uint8]:
    """Weights of errors in latent pixels, by the fractions of them that are in these masks."""
    extra = FACE * face.astype(np.float32) + OPEN * opened
    cells = extra.reshape(SIZE // 8, 8, SIZE // 8, 8).mean(axis=(1, 3))
    return (UNIT * (1 + cells)).round().astype(np.uint8)


def draw_clips(scenes: list[Scene]) -> Drawn:
    return Drawn(*map(np.stack, zip(*map(draw_clip, scenes), strict=True)))


def write_pictures(folder: Path, scenes: int) -> None:
    """Draw scenes 0, 1, ... of the training splits, unless `folder` exists."""
    if folder.exists():
        return
    with atomic(folder) as temporary:
        temporary.mkdir(parents=True)
        for name, shape in zip(Drawn._fields, SHAPES, strict=True):
            open_memmap(temporary / f"{name}.npy", "w+", np.uint8, (scenes, *shape))
        parts = [range(first, min(first + PART, scenes)) for first in range(0, scenes, PART)]
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
            list(pool.map(partial(write_part, temporary), parts))


def write_part(folder: Path, numbers: range) -> None:
    for name, drawn in zip(Drawn._fields, draw_clips(scenes_of(MIXED, numbers)), strict=True):
        open_memmap(folder / f"{name}.npy", "r+")[numbers.start : numbers.stop] = drawn


def write_latents(folder: Path, encode: Encode, rank: int, size: int, barrier: Callable[[], None]) -> None:
    """Encode all pictures, unless the latents exist. Each of `size` workers calls this and encodes its part;
    `barrier` returns once all workers have called it."""
    path, temporary = folder / "latents.npy", folder / ".latents.npy"
    if path.exists():
        return
    pictures = np.load(folder / "drawn" / "pictures.npy", mmap_mode="r")
    if rank == 0:
        open_memmap(temporary, "w+", np.float16, (len(pictures), *LATENTS_SHAPE))
    barrier()
    latents = open_memmap(temporary, "r+")
    for first in range(rank * PART, len(pictures), size * PART):
        part = pictures[first : first + PART]
        encoded = encode(part.reshape(-1, SIZE, SIZE, 3))
        latents[first : first + PART] = encoded.reshape(len(part), *LATENTS_SHAPE)
    latents.flush()
    barrier()
    if rank == 0:
        os.replace(temporary, path)
    barrier()


def mapped(path: Path) -> Tensor:
    """A field of all clips, on the default device. Never written; "c" because torch wants writable arrays."""
    return torch.from_numpy(np.load(path, mmap_mode="c")).to(torch.get_default_device())
