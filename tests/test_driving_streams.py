"""Long driving videos and long folders of keypoints: the clip begins early, and memory stays the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from animate_rt.runtime.media.pose_sequence import PoseSequence
from animate_rt.runtime.poses import driving
from animate_rt.runtime.poses.driving import open_driver, open_poses
from animate_rt.runtime.poses.formats.writing import write_keypoints
from PIL import Image

from . import shot_command
from .damage import peak_bytes, reset_peak
from .fixed_cost import HEIGHT, WIDTH, open_animator
from .people import person
from .slow import SLOW
from .test_driving_portraits import film

inputs = shot_command.inputs
# Bytes, of freed memory that is kept for later. All frames of the long video would take 184 MB, and their
# skeletons ten times as much.
MOST_GROWTH = 40e6


class Made(NamedTuple):
    frames: int
    read_before: int  # frames of the source that had been read when the first frame was there
    growth: int  # bytes that memory grew by after a tenth of the frames


def made(inputs: Path, poses: PoseSequence, read: Callable[[], int]) -> Made:
    """Animate a sequence in open windows, and keep nothing of it."""
    frames = first = start = 0
    reference = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    assert poses.num_frames is not None
    with open_animator(inputs / "bundle") as animator:
        for _ in animator.animate(reference, poses, steps=1, overlap=1, windows="open"):
            frames += 1
            first = first or read()
            if frames == poses.num_frames // 10:
                start = reset_peak()
        return Made(frames, first, peak_bytes() - start)


@pytest.mark.parametrize(
    ("count", "smooth"),
    [(100, "none"), pytest.param(2000, "none", marks=SLOW), pytest.param(2000, "forward", marks=SLOW)],
)
def test_the_clip_begins_before_the_video_was_read(
    inputs: Path,
    tmp_path: Path,
    mediapipe_models: Path,
    astronaut: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    count: int,
    smooth: Any,
) -> None:
    portrait = astronaut.resize((160, 160), Image.Resampling.LANCZOS)
    steps = [portrait.transform((192, 160), Image.Transform.AFFINE, (1, 0, -i, 0, 1, 0)) for i in range(32)]
    back_and_forth = [*steps, *reversed(steps)]
    film(tmp_path / "dance.mp4", [back_and_forth[i % 64] for i in range(count)])
    read = 0

    def counted(*arguments: Any) -> PoseSequence:
        pictures = open_driver(*arguments)

        def frames() -> Iterator[Image.Image]:
            nonlocal read
            for picture in pictures:
                read += 1
                yield picture

        return replace(pictures, read=frames)

    monkeypatch.setattr(driving, "open_driver", counted)
    poses = open_poses(tmp_path / "dance.mp4", smooth=smooth, models=mediapipe_models)
    found = made(inputs, poses, lambda: read)
    with capsys.disabled():
        print(f"\n{count} frames of a video: {found}")
    assert found.frames == read == count
    assert found.read_before <= 24
    assert found.growth < MOST_GROWTH


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=SLOW)])
def test_a_folder_of_keypoint_files(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int
) -> None:
    """All are read at once, as a person is followed through them; skeletons are drawn one by one."""
    write_keypoints(tmp_path / "walk", person("walk", heading=90, frames=count, speed=4))
    poses = open_poses(tmp_path / "walk")
    drawn = 0

    def counted() -> Iterator[Image.Image]:
        nonlocal drawn
        for picture in poses:
            drawn += 1
            yield picture

    found = made(inputs, replace(poses, read=counted), lambda: drawn)
    with capsys.disabled():
        print(f"\n{count} keypoint files: {found}")
    assert found.frames == drawn == count
    assert found.read_before <= 24
    assert found.growth < MOST_GROWTH
