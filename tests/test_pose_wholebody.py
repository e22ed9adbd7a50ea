"""Whole-body ONNX files from a directory to poses, with networks whose answer is known, on both backends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from animate_rt.__main__ import main
from animate_rt.engines.bundle import MANIFEST, open_bundle
from animate_rt.engines.pose_bundle import POINTS, open_pose_bundle
from animate_rt.errors import BundleCorrupt, BundleError, BundleMismatch
from animate_rt.runtime.poses.extraction.extract import Report, extract, open_models
from animate_rt.runtime.poses.extraction.wholebody import WholeBody
from animate_rt.runtime.poses.keypoints import Pose
from animate_rt.runtime.poses.layouts import WHOLEBODY_133
from numpy.typing import NDArray
from PIL import Image

from .manifests import edit_manifest
from .square_networks import box, picture, places, save_detector, save_landmarks
from .standin import installed, tensorrt_bundle

SIZES = {"simcc": (288, 384), "heatmaps": (192, 256)}
LARGE, SMALL = (430, 200, 26), (120, 220, 18)
# Pixels of a network's input between two places that it can return: half of one for SimCC; a quarter of a
# cell, in either direction, for heatmaps.
STEPS = {"simcc": 0.5, "heatmaps": 2.0}


@pytest.fixture(scope="module")
def pose_bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A pose bundle of each kind of whole-body network, made by the command."""
    made = {}
    for kind, (width, height) in SIZES.items():
        folder = tmp_path_factory.mktemp(kind)
        save_detector(folder / "detector.onnx")
        save_landmarks(folder / "pose.onnx", width, height, kind)
        made[kind] = folder / "bundle"
        assert main(["build-poses", str(folder), str(made[kind])]) == 0
    return made


@pytest.fixture(params=SIZES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def models(kind: str, pose_bundles: dict[str, Path]) -> Any:
    models = open_models(pose_bundles[kind])
    yield models
    models.close()


def truth(person: tuple[int, int, int]) -> Pose:
    pose: NDArray[np.float64] = WHOLEBODY_133.pose(np.column_stack([places(person), np.ones(POINTS)]))
    return pose


def tolerance(kind: str, person: tuple[int, int, int]) -> float:
    """Half a step of the network in pixels of the picture, and an eightieth of a person's height for the
    square's side, which the network measures on blurred edges."""
    width = 1.25 * 1.25 * max(6 * person[2], 12 * person[2] * 0.75)
    return STEPS[kind] / 2 * width / SIZES[kind][0] + 12 * person[2] / 80


def test_people_are_found_where_they_are(models: WholeBody, kind: str) -> None:
    candidates = models.detect(picture(SMALL, LARGE))
    assert len(candidates) == 2
    for person in (SMALL, LARGE):
        found = min(candidates, key=lambda each: np.abs(np.subtract(each.region, box(person))).max())
        assert np.abs(np.subtract(found.region, box(person))).max() <= 2
        assert np.abs(found.pose - truth(person))[:, :2].max() <= tolerance(kind, person)
        assert found.pose[:, 2].min() > 0.8


def test_a_person_is_followed_without_the_detector(models: WholeBody, kind: str) -> None:
    steps = [(100 + 12 * i, 200 + 2 * i, 24) for i in range(20)]
    report = Report()
    poses = list(extract([picture(person) for person in steps], models, report=report))
    assert (report.detections, report.chosen, report.missing) == (1, [0], [])
    for pose, person in zip(poses, steps, strict=True):
        assert np.abs(pose - truth(person))[:, :2].max() <= tolerance(kind, person)


def test_a_person_is_chosen_by_size_or_place(models: WholeBody, kind: str) -> None:
    frame = picture(SMALL, LARGE)
    for person, which in ((0, LARGE), (1, SMALL), ((129.0, 229.0), SMALL), ((440.0, 210.0), LARGE)):
        (pose,) = extract([frame], models, person=person)
        assert np.abs(pose - truth(which))[:, :2].max() <= tolerance(kind, which)


def test_nobody_is_found_where_nobody_is(models: WholeBody) -> None:
    for frame in (picture(), Image.new("RGB", (1, 1)), Image.new("RGB", (3000, 20), (255, 255, 255))):
        (pose,) = extract([frame], models)
        assert not pose.any()


def test_when_no_box_is_found_the_whole_picture_is_looked_at(pose_bundles: dict[str, Path]) -> None:
    """This square is larger than the detector's window."""
    models = open_models(pose_bundles["simcc"])
    large = (120, 100, 100)
    frame = picture(large, size=(360, 300))
    (candidate,) = models.detect(frame)
    assert candidate.region == (0, 0, 360, 300)
    visible = candidate.pose[:, 2] > 0.5  # not those beyond the crop
    assert visible.sum() > 50
    assert np.abs(candidate.pose - truth(large))[visible, :2].max() <= tolerance("simcc", large)
    models.close()


def test_the_picture_may_have_any_size(models: WholeBody, kind: str) -> None:
    for size, person in (((1920, 1080), (900, 500, 60)), ((200, 240), (95, 110, 12))):
        (pose,) = extract([picture(person, size=size)], models)
        assert np.abs(pose - truth(person))[:, :2].max() <= tolerance(kind, person)


def test_tensorrt_gives_the_same_poses_on_a_stream(pose_bundles: dict[str, Path], tmp_path: Path) -> None:
    """On the stand-in GPU, whose plans compute what the CPU computes."""
    frames = [picture((100 + 12 * i, 200, 24)) for i in range(4)]
    models = open_models(pose_bundles["simcc"])
    expected = list(extract(frames, models))
    models.close()
    with installed():
        path = tensorrt_bundle(pose_bundles["simcc"], tmp_path / "plans", opened=open_pose_bundle)
        models = open_models(path)
        found = list(extract(frames, models))
        models.close()
    assert np.array_equal(found, expected)


def test_a_bundle_is_verified_when_it_is_opened(pose_bundles: dict[str, Path], tmp_path: Path) -> None:
    from shutil import copytree

    for name in ("graphs/detector.onnx", "graphs/landmarks.onnx", "graphs/weights.bin", MANIFEST):
        path = copytree(pose_bundles["simcc"], tmp_path / name.replace("/", "-"))
        content = bytearray((path / name).read_bytes())
        content[len(content) // 2] ^= 1
        (path / name).write_bytes(content)
        with pytest.raises(BundleCorrupt):
            open_models(path)


def test_bundles_of_the_two_kinds_are_not_mistaken_for_each_other(
    pose_bundles: dict[str, Path], small_bundle: Path
) -> None:
    with pytest.raises(BundleMismatch, match="this version cannot use it"):
        open_bundle(pose_bundles["simcc"])
    with pytest.raises(BundleMismatch, match="this version cannot use it"):
        open_pose_bundle(small_bundle)


@pytest.mark.parametrize(
    "change",
    [{"detector_side": 400}, {"width": 10**9}, {"height": -4}, {"kind": "bins"}, {"kind": "heatmaps"}],
)
def test_manifests_with_impossible_sizes_are_refused(
    pose_bundles: dict[str, Path], tmp_path: Path, change: dict[str, Any]
) -> None:
    from shutil import copytree

    path = copytree(pose_bundles["simcc"], tmp_path / "bundle")
    edit_manifest(path, lambda document: document["networks"].update(change))
    with pytest.raises(BundleError):
        open_pose_bundle(path)
