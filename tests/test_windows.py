"""Window policies: uniform windows as in the public scheduler, open ones that do not wrap."""

from __future__ import annotations

import json
from itertools import pairwise, product
from typing import Any

import pytest
from animate_rt.runtime.clip.windows import KnownLength, Window, open_ended, uniform


def open_windows(frames: int, size: int, overlap: int) -> list[Window]:
    return list(open_ended(KnownLength(frames), size, overlap))


def test_uniform_equals_the_recorded_lists(case: Any) -> None:
    recorded = json.loads((case.path / "windows.json").read_text())
    assert recorded
    for key, expected in recorded.items():
        frames, size, stride, overlap = map(int, key.split(","))
        assert uniform(frames, size, overlap, stride) == expected, key


@pytest.mark.parametrize(
    ("frames", "windows"), [(24, 1), (25, 2), (40, 2), (48, 3), (64, 4), (128, 7), (240, 12), (300, 15)]
)
def test_uniform_has_the_documented_number_of_windows(frames: int, windows: int) -> None:
    assert len(uniform(frames, 24, 4)) == windows  # SPEC.md 4.4


@pytest.mark.parametrize("policy", [uniform, open_windows])
def test_every_frame_is_covered_by_full_windows(policy: Any) -> None:
    for frames, size in product(range(1, 40), range(1, 12)):
        for overlap in range(size):
            windows = policy(frames, size, overlap)
            assert {frame for window in windows for frame in window} == set(range(frames))
            assert all(len(window) == len(set(window)) == min(size, frames) for window in windows)


def test_open_windows_do_not_wrap_and_overlap_at_least_as_asked() -> None:
    for frames, size in product(range(1, 40), range(1, 12)):
        for overlap in range(size):
            windows = open_windows(frames, size, overlap)
            assert all(window == list(range(window[0], window[0] + len(window))) for window in windows)
            starts = [window[0] for window in windows]
            assert starts == sorted(set(starts))
            assert all(b - a <= size - overlap for a, b in pairwise(starts))


def test_open_windows_of_short_clips() -> None:
    assert open_windows(10, 6, 2) == [[0, 1, 2, 3, 4, 5], [4, 5, 6, 7, 8, 9]]
    assert open_windows(9, 6, 2) == [[0, 1, 2, 3, 4, 5], [3, 4, 5, 6, 7, 8]]
    assert open_windows(3, 6, 2) == [[0, 1, 2]]
