"""MediaPipe's models on a real person: accuracy, steadiness, following, speed of one frame."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from animate_rt.errors import InputMissing
from animate_rt.runtime.poses.extraction.extract import Report, extract
from animate_rt.runtime.poses.extraction.mediapipe import MediaPipe
from animate_rt.runtime.poses.keypoints import (
    BODY,
    FACE,
    LEFT_EYE,
    LEFT_SHOULDER,
    NOSE,
    RIGHT_EYE,
    RIGHT_SHOULDER,
    VISIBLE,
    Pose,
)
from PIL import Image, ImageOps

# Marked by hand on the enlarged picture of 512x512: tip of the nose, pupils, and the middle of the shoulders'
# joints inside the suit. "Left" is the person's own.
MARKED = {
    NOSE: (225.8, 125.8),
    RIGHT_EYE: (203.7, 101.3),
    LEFT_EYE: (246.7, 103.3),
    RIGHT_SHOULDER: (108.0, 240.0),
    LEFT_SHOULDER: (310.0, 248.0),
}
TOLERANCE = 0.02 * 512
SECONDS_PER_FRAME = 0.1  # of the processor: two cores then make 20 frames a second


@pytest.fixture(scope="module")
def models(mediapipe_models: Path) -> Iterator[MediaPipe]:
    models = MediaPipe(mediapipe_models)
    yield models
    models.close()


def distances(pose: Pose, scale: float = 1.0, shift: tuple[float, float] = (0, 0)) -> dict[int, float]:
    """How far the points are from the marked ones, in pixels of the portrait."""
    found = {point: (pose[point, :2] - shift) / scale for point in MARKED}
    return {point: float(np.hypot(*(found[point] - MARKED[point]))) for point in MARKED}


def scene(*portraits: tuple[Any, int]) -> Image.Image:
    """A grey picture of 1280x512 with portraits that stand on its lower edge, with their left sides at x."""
    image = Image.new("RGB", (1280, 512), (90, 90, 90))
    for portrait, x in portraits:
        image.paste(portrait, (x, 512 - portrait.height))
    return image


def test_points_of_a_portrait_are_where_they_were_marked(
    models: MediaPipe, astronaut: Any, capsys: Any
) -> None:
    (pose,) = extract([astronaut], models)
    found = distances(pose)
    with capsys.disabled():
        print("\nastronaut, pixels of 512:", {point: round(away, 1) for point, away in found.items()})
    assert max(found.values()) <= TOLERANCE
    assert pose[FACE, 2].min() > 0.9
    jaw, mouth = pose[FACE][8, :2], pose[FACE][48:60, :2].mean(axis=0)
    assert np.hypot(*(jaw - (221, 178))) <= TOLERANCE  # chin and mouth, marked by hand
    assert np.hypot(*(mouth - (223, 144))) <= TOLERANCE


def test_points_outside_the_picture_are_missing(models: MediaPipe, astronaut: Any) -> None:
    (pose,) = extract([astronaut], models)
    there = pose[pose[:, 2] > 0, :2]
    assert there.min() >= 0
    assert there.max() < 512
    assert not pose[pose[:, 2] == 0].any()
    assert not pose[[9, 10, 12, 13]].any()  # knees and ankles, which the portrait does not show


def test_points_are_steady_in_a_still_video(models: MediaPipe, astronaut: Any, capsys: Any) -> None:
    report = Report()
    poses = np.array(list(extract([astronaut] * 30, models, report=report)))
    spread = poses[10:, list(MARKED), :2].std(axis=0).mean(axis=1)
    with capsys.disabled():
        print("\nstandard deviation in a still video, pixels of 512:", spread.round(2))
    assert (report.detections, report.chosen) == (1, [0])
    assert spread[:3].max() < 1  # nose and eyes
    assert spread.max() < 2


def test_a_person_is_followed_across_the_picture(models: MediaPipe, astronaut: Any, capsys: Any) -> None:
    report, steps = Report(), [40 + 24 * i for i in range(24)]
    poses = list(extract([scene((astronaut, x)) for x in steps], models, report=report))
    assert (report.detections, report.chosen, report.missing) == (1, [0], [])
    away = [distances(pose, shift=(x, 0)) for pose, x in zip(poses, steps, strict=True)]
    medians = {point: float(np.median([each[point] for each in away])) for point in MARKED}
    with capsys.disabled():
        print("\nmoving by 24 pixels per frame, medians:", {k: round(v, 1) for k, v in medians.items()})
    assert max(each[point] for each in away for point in (NOSE, RIGHT_EYE, LEFT_EYE)) <= TOLERANCE
    assert max(medians.values()) <= 2 * TOLERANCE


def test_one_of_two_people_is_followed(models: MediaPipe, astronaut: Any) -> None:
    """The other one is a smaller mirror image."""
    small = ImageOps.mirror(astronaut).resize((360, 360), Image.Resampling.LANCZOS)
    frames = [scene((astronaut, 40 + 6 * i), (small, 860)) for i in range(6)]
    x, y = MARKED[NOSE]
    large_nose, small_nose = (40 + x, y), (860 + 360 * (1 - x / 512), 152 + 360 * y / 512)
    for person, nose, step in ((0, large_nose, 6), (1, small_nose, 0), (small_nose, small_nose, 0)):
        report = Report()
        poses = list(extract(frames, models, person=person, report=report))
        assert report.most_people == 2
        assert report.chosen == [0]
        for i, pose in enumerate(poses):
            assert np.hypot(*(pose[NOSE, :2] - (nose[0] + step * i, nose[1]))) <= TOLERANCE


def test_a_loss_is_interpolated_and_someone_else_is_reported(models: MediaPipe, astronaut: Any) -> None:
    here, there, nobody = scene((astronaut, 100)), scene((ImageOps.mirror(astronaut), 700)), scene()
    report = Report()
    frames = [here, nobody, nobody, here, *[there] * 7]
    poses = list(extract(frames, models, report=report))
    assert report.interpolated == [1, 2]
    assert np.allclose(poses[1][NOSE, :2], poses[0][NOSE, :2], atol=5)
    assert abs(poses[-1][NOSE, 0] - (700 + 512 - MARKED[NOSE][0])) <= TOLERANCE
    assert report.chosen[0] == 0
    assert len(report.chosen) == 2


def test_nobody_is_found_in_noise_and_in_tiny_pictures(models: MediaPipe) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    for frame in (noise, np.zeros((1, 1, 3), np.uint8), np.full((16, 3000, 3), 255, np.uint8)):
        (pose,) = extract([frame], models)
        assert not pose.any()


def test_the_size_of_the_picture_does_not_matter(models: MediaPipe, astronaut: Any) -> None:
    for side in (160, 1600):
        (pose,) = extract([astronaut.resize((side, side), Image.Resampling.LANCZOS)], models)
        found = distances(pose, scale=side / 512)
        assert max(found[point] for point in (NOSE, RIGHT_EYE, LEFT_EYE)) <= TOLERANCE
        assert np.isfinite(pose).all()
        assert (pose[BODY, 2] > VISIBLE).sum() >= 8


def test_a_frame_takes_little_time(models: MediaPipe, astronaut: Any, capsys: Any) -> None:
    """Seconds of the processor, which other processes do not change much, for a person followed at 720p."""
    frame = Image.new("RGB", (1280, 720))
    frame.paste(astronaut.resize((720, 720)), (280, 0))
    report, count = Report(), 20
    list(extract([frame] * 3, models))
    began = resource.getrusage(resource.RUSAGE_SELF)
    list(extract([frame] * count, models, report=report))
    ended = resource.getrusage(resource.RUSAGE_SELF)
    seconds = (ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime) / count
    with capsys.disabled():
        print(
            f"\none frame at 720p: {1000 * seconds:.0f} ms of the processor, {report.seconds / count:.3f} s"
        )
    assert seconds <= SECONDS_PER_FRAME


def test_without_the_models_the_command_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match="fetch them with: animate-rt models fetch mediapipe --models DIR"):
        MediaPipe(tmp_path)
