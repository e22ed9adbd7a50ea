"""Keypoints that programs make, and which folders hold keypoints."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from animate_rt import Keypoints, read_keypoints, write_keypoints
from animate_rt.errors import InputError
from animate_rt.runtime.poses.sources import is_keypoint_source

POINTS = np.full((2, 128, 3), 0.5)
CORRECT = {"frames": POINTS, "width": 1280, "height": 720, "frame_rate": Fraction(30)}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"frames": POINTS[0]}, r"expected an array \(frames, 128, 3\), found \(128, 3\)"),
        ({"frames": [[1], [2, 3]]}, "of numbers, found something else"),
        ({"frames": "points"}, "of numbers, found something else"),
        ({"frames": POINTS * np.nan}, "expected finite numbers"),
        ({"frames": POINTS * 3}, "expected scores of 0 to 1, found 1.5 to 1.5"),
        ({"width": 0}, "expected a width of at least 1 pixel, found 0"),
        ({"height": -720}, "expected a height of at least 1 pixel, found -720"),
        ({"width": 1280.5}, "expected a width .*found 1280.5"),
        ({"width": "1280"}, "expected a width .*found 1280"),
        ({"frame_rate": 29.97}, r"expected a frame rate like Fraction\(30000, 1001\) or None, found 29.97"),
        ({"frame_rate": Fraction(0)}, "expected a frame rate"),
        ({"frame_rate": -30}, "expected a frame rate"),
    ],
)
def test_wrong_keypoints_are_one_line(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^keypoints: .*{message}"):
        Keypoints(**CORRECT | wrong)


def test_keypoints_do_not_change_with_the_array() -> None:
    array = np.array(POINTS)
    array[0, 5] = 7, 7, 0
    keypoints = Keypoints(**CORRECT | {"frames": array})
    array[:] = 0
    assert keypoints.frames[0, 4].tolist() == [0.5] * 3
    assert not keypoints.frames[0, 5].any()  # of score 0, so it is missing
    with pytest.raises(ValueError, match="read-only"):
        keypoints.frames[0] = 1


@pytest.mark.parametrize("name", ["a.json", "a.npz", "folder"])
def test_whole_numbers_are_frame_rates(tmp_path: Path, name: str) -> None:
    write_keypoints(tmp_path / name, Keypoints(POINTS * [500, 500, 1], 640, 480, 30))  # type: ignore[arg-type]
    assert read_keypoints(tmp_path / name).frame_rate == 30


def test_folders_of_keypoints_are_told_from_others(tmp_path: Path) -> None:
    """Hidden files, which systems and editors leave among pictures, do not decide it."""
    assert not is_keypoint_source(tmp_path)
    for name, expected in ((".index.json", False), ("0.png", False), ("0.JSON", True)):
        (tmp_path / name).touch()
        assert is_keypoint_source(tmp_path) == expected
