"""The driving person's skeleton, fitted to the person in the reference picture."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from animate_rt.errors import ConfigError, InputError
from animate_rt.runtime.poses.alignment import BONES, CERTAIN, LIMITS, SKELETON, Fit, align, fit
from animate_rt.runtime.poses.keypoints import NUM_POINTS, Keypoints
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from .people import (
    ARM_POINTS,
    HEAD_POINTS,
    LEG_POINTS,
    changed,
    frame,
    mirrored,
    person,
    resized,
    shifted,
    without,
)

many = settings(max_examples=60, deadline=None, derandomize=True)
PLANAR = st.sampled_from([("walk", 90), ("walk", 270), ("squat", 90), ("squat", 270), ("wave", 0)])
MODES = st.sampled_from(["scale", "bones"])
PROPORTIONS = st.fixed_dictionaries({bone: st.floats(0.75, 1.4) for bone in BONES})
FRONT = {"motion": "wave", "heading": 0, "stature": 200, "feet": (250, 400)}


def planar(motion: tuple[str, float], **options) -> Keypoints:
    """A person whose bones do not change their lengths in the picture."""
    return person(motion[0], heading=motion[1], **options)


def arbitrary(seed: int, frames: int) -> Keypoints:
    """Points anywhere, many of them missing or uncertain."""
    random = np.random.default_rng(seed)
    points = random.uniform(-100, 600, (frames, NUM_POINTS, 2))
    scores = random.choice([0, 0.2, 0.45, 0.9], (frames, NUM_POINTS, 1), p=[0.2, 0.1, 0.1, 0.6])
    return Keypoints(np.concatenate([points, scores], axis=2), 512, 768)


def tried(driver: Keypoints, reference: Keypoints, mode: str) -> Keypoints:
    """The aligned poses; an example with nothing in common is passed over."""
    try:
        return align(driver, reference, mode)
    except InputError:
        assume(False)


def assert_close(found: Keypoints, expected: Keypoints, tolerance: float = 1e-9) -> None:
    assert (found.width, found.height) == (expected.width, expected.height)
    np.testing.assert_allclose(found.frames, expected.frames, rtol=0, atol=tolerance)


# Properties


@many
@given(PLANAR, MODES, st.floats(60, 900), st.floats(-100, 100))
def test_the_first_frame_as_reference_changes_nothing(motion, mode, stature, speed):
    driver = planar(motion, stature=stature, speed=speed, frames=12)
    assert_close(align(driver, frame(driver), mode), driver)


@many
@given(st.integers(0), MODES)
def test_a_single_frame_as_its_own_reference_changes_nothing(seed, mode):
    driver = arbitrary(seed, 1)
    assert_close(tried(driver, driver, mode), driver)


@many
@given(PLANAR, PROPORTIONS, PROPORTIONS, st.floats(60, 900))
def test_a_person_moves_exactly_as_the_reference_person_would(motion, hers, his, stature):
    driver = planar(motion, proportions=hers, stature=300, speed=50, frames=8)
    him = {"proportions": his, "stature": stature, "feet": (300, 700), "size": (768, 1024)}
    scale = fit(driver, planar(motion, frames=1, **him), "bones").scale
    truth = planar(motion, frames=8, speed=50 * scale, **him)
    assume(all(within(fit(driver, frame(truth), "bones"), bone) for bone in BONES))
    assert_close(align(driver, frame(truth)), truth, 1e-8)


def within(fitted: Fit, bone: str) -> bool:
    return LIMITS[0] * 1.001 < fitted.ratios[bone] / fitted.scale < LIMITS[1] * 0.999


@many
@given(st.integers(0), st.integers(1, 6), MODES)
def test_every_certain_bone_has_its_ratio_in_every_frame(seed, frames, mode):
    driver, reference = arbitrary(seed, frames), arbitrary(seed + 1, 1)
    result = tried(driver, reference, mode)
    fitted = fit(driver, reference, mode)
    for bone, pairs in BONES.items():
        assert LIMITS[0] * (1 - 1e-9) <= fitted.ratios[bone] / fitted.scale <= LIMITS[1] * (1 + 1e-9)
        if mode == "scale" or bone in fitted.uncertain:
            assert fitted.ratios[bone] == fitted.scale
        for pair in pairs if bone in SKELETON else ():
            certain = (driver.scores[:, pair] > CERTAIN).all(axis=1)
            old, new = (keypoints.points[certain][:, pair] for keypoints in (driver, result))
            bones = fitted.ratios[bone] * np.diff(old, axis=1)
            np.testing.assert_allclose(np.diff(new, axis=1), bones, rtol=0, atol=1e-6)


@many
@given(st.integers(0), st.integers(1, 6), MODES, st.floats(-300, 300), st.floats(-300, 300))
def test_moving_the_reference_moves_the_result_and_moving_the_driver_does_not(seed, frames, mode, x, y):
    driver, reference = arbitrary(seed, frames), arbitrary(seed + 1, 1)
    result = tried(driver, reference, mode)
    assert_close(align(driver, shifted(reference, x, y), mode), shifted(result, x, y), 1e-6)
    assert_close(align(shifted(driver, x, y), reference, mode), result, 1e-6)


@many
@given(st.integers(0), st.integers(1, 6), MODES)
def test_the_mirror_image_is_aligned_as_in_a_mirror(seed, frames, mode):
    driver, reference = arbitrary(seed, frames), arbitrary(seed + 1, 1)
    result = tried(driver, reference, mode)
    assert_close(align(mirrored(driver), mirrored(reference), mode), mirrored(result), 1e-6)


@many
@given(st.integers(0), st.integers(1, 6), MODES, st.integers(2, 5))
def test_the_size_of_the_driving_video_does_not_matter(seed, frames, mode, factor):
    driver, reference = arbitrary(seed, frames), arbitrary(seed + 1, 1)
    result = tried(driver, reference, mode)
    assert_close(align(resized(driver, factor), reference, mode), result, 1e-6)


@many
@given(st.integers(0), st.integers(1, 6), MODES)
def test_missing_points_stay_missing_and_scores_stay(seed, frames, mode):
    driver = arbitrary(seed, frames)
    result = tried(driver, arbitrary(seed + 1, 1), mode)
    np.testing.assert_array_equal(result.scores, driver.scores)
    assert not result.points[driver.scores == 0].any()


HIDDEN = {  # which points are hidden, and what is then the anchor
    "legs": (LEG_POINTS, "neck"),
    "legs and hips": ((*LEG_POINTS, 8, 11), "neck"),
    "all but head and shoulders": ((*LEG_POINTS, 8, 11, *ARM_POINTS), "neck"),
    "head": ((1, *HEAD_POINTS), "feet"),
    "head and feet": ((1, *HEAD_POINTS, 10, 13), "hips"),
}


@many
@given(PLANAR, st.sampled_from(sorted(HIDDEN)), st.booleans(), st.floats(60, 900), MODES)
def test_what_is_hidden_does_not_change_the_rest(motion, hidden, of_driver, stature, mode):
    """The same person in another size and at another place, as far as the person can be seen."""
    points, anchor = HIDDEN[hidden]
    him = {"stature": stature, "feet": (300, 700), "size": (768, 1024)}
    driver, truth = planar(motion, frames=6), planar(motion, frames=6, **him)
    reference = frame(truth)
    if of_driver:
        driver, truth = without(driver, points), without(truth, points)
    else:
        reference = without(reference, points)
    fitted = fit(driver, reference, mode)
    assert fitted.anchor == anchor
    assert_close(fitted.apply(driver), truth, 1e-8)


@many
@given(st.floats(110, 250), st.floats(60, 900), MODES)
def test_a_person_turned_away_by_any_angle_is_as_large_as_the_reference(heading, stature, mode):
    """Bones that point away from the camera look shorter; that decides neither the size nor the feet."""
    driver = person("wave", heading=heading, frames=6)
    fitted = fit(driver, person(**FRONT | {"stature": stature}, frames=1), mode)
    assert fitted.scale == pytest.approx(stature / 300, rel=0.2)
    result = fitted.apply(driver)
    across = [keypoints.points[:, 2, 0] - keypoints.points[:, 5, 0] for keypoints in (driver, result)]
    np.testing.assert_array_equal(*np.sign(across))  # right and left are not exchanged
    feet = result.points[0, (10, 13)]
    np.testing.assert_allclose([feet[:, 0].mean(), feet[:, 1].max()], FRONT["feet"])
    for bone, ratio in fitted.ratios.items():
        assert LIMITS[0] * (1 - 1e-9) <= ratio / fitted.scale <= LIMITS[1] * (1 + 1e-9), bone


@many
@given(PLANAR, st.integers(0, 11), st.integers(0), st.booleans())
def test_one_bad_frame_does_not_harm_the_others(motion, bad, seed, missing):
    driver = planar(motion, speed=30, frames=12)
    reference = person(**FRONT, proportions={"thigh": 1.3, "shin": 1.3}, frames=1)
    frames = np.array(driver.frames)
    frames[bad] = 0 if missing else np.random.default_rng(seed).uniform(0, 1, (NUM_POINTS, 3)) * [512, 512, 1]
    spoiled = Keypoints(frames, 512, 512, driver.frame_rate)
    others = np.arange(12) != bad
    before, after = (align(poses, reference).points[others] for poses in (driver, spoiled))
    # If the first frame is bad, the clip begins with the second: what the person moved in between is missing.
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-9 if bad else 10)


# People as they are


@pytest.mark.parametrize("mode", ["scale", "bones"])
def test_feet_that_stand_still_do_not_slide(mode):
    driver = person("squat", heading=30, stature=350)
    legs = {"thigh": 1.4, "shin": 1.4, "torso": 0.8}
    result = align(driver, frame(person(**FRONT, proportions=legs)), mode)
    assert np.ptp(result.points[:, 1, 1]) > 30  # the neck
    np.testing.assert_allclose(result.points[:, (10, 13), 1].max(axis=1), 400)
    assert np.ptp(result.points[:, (10, 13)], axis=0).max() < 1e-9


@pytest.mark.parametrize(
    ("hidden", "anchor"),
    [
        (LEG_POINTS, "neck"),  # to the hips
        ((*LEG_POINTS, 8, 11, *ARM_POINTS), "neck"),  # head and shoulders
        ((1, *HEAD_POINTS), "feet"),
        ((1, *HEAD_POINTS, 10, 13), "hips"),
        ((1, *LEG_POINTS, 8, 11, *ARM_POINTS), "nose"),
    ],
)
@pytest.mark.parametrize("whose", ["driver", "reference"])
def test_half_bodies(hidden: tuple[int, ...], anchor: str, whose: str):
    driver, reference = person("wave", frames=6), person(**FRONT, frames=1)
    if whose == "driver":
        driver = without(driver, hidden)
    else:
        reference = without(reference, hidden)
    fitted = fit(driver, reference, "bones")
    assert fitted.anchor == anchor
    np.testing.assert_allclose(list(fitted.ratios.values()), 200 / 300)
    truth = person(**FRONT, frames=6)
    assert_close(fitted.apply(driver), without(truth, hidden) if whose == "driver" else truth)


def test_feet_seen_in_few_frames_are_no_anchor():
    driver = without(person("wave", frames=10), LEG_POINTS, slice(3, None))
    assert fit(driver, frame(person(**FRONT)), "bones").anchor == "neck"


def test_a_person_turned_away():
    driver, reference = person("wave", heading=180, frames=6), person(**FRONT, frames=1)
    fitted = fit(driver, reference, "bones")
    assert set(fitted.uncertain) == {"head", "face"}
    np.testing.assert_allclose(list(fitted.ratios.values()), 200 / 300)
    assert_close(fitted.apply(driver), person(**FRONT | {"heading": 180}, frames=6))
    assert (fitted.apply(driver).points[:, 2, 0] > 250).all()  # the right shoulder on the right side


def test_a_joint_that_is_missed_now_and_then_still_carries_what_hangs_on_it():
    driver = person("wave", stature=350)
    reference = frame(person(**FRONT, proportions={"shoulder": 1.4, "upper arm": 0.7, "torso": 1.3}))
    hidden = (1, 3, 9)  # neck, right elbow, right knee
    result, truth = align(without(driver, hidden, slice(7, 9)), reference), align(driver, reference)
    shown = [point for point in range(NUM_POINTS) if point not in hidden]
    assert np.abs(result.points - truth.points)[:, shown].max() < 2  # of an arm 85 pixels long


def test_one_wrong_bone_is_limited_and_does_not_change_the_scale():
    reference = person(**FRONT, frames=1)
    points = np.array(reference.points)
    points[0, (4, *range(39, 60))] += [-300, 0]  # the right wrist and hand
    fitted = fit(person("wave", frames=6), changed(reference, points), "bones")
    assert fitted.scale == pytest.approx(200 / 300)
    assert fitted.ratios["forearm"] == pytest.approx(2 * 200 / 300)


@pytest.mark.parametrize("length", [0, 0.1])
@pytest.mark.parametrize("which", ["driver", "reference"])
def test_a_bone_of_hardly_any_length_takes_the_overall_scale(which, length):
    people = {"driver": person("wave", frames=6), "reference": person(**FRONT, frames=1)}
    points = np.array(people[which].points)
    points[:, (3, 6)] = points[:, (2, 5)] + length  # elbows at the shoulders
    people[which] = resized(changed(people[which], points), 3)
    fitted = fit(people["driver"], people["reference"], "bones")
    assert fitted.uncertain == ("upper arm",)
    assert fitted.ratios["upper arm"] == fitted.scale


def test_the_result_is_in_pixels_of_the_reference_picture():
    driver = person("wave", frames=6, frame_rate=50)
    result = align(driver, frame(person(**FRONT, size=(640, 480))))
    assert (result.width, result.height, result.frame_rate) == (640, 480, 50)
    assert align(driver, frame(person(**FRONT)), "none") is driver


def test_two_thousand_frames_take_well_under_a_second(capsys):
    driver, reference = person("walk", frames=2000), frame(person(**FRONT))
    start = time.perf_counter()
    align(driver, reference)
    seconds = time.perf_counter() - start
    with capsys.disabled():
        print(f"\nalignment of 2,000 frames: {1000 * seconds:.0f} ms")
    assert seconds < 0.5


# What cannot be aligned

NOBODY = Keypoints(np.zeros((3, NUM_POINTS, 3)), 512, 512)
CASES: dict[str, tuple[Callable[[], tuple[Keypoints, Keypoints]], str]] = {
    "driver without points": (lambda: (NOBODY, person(frames=1)), "in the driving poses, found none"),
    "driver without frames": (
        lambda: (Keypoints(np.zeros((0, NUM_POINTS, 3)), 512, 512), person(frames=1)),
        "in the driving poses, found none",
    ),
    "reference without points": (lambda: (person(), frame(NOBODY)), "in the reference, found none"),
    "reference of two frames": (lambda: (person(), person(frames=2)), "one frame of reference .* found 2"),
    "all points at one place": (
        lambda: (person(), changed(person(frames=1), np.full((1, NUM_POINTS, 2), 7.0))),
        "a bone that is certain in both",
    ),
    "nothing in common": (
        lambda: (
            without(person(), (1, *LEG_POINTS, 8, 11)),
            without(person(frames=1), (*ARM_POINTS, *HEAD_POINTS)),
        ),
        "a bone that is certain in both",
    ),
    "no anchor in common": (
        lambda: (person(), without(person(frames=1), (0, 1, *LEG_POINTS, 8, 11))),
        "feet or neck or nose or hips to be certain",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refuses_with_one_line(case):
    make, message = CASES[case]
    for mode in ("scale", "bones"):
        with pytest.raises(InputError, match=f"^alignment: expected .*{message}.*$"):
            align(*make(), mode)


def test_refuses_an_unknown_mode():
    with pytest.raises(ConfigError, match=r"expected none, scale, bones, found x y"):
        align(person(), person(frames=1), "x\ny")
