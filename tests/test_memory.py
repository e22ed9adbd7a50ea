"""A long clip costs what it must keep (latents, pose features) and not the frames that pass through."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from animate_rt import Animator

SHORT, LONG = 20, 320
OVERHEAD = 1500  # bytes per frame for lists, array headers, windows


def poses(count: int) -> Iterator[np.ndarray]:
    for i in range(count):
        yield np.full((96, 64, 3), i % 256, np.uint8)


def peak(animator: Animator, frames: int) -> int:
    reference = np.zeros((96, 64, 3), np.uint8)
    tracemalloc.start()
    made = sum(1 for _ in animator.animate(reference, poses(frames), steps=1, guidance_scale=1))
    highest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert made == frames
    return highest


def test_frames_are_not_held(small_bundle: Path) -> None:
    with Animator.load(small_bundle) as animator:
        peak(animator, SHORT)  # engines load
        growth = (peak(animator, LONG) - peak(animator, SHORT)) / (LONG - SHORT)
    latents, pose_features = 4 * 12 * 8 * 4, 32 * 12 * 8 * 4
    frame = 96 * 64 * 3
    kept = 3 * latents + pose_features + OVERHEAD  # latents, their sum over windows, a product
    assert growth < kept < frame + pose_features
