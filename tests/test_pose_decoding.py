"""Inputs and outputs of YOLOX and of whole-body networks, against the published pre- and post-processing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from animate_rt.engines.pose_bundle import cells
from animate_rt.runtime.poses.extraction.person_crop import (
    DEVIATION,
    MEAN,
    PersonCrop,
    bgr_input,
    heatmap_points,
    rgb_input,
    simcc_points,
)
from animate_rt.runtime.poses.extraction.yolox import Box, letterboxed, people
from numpy.typing import NDArray
from PIL import Image

from .blobs import CASES, INPUTS, SIDES, case, centroids, samples

RECORDED = json.loads((Path(__file__).parent / "data" / "poses" / "crops.json").read_text())
CROPS, SQUARES = RECORDED[: CASES * len(INPUTS)], RECORDED[CASES * len(INPUTS) :]
PIXELS = 0.1  # most difference of places
LEVELS = 3  # most difference of pixels: OpenCV rounds coordinates to 1/32 pixel, and weights


def test_crops_of_people_are_opencvs(capsys: pytest.CaptureFixture[str]) -> None:
    places, levels = [], []
    for i in range(CASES):
        picture, _, box = case(i)
        for j, pixels in enumerate(INPUTS):
            crop = PersonCrop.around(Box(*box), pixels).picture(Image.fromarray(picture))
            assert crop.shape == (pixels[1], pixels[0], 3)
            centres, values = CROPS[len(INPUTS) * i + j]
            places.append(np.abs(centroids(crop) - centres).max())
            levels.append(np.abs(np.subtract(samples(crop), values)))
    with capsys.disabled():
        print(f"\ncrops: {max(places):.4f} pixels, {np.percentile(levels, 99):.0f} levels (99 %)")
    assert max(places) <= PIXELS
    assert np.percentile(levels, 99) <= LEVELS  # at the picture's edge, OpenCV blends with the black outside


def test_detector_inputs_are_opencvs(capsys: pytest.CaptureFixture[str]) -> None:
    places, levels = [], []
    for i in range(CASES):
        picture = case(i)[0]
        for j, side in enumerate(SIDES):
            array, factor = letterboxed(Image.fromarray(picture), side)
            assert array.shape == (1, 3, side, side)
            assert array.dtype == np.float32
            assert factor == min(side / picture.shape[0], side / picture.shape[1])
            square = array[0, ::-1].transpose(1, 2, 0)
            centres, values = SQUARES[len(SIDES) * i + j]
            places.append(np.abs(centroids(square) - centres).max())
            levels.append(np.abs(np.subtract(samples(square), values)).max())
    with capsys.disabled():
        print(f"\ndetector inputs: {max(places):.4f} pixels, {max(levels)} levels")
    assert max(places) <= PIXELS
    assert max(levels) <= LEVELS


def test_points_of_a_crop_are_points_of_the_picture() -> None:
    for i in range(CASES):
        picture, places, box = case(i)
        for pixels in INPUTS:
            crop = PersonCrop.around(Box(*box), pixels)
            found = crop.to_picture(centroids(crop.picture(Image.fromarray(picture))) / pixels)
            assert np.abs(found - places).max() <= PIXELS * max(1, crop.width / pixels[0])


@pytest.mark.parametrize(
    "box", [(5, 5, 5, 5), (-1e6, -1e6, 1e6, 1e6), (-50, -50, -40, -40), (0, 0, 1e-9, 50)]
)
def test_boxes_of_any_size_give_a_crop(box: Any) -> None:
    crop = PersonCrop.around(Box(*box), (288, 384))
    assert crop.picture(Image.new("RGB", (64, 48))).shape == (384, 288, 3)
    assert crop.width / crop.height == pytest.approx(0.75)


def test_channels_are_normalised_as_published() -> None:
    picture = np.zeros((2, 3, 3), np.uint8)
    picture[:] = 10, 20, 30
    bgr, rgb = bgr_input(picture), rgb_input(picture)
    assert bgr.shape == rgb.shape == (1, 3, 2, 3)
    assert np.allclose(bgr[0, :, 0, 0], (np.array([30, 20, 10]) - MEAN) / DEVIATION)
    means, deviations = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    assert np.allclose(rgb[0, :, 0, 0], (np.array([10, 20, 30]) / 255 - means) / deviations, atol=1e-5)


def yolox_output(side: int, *boxes: tuple[float, float, float, float, float, float]) -> NDArray[np.float32]:
    """The output for boxes of left, top, right, bottom, objectness and person's score.

    Each is at the cell of the finest grid that its centre is in.
    """
    output = np.zeros((cells(side), 85), np.float32)
    for left, top, right, bottom, objectness, person in boxes:
        x, y = (left + right) / 2 / 8, (top + bottom) / 2 / 8
        row = int(y) * (side // 8) + int(x)
        output[row, :4] = x - int(x), y - int(y), np.log((right - left) / 8), np.log((bottom - top) / 8)
        output[row, 4:6] = objectness, person
    return output


def test_boxes_are_decoded_scored_and_sorted() -> None:
    output = yolox_output(640, (100, 50, 200, 350, 0.9, 0.5), (400, 60, 480, 300, 0.9, 0.9))
    found = people(output, 640, 0.5)
    assert np.allclose([box for box, _ in found], [(800, 120, 960, 600), (200, 100, 400, 700)], atol=1e-2)
    assert np.allclose([score for _, score in found], [0.81, 0.45])


def test_each_grid_has_its_stride() -> None:
    output = np.zeros((cells(64), 85), np.float32)
    for row, (stride, cell) in {9: (8, (1, 1)), 64 + 5: (16, (1, 1)), 64 + 16 + 3: (32, (1, 1))}.items():
        output[:] = 0
        output[row, 4:6] = 1
        ((box, _),) = people(output, 64, 1.0)
        x, y = cell[0] * stride, cell[1] * stride
        assert box == (x - stride / 2, y - stride / 2, x + stride / 2, y + stride / 2)


def test_other_classes_and_uncertain_people_are_left_out() -> None:
    output = yolox_output(416, (10, 10, 50, 90, 0.6, 0.5), (200, 200, 300, 390, 0.9, 0.1))
    output[:, 6] = 1  # bicycles everywhere
    assert people(output, 416, 1.0) == []


def test_of_boxes_that_overlap_the_most_certain_is_left() -> None:
    """IoU with one pixel added to each side: 0.45 is the limit."""
    one = (100, 100, 199, 299, 1.0, 0.9)
    for shift, count in ((36, 1), (39, 2)):  # of 100 columns: IoU 64/136 = 0.47, 61/139 = 0.44
        other = (100 + shift, 100, 199 + shift, 299, 1.0, 0.8)
        found = people(yolox_output(640, one, other), 640, 1.0)
        assert len(found) == count
        assert found[0][1] == pytest.approx(0.9)


def test_numbers_that_are_not_finite_are_no_boxes() -> None:
    output = yolox_output(416, (10, 10, 50, 90, 1, 1), (200, 200, 300, 390, 1, 1), (60, 10, 90, 90, 1, 1))
    rows = np.flatnonzero(output[:, 4])
    output[rows[0], 0], output[rows[1], 2] = np.nan, np.inf
    assert len(people(output, 416, 1.0)) == 1


def test_simcc_is_decoded() -> None:
    """133 points; the bins are half pixels of the input; the score is the smaller of both maxima."""
    random = np.random.default_rng(0)
    x, y = random.uniform(-1, 0, (133, 576)), random.uniform(-1, 0, (133, 768))
    columns, rows = random.integers(0, 576, 133), random.integers(0, 768, 133)
    x[range(133), columns], y[range(133), rows] = 0.5, 0.25
    x[7, columns[7]] = 0
    points = simcc_points(x, y)
    assert points.shape == (133, 3)
    assert not points[7].any()  # a score of 0 is no point
    others = np.delete(np.arange(133), 7)
    assert np.allclose(points[others, 0] * 288, columns[others] / 2)
    assert np.allclose(points[others, 1] * 384, rows[others] / 2)
    assert np.allclose(points[others, 2], 0.25)


def test_scores_are_limited_to_1() -> None:
    x = np.zeros((1, 576))
    x[0, 5] = 1.7
    assert simcc_points(x, x)[0, 2] == 1


def test_heatmaps_are_decoded_with_a_quarter_of_a_cell() -> None:
    random = np.random.default_rng(1)
    maps = random.uniform(0, 0.4, (133, 64, 48)).astype(np.float32)
    peaks = np.column_stack([random.integers(0, 48, 133), random.integers(0, 64, 133)])
    maps[range(133), peaks[:, 1], peaks[:, 0]] = 0.9
    maps[5] = -0.5
    points = heatmap_points(maps)
    assert points.shape == (133, 3)
    assert not points[5].any()
    moved = 0
    for i in np.delete(np.arange(133), 5):
        x, y = (int(part) for part in peaks[i])
        expected = np.array([x, y], float)
        if 1 < x < 47 and 1 < y < 63:  # as the published code has it
            expected[0] += 0.25 if maps[i, y, x + 1] > maps[i, y, x - 1] else -0.25
            expected[1] += 0.25 if maps[i, y + 1, x] > maps[i, y - 1, x] else -0.25
            moved += 1
        assert np.allclose(points[i, :2] * (48, 64), expected)
        assert points[i, 2] == pytest.approx(0.9)
    assert moved > 100


def test_a_plateau_is_not_moved() -> None:
    maps = np.zeros((1, 64, 48), np.float32)
    maps[0, 30, 20] = 1
    assert np.allclose(heatmap_points(maps)[0, :2] * (48, 64), (20, 30))
