"""Keypoint files of every tool give the points that they hold. record_keypoint_files.py wrote the files."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from animate_rt.errors import InputError
from animate_rt.runtime.media.notices import notice
from animate_rt.runtime.poses.formats.reading import read_keypoints
from animate_rt.runtime.poses.keypoints import (
    BODY,
    LEFT_ANKLE,
    LEFT_HAND,
    LEFT_SHOULDER,
    NECK,
    RIGHT_ANKLE,
    RIGHT_HAND,
    RIGHT_SHOULDER,
    RIGHT_WRIST,
    Keypoints,
)
from animate_rt.runtime.poses.layouts import FACE_OF_MESH

from .keypoint_truth import HEIGHT, WIDTH, truth

FILES = Path(__file__).parent / "data" / "poses" / "formats"
SIZE = WIDTH, HEIGHT


def read(name: str, **options: Any) -> Keypoints:
    found = read_keypoints(FILES / name, **options)
    assert (found.width, found.height) == SIZE
    return found


def same(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_a_folder_of_openpose_is_read_in_natural_order() -> None:
    found = read("openpose_folder", size=SIZE)  # clip_2, clip_10, clip_11; 25 points, face of 70
    same(found.frames, [truth(frame) for frame in range(3)])
    assert found.frame_rate is None


def test_a_list_of_openpose_with_18_points() -> None:
    found = read("openpose_list.json", size=SIZE)
    expected = np.stack([truth(frame) for frame in range(3)])
    expected[:, BODY.stop :] = 0
    expected[:, RIGHT_WRIST] = 0  # written as 0, 0, 0
    same(found.frames, expected)


def test_comfyui_with_a_normalised_body_and_hands_in_pixels() -> None:
    found = read("comfyui_pose_keypoint.json")
    expected = np.stack([truth(frame) for frame in range(2)])
    expected[:, RIGHT_HAND] = 0  # null
    expected[:, RIGHT_ANKLE, :2] = 0.3125 * WIDTH, 1.1131 * HEIGHT  # beyond the picture
    same(found.frames, expected)  # the face has 71 points, and the animal is nobody


def test_controlnet_whose_scores_are_lost(caplog: pytest.LogCaptureFixture) -> None:
    notice.cache_clear()
    with caplog.at_level(logging.WARNING):
        found = read("webui_controlnet.json")
    expected = truth()[None]
    expected[:, BODY, 2] = 1
    expected[:, LEFT_ANKLE] = 0
    expected[:, BODY.stop :] = 0
    same(found.frames, expected)
    assert "webui_controlnet.json: faces of 56 points are not drawn" in caplog.text


def test_results_of_coco_with_a_frame_without_people() -> None:
    found = read("coco_results.json", size=SIZE)  # pictures 10, 11 and 13
    expected = np.stack([truth(0), truth(1), (truth(1) + truth(3)) / 2, truth(3)])
    expected[:, BODY.stop :] = 0
    same(found.frames, expected)


def test_the_neck_is_between_the_shoulders_if_both_are_certain(tmp_path: Path) -> None:
    people = json.loads((FILES / "coco_results.json").read_text())
    for entry in people:
        entry["keypoints"][3 * 5 + 2] = 0.29  # left shoulder
    (tmp_path / "results.json").write_text(json.dumps(people))
    found = read_keypoints(tmp_path / "results.json", size=SIZE)
    assert not found.frames[:, NECK].any()
    same(found.frames[0, 5], [250, 200, 0.29])
    same(read("coco_results.json", size=SIZE).frames[0, NECK], [200, 200, 1])


def test_results_of_coco_wholebody() -> None:
    same(read("coco_wholebody_results.json", size=SIZE).frames, [truth(frame) for frame in range(2)])


@pytest.mark.parametrize("person", [0, 1])
def test_alphapose_with_136_points_is_followed_by_track(person: int) -> None:
    found = read("alphapose_136.json", size=SIZE, person=person)  # 9.jpg, 10.jpg, 11.jpg
    same(found.frames, [truth(frame, person) for frame in range(3)])


def test_mmpose_for_videos_and_pictures() -> None:
    same(read("mmpose_video.json", size=SIZE).frames, [truth(frame) for frame in range(2)])
    same(read("mmpose_picture.json", size=SIZE).frames, [truth()])
    same(read("mmpose_picture.json", size=SIZE, person=1).frames, [truth(person=1)])


def test_rtmlib_with_scores_above_one() -> None:
    found = read("rtmlib.json", size=SIZE)
    same(found.points, [truth(frame)[:, :2] for frame in range(2)])
    assert (found.scores == 1).all()


def test_mediapipe_holistic(caplog: pytest.LogCaptureFixture) -> None:
    notice.cache_clear()
    found = read("mediapipe_holistic.json", size=SIZE)
    expected = truth()
    expected[BODY.stop :, 2] = 1  # hands and face have no visibility
    same(found.frames, [expected, np.zeros_like(expected)])
    assert "not in frames 2; nothing is drawn there" in caplog.text


def test_mediapipe_tasks(tmp_path: Path) -> None:
    expected = truth()
    expected[BODY.stop :] = 0
    same(read("mediapipe_tasks.json", size=SIZE).frames, [expected])
    (pose,) = json.loads((FILES / "mediapipe_tasks.json").read_text())["landmarks"]
    frames = [[[point[key] for key in ("x", "y", "z", "visibility")] for point in pose]] * 2
    for name, document in {"rows": frames, "message": [{"pose_landmarks": {"landmark": pose}}] * 2}.items():
        (tmp_path / name).write_text(json.dumps(document))
        same(read_keypoints(tmp_path / name, size=SIZE).frames, [expected] * 2)


def test_a_size_that_the_file_does_not_state_must_be_given() -> None:
    for name, unit in ("mediapipe_tasks.json", "width and height"), ("openpose_list.json", "pixels"):
        with pytest.raises(InputError, match=f"{name}: expected the size of the pictures, .*{unit}"):
            read_keypoints(FILES / name)
    assert read("webui_controlnet.json", size=(99, 99)).width == WIDTH  # the file's own size counts


def test_units_are_told_by_the_median_and_not_by_the_largest_value(tmp_path: Path) -> None:
    """Whatever part of a normalised body is beyond the picture, and however few points a hand has."""
    scale = np.array([*SIZE, 1])
    for shift in (0, 0.4, 0.7):
        pose = truth() / scale + (shift, shift, 0)
        hand = np.zeros((21, 3))
        hand[0] = pose[LEFT_HAND][0]
        person = {
            "pose_keypoints_2d": pose[BODY].ravel().tolist(),
            "hand_left_keypoints_2d": hand.ravel().tolist(),
            "hand_right_keypoints_2d": (pose * scale)[RIGHT_HAND].ravel().tolist(),
        }
        (tmp_path / "file").write_text(json.dumps({"people": [person]}))
        found = read_keypoints(tmp_path / "file", size=SIZE).frames[0]
        same(found[BODY], (pose * scale)[BODY])
        same(found[LEFT_HAND][0], (pose * scale)[LEFT_HAND][0])
        same(found[RIGHT_HAND], (pose * scale)[RIGHT_HAND])


def test_a_hand_near_the_corner_stays_in_pixels(tmp_path: Path) -> None:
    hands = []
    for frame in range(3):
        hand = truth(frame)[LEFT_HAND]
        if frame == 2:
            hand[:] = 0
            hand[0] = 1.5, 0.5, 0.9
        hands.append({"people": [{"hand_left_keypoints_2d": hand.ravel().tolist()}]})
    (tmp_path / "file").write_text(json.dumps(hands))
    found = read_keypoints(tmp_path / "file", size=SIZE)
    same(found.frames[2, LEFT_HAND][0], [1.5, 0.5, 0.9])


def test_coordinates_of_minus_one_to_one_are_refused(tmp_path: Path) -> None:
    body = 2 * truth()[BODY] / (*SIZE, 1) - (1, 1, 0)  # OpenPose's --keypoint_scale 4
    (tmp_path / "file").write_text(json.dumps({"people": [{"pose_keypoints_2d": body.ravel().tolist()}]}))
    with pytest.raises(InputError, match="about 0 to 1, found many below 0"):
        read_keypoints(tmp_path / "file", size=SIZE)


def test_left_and_right_are_not_exchanged() -> None:
    for name in ("openpose_folder", "alphapose_136.json", "mmpose_video.json", "mediapipe_holistic.json"):
        pose = read(name, size=SIZE).frames[0]
        assert pose[LEFT_SHOULDER, 0] > pose[RIGHT_SHOULDER, 0], name
        assert pose[LEFT_HAND, 0].min() > pose[RIGHT_HAND, 0].max(), name


OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176,
    149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
RIGHT_EYE = {33, 7, 163, 144, 145, 153, 154, 155, 133, 246, 161, 160, 159, 158, 157, 173}
LEFT_EYE = {263, 249, 390, 373, 374, 380, 381, 382, 362, 466, 388, 387, 386, 385, 384, 398}
RIGHT_BROW = {46, 53, 52, 65, 55, 70, 63, 105, 66, 107}
LEFT_BROW = {276, 283, 282, 295, 285, 300, 293, 334, 296, 336}
LIPS = {
    61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409, 78, 95, 88,
    178, 87, 14, 402, 317, 318, 324, 308, 191, 80, 81, 82, 13, 312, 311, 310, 415,
}  # fmt: skip


def test_the_face_of_a_mesh_lies_on_mediapipes_contours() -> None:
    """MediaPipe publishes which points of the mesh form the oval, the eyes, the brows and the lips."""
    jaw = [OVAL.index(point) for point in FACE_OF_MESH[:17]]
    assert jaw == sorted(jaw, reverse=True)  # the oval runs the other way
    contours = {
        (17, 22): RIGHT_BROW,
        (22, 27): LEFT_BROW,
        (36, 42): RIGHT_EYE,
        (42, 48): LEFT_EYE,
        (48, 68): LIPS,
    }
    for (first, last), contour in contours.items():
        assert set(FACE_OF_MESH[first:last]) <= contour
    assert len(set(FACE_OF_MESH)) == 68
    assert max(FACE_OF_MESH) < 468
