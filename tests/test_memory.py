"""Memory per frame of a long clip: latents and pose features in uniform windows, nothing in open ones."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from animate_rt import Animator

SHORT, LONG = 40, 160
OVERHEAD = 1500  # bytes per frame for lists, array headers, windows
LATENTS, POSE_FEATURES, PICTURE = 4 * 12 * 8 * 4, 32 * 12 * 8 * 4, 96 * 64 * 3  # bytes of a frame


def poses(count: int) -> Iterator[np.ndarray]:
    for i in range(count):
        yield np.full((96, 64, 3), i % 256, np.uint8)


def peak(bundle: Path, frames: int, windows: str) -> int:
    reference = np.zeros((96, 64, 3), np.uint8)
    with Animator.load(bundle) as animator:
        list(animator.animate(reference, poses(1), steps=2, guidance_scale=1))  # loads the engines
        tracemalloc.start()
        clip = animator.animate(reference, poses(frames), steps=2, guidance_scale=1, windows=windows)
        made = sum(1 for _ in clip)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert made == frames
    return highest


def growth(bundle: Path, windows: str) -> float:
    return (peak(bundle, LONG, windows) - peak(bundle, SHORT, windows)) / (LONG - SHORT)


def test_uniform_windows_hold_a_picture_or_features_of_a_frame_and_not_both(small_bundle: Path) -> None:
    held = max(PICTURE, 3 * LATENTS + POSE_FEATURES)
    assert growth(small_bundle, "uniform") < held + OVERHEAD < PICTURE + POSE_FEATURES


def test_open_windows_hold_nothing_of_finished_frames(small_bundle: Path) -> None:
    assert growth(small_bundle, "open") < OVERHEAD
