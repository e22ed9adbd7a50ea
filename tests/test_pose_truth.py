"""Extraction with MediaPipe's models on rendered people, whose joints are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from animate_rt.benchmarks.extraction import accuracy, table
from animate_rt.benchmarks.rendered_people import RenderedPerson
from animate_rt.runtime.poses.extraction.mediapipe import MediaPipe
from animate_rt.runtime.poses.keypoints import LEFT_SHOULDER, NECK, RIGHT_SHOULDER

PEOPLE, FRAMES, SIZE = 6, 6, 384
BARS = {"shoulder": 0.9, "elbow": 0.9, "hip": 0.9, "knee": 0.9}


def test_joints_of_rendered_people_are_found(mediapipe_models: Path, capsys: Any) -> None:
    models = MediaPipe(mediapipe_models)
    result = accuracy(models, [RenderedPerson(seed, SIZE) for seed in range(PEOPLE)], FRAMES)
    models.close()
    with capsys.disabled():
        print(f"\n{table('rendered', result)}")
    assert result["frames"] == PEOPLE * FRAMES
    assert result["frames_without_a_person"] == 0
    for point, share in result["pck_by_point"].items():
        assert share >= BARS.get(point.split()[-1], 0), point
    assert result["mean_error_torso"] <= 0.1


def test_truth_and_picture_of_a_rendered_person_agree() -> None:
    """The neck is in the middle of the shoulders, and joints lie on the person, not on the background."""
    person = RenderedPerson(3, 256)
    pose = person.keypoints(0)
    assert pose.shape == (18, 3)
    middle = (pose[LEFT_SHOULDER] + pose[RIGHT_SHOULDER])[:2] / 2
    assert np.hypot(*(pose[NECK, :2] - middle)) < 10
    picture, empty = person.frame(0), (255 * person.background).round()
    changed = np.abs(picture - empty).max(axis=2) > 8
    assert 0.05 < changed.mean() < 0.4
    x, y = pose[pose[:, 2] > 0, :2].astype(int).T
    assert changed[y, x].mean() > 0.9
    assert np.array_equal(person.frame(0), RenderedPerson(3, 256).frame(0))
    assert not np.array_equal(picture, person.frame(5))
