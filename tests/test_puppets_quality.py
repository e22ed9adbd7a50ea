"""Quality of puppet clips: the measures, models with parts switched off, and the tables."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from animate_rt import Animator
from animate_rt.benchmarks.puppets.evaluation import variants
from animate_rt.benchmarks.puppets.evaluation.clothes import clothes_likeness
from animate_rt.benchmarks.puppets.evaluation.features import feature_distance
from animate_rt.benchmarks.puppets.evaluation.histories import Histories, rms
from animate_rt.benchmarks.puppets.evaluation.limbs import limbs_found, offset
from animate_rt.benchmarks.puppets.evaluation.sharpness import sharpness
from animate_rt.benchmarks.puppets.evaluation.truth import Truth
from animate_rt.benchmarks.puppets.training.model import SIZE
from animate_rt.benchmarks.puppets.world.scene import Picture, Scene
from animate_rt.benchmarks.reporting.charts import charts_of, svg
from animate_rt.benchmarks.reporting.result import Result
from animate_rt.benchmarks.reporting.tables import tables_of
from animate_rt.engines.bundle import open_bundle

# The measures


@pytest.fixture(scope="module")
def truth() -> Truth:
    return Truth(Scene("held-out", 2000, SIZE), 4)


def test_the_true_frames_get_perfect_scores(truth: Truth) -> None:
    figures = truth.figures(truth.frames)
    assert figures["psnr_db"] == figures["character_db"] == float("inf")
    assert [figures[name] for name in ("ssim", "clothes", "limbs", "sharpness")] == [1, 1, 1, 1]
    assert figures["flicker"] == figures["features"] == 0


def test_limbs_of_shifted_frames_are_not_found(truth: Truth) -> None:
    near, far = (np.roll(truth.frames, pixels, axis=2) for pixels in (2, 9))
    assert limbs_found(near, truth.frames, truth.keypoints) > 0.8
    assert limbs_found(far, truth.frames, truth.keypoints) < 0.2
    assert limbs_found(np.full_like(far, 128), truth.frames, truth.keypoints) == 0


def test_offset_is_the_distance_that_a_spot_has_moved() -> None:
    true = np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8)
    moved = np.roll(true, (3, -4), axis=(0, 1))
    assert offset(moved, true, np.array([60, 70])) == 5
    assert offset(true, true, np.array([0, 127])) == 0  # at the very edge


def test_clothes_likeness_depends_only_on_the_colours_of_clothes(truth: Truth) -> None:
    wrong = truth.frames[..., ::-1]
    noisy = truth.frames + np.random.default_rng(0).integers(-3, 4, truth.frames.shape)
    assert clothes_likeness(wrong, truth.frames, truth.clothes) < 0.5
    kept = clothes_likeness(noisy.clip(0, 255).astype(np.uint8), truth.frames, truth.clothes)
    assert kept > 0.8
    elsewhere = truth.frames.copy()
    elsewhere[~truth.clothes.any(axis=1)] = 0
    assert clothes_likeness(elsewhere, truth.frames, truth.clothes) == 1


def test_the_background_does_not_affect_the_character_psnr(truth: Truth) -> None:
    made = truth.frames.copy()
    made[~truth.character] //= 2
    figures = truth.figures(made)
    assert figures["character_db"] == float("inf") > figures["psnr_db"]


def blurred(frames: Picture, times: int) -> Picture:
    made = frames.astype(np.float32)
    for _ in range(times):
        for axis in (1, 2):
            made = (np.roll(made, 1, axis) + 2 * made + np.roll(made, -1, axis)) / 4
    return made.round().astype(np.uint8)


def test_blur_lowers_the_sharpness_of_the_character_and_displacement_does_not(truth: Truth) -> None:
    true, mask = truth.frames, truth.character
    somewhat, much = (sharpness(blurred(true, times), true, mask) for times in (1, 4))
    assert much < 0.2 < somewhat < 0.5
    # Of a blurred background only the pixels next to the character count.
    assert sharpness(np.where(mask[..., None], true, blurred(true, 4)), true, mask) > 0.8
    assert sharpness(np.roll(true, 3, axis=2), true, mask) > 0.9


def test_the_feature_distance_sees_blur_that_psnr_forgives(truth: Truth) -> None:
    """By PSNR the blurred clip is closer to the truth than the noisy one, by features it is farther."""
    noise = np.random.default_rng(0).normal(0, 20, truth.frames.shape)
    noisy = (truth.frames + noise).clip(0, 255).round().astype(np.uint8)
    near, far = (truth.figures(made) for made in (noisy, blurred(truth.frames, 2)))
    assert near["psnr_db"] < far["psnr_db"]
    assert 0 < near["features"] < far["features"]
    assert feature_distance(255 - truth.frames, truth.frames) > 10 * far["features"]


@pytest.fixture(scope="module")
def soft() -> Scene:
    return Scene("held-out-soft", 1000, SIZE)


def test_the_soft_parts_of_the_true_frames_get_perfect_scores(soft: Scene) -> None:
    truth = Truth(soft, 6)
    figures = truth.figures(truth.frames)
    assert figures["open_flicker"] == 0
    assert figures["consistency"] == 1


def test_soft_parts_that_jump_or_freeze_score_worse_than_the_true_ones(soft: Scene) -> None:
    """Every frame of these clips is one that the world could show."""
    count = 16
    histories = Histories(soft, count)

    def clip(moments: Iterable[int]) -> Picture:
        return np.stack([soft.frame(i, moment) for i, moment in enumerate(moments)])

    mixed = np.random.default_rng(0).permutation(count).tolist()
    shuffled = histories.figures(clip(mixed))
    frozen = histories.figures(clip([0] * count))
    late = histories.figures(clip(range(-4, count - 4)))
    changes = np.diff(histories.true.astype(np.float32), axis=0)
    usual = rms(changes[histories.open[1:] | histories.open[:-1]])
    assert shuffled["open_flicker"] > frozen["open_flicker"] > 0.5 * usual
    assert shuffled["consistency"] < 0.2 < frozen["consistency"] < 0.7
    assert late["consistency"] == 1  # one history, though not the true one
    assert late["open_flicker"] > 0.5 * usual


# Models with parts switched off


def test_without_guidance_there_is_no_reference_and_without_features_no_pose(
    small: Any, small_bundle: Path
) -> None:
    """The part that is switched off has no effect on the frames; the other part still has."""
    bundle = open_bundle(small_bundle)
    generator = np.random.default_rng(0)
    references = generator.integers(0, 255, (2, small.height, small.width, 3), np.uint8)
    poses = generator.integers(0, 255, (2, 4, small.height, small.width, 3), np.uint8)

    def clips(animator: Animator) -> list[np.ndarray[Any, Any]]:
        with animator:
            return [
                np.stack(list(animator.animate(references[i], poses[j], steps=2, guidance_scale=3.0)))
                for i, j in ((0, 0), (1, 0), (0, 1))
            ]

    first, other_reference, other_poses = clips(variants.load_without_input(bundle, "guidance_scale"))
    assert np.array_equal(first, other_reference)
    assert not np.array_equal(first, other_poses)
    first, other_reference, other_poses = clips(variants.load_without_input(bundle, "pose_features"))
    assert np.array_equal(first, other_poses)
    assert not np.array_equal(first, other_reference)


# The tables


def test_costs_have_a_column_and_a_chart_if_they_were_measured() -> None:
    figures = dict.fromkeys(("psnr_db", "character_db", "ssim", "clothes", "limbs", "flicker"), 0.5)
    rows = [{"name": "plain", **figures}]
    priced = [{"name": str(n), **figures, "unet_evaluations": n, "time_ratio": n / 2} for n in (2, 8)]

    def made(*tables: list[dict[str, Any]]) -> Result:
        found = [{"title": "Table", "rows": rows} for rows in tables]
        workload = {"scenes": 1, "frames": 2, "size": SIZE, "split": "held-out"}
        return Result(kind="puppets", workload=workload, results={"tables": found})

    (table,) = tables_of(made(rows))
    assert table.rows == [("plain", "0.50", "0.50", "0.500", "0.50", "50 %", "0.50")]
    assert charts_of(made(rows)) == []
    (seen,) = tables_of(made([{**rows[0], "sharpness": 0.9, "features": 0.0625}]))
    assert seen.head[-2:] == ("sharpness", "features")
    assert seen.rows[0][-2:] == ("0.90", "0.062")
    assert tables_of(made(rows, priced))[1].rows[1][-2:] == ("8", "4.00")
    (chart,) = charts_of(made(rows, priced))
    assert "What quality costs" in svg(chart)
