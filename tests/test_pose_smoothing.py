"""Keypoints smoothed with the one-euro filter."""

from __future__ import annotations

import math
import time
from fractions import Fraction

import numpy as np
import pytest
from animate_rt.runtime.poses.keypoints import FACE, NUM_POINTS, Keypoints
from animate_rt.runtime.poses.smoothing import smooth, smooth_forward
from hypothesis import given, settings
from hypothesis import strategies as st

from .people import changed, frame, person, resized, without

HEAD = [0, 14, 15, 16, 17, *range(*FACE.indices(NUM_POINTS))]
OTHERS = [point for point in range(NUM_POINTS) if point not in HEAD]


def still(frames: int = 300, frame_rate: int = 25) -> Keypoints:
    one = person(frames=1)
    return Keypoints(np.repeat(one.frames, frames, axis=0), 512, 512, Fraction(frame_rate))


def noisy(keypoints: Keypoints, pixels: float, seed: int = 0) -> Keypoints:
    noise = np.random.default_rng(seed).normal(0, pixels, keypoints.points.shape)
    return changed(keypoints, keypoints.points + noise)


def forward(keypoints: Keypoints, frame_rate: Fraction | None = None) -> np.ndarray:
    rate = frame_rate or keypoints.frame_rate
    return np.array(list(smooth_forward(keypoints, keypoints.width, keypoints.height, rate)))


def one_point(samples: list[tuple[float, float, float]], rate: float, min_cutoff: float, beta: float):
    """The filter written down for one point, number by number, after the publication; None restarts it."""

    def share(cutoff: float) -> float:
        return 1 / (1 + (1 / (2 * math.pi * cutoff)) * rate)

    x = y = dx = dy = None
    for new_x, new_y, score in samples:
        if score == 0:
            x = y = None
            yield 0, 0
            continue
        if x is None:
            x, y, dx, dy = new_x, new_y, 0, 0
        else:
            weight = 0.3 + 0.7 * score
            part = share(1.0)
            dx, dy = part * (new_x - x) * rate + (1 - part) * dx, part * (new_y - y) * rate + (1 - part) * dy
            part = weight * share(min_cutoff + beta * math.sqrt(dx * dx + dy * dy))
            x, y = part * new_x + (1 - part) * x, part * new_y + (1 - part) * y
        yield x, y


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0), st.sampled_from([12, 25, 60]), st.sampled_from([256, 512, 1080]))
def test_the_forward_pass_is_the_published_filter(seed, rate, side):
    random = np.random.default_rng(seed)
    points = np.cumsum(random.normal(0, 5, (15, NUM_POINTS, 2)), axis=0)
    scores = random.choice([0, 0.1, 0.5, 1], (15, NUM_POINTS, 1), p=[0.1, 0.2, 0.2, 0.5])
    keypoints = Keypoints(np.concatenate([points, scores], axis=2), side, side + 100, Fraction(rate))
    found = forward(keypoints)
    for point in range(NUM_POINTS):
        min_cutoff, beta = (0.4, 0.01) if point in HEAD else (1.0, 0.05)
        expected = list(one_point(keypoints.frames[:, point].tolist(), rate, min_cutoff, beta * 512 / side))
        np.testing.assert_allclose(found[:, point, :2], expected, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(found[..., 2], keypoints.scores)


def test_what_does_not_move_does_not_change():
    keypoints = still(20)
    np.testing.assert_array_equal(smooth(keypoints).frames, keypoints.frames)
    np.testing.assert_array_equal(forward(keypoints), keypoints.frames)
    one = frame(noisy(keypoints, 2))
    np.testing.assert_array_equal(smooth(one).frames, one.frames)


def test_noise_of_a_still_point_is_reduced(capsys):
    truth = still()
    found = smooth(noisy(truth, 1.0))
    left = {name: float((found.points - truth.points)[10:-10, of].std()) for name, of in PARTS.items()}
    with capsys.disabled():
        print("\nnoise of 1 pixel, 25 frames per second, after smoothing:", left)
    assert left["head and face"] < 0.3
    assert left["body and hands"] < 0.5


PARTS = {"head and face": HEAD, "body and hands": OTHERS}


def lag(found: np.ndarray, truth: np.ndarray) -> int:
    """Frames by which a signal comes after another, from their cross-correlation."""
    found, truth = found - found.mean(), truth - truth.mean()
    return int(np.argmax(np.correlate(found, truth, "full"))) - (len(truth) - 1)


@pytest.mark.parametrize("part", PARTS)
def test_both_passes_together_do_not_lag_behind(part, capsys):
    seconds = np.arange(500) / 50
    moving = still(500, 50)
    truth = 60 * np.sin(2 * np.pi * 0.7 * seconds) + 25 * np.sin(2 * np.pi * 0.31 * seconds + 1)
    moving = changed(moving, moving.points + np.stack([truth, truth / 2], axis=1)[:, None])
    smoothed, behind = smooth(noisy(moving, 1)).points, forward(noisy(moving, 1))
    both = [lag(smoothed[:, point, 0], truth) for point in PARTS[part][::9]]
    one = [lag(behind[:, point, 0], truth) for point in PARTS[part][::9]]
    with capsys.disabled():
        print(
            f"\nlag of {part} in frames of 1/50 s: both passes {max(both)}, forward {min(one)} to {max(one)}"
        )
    assert set(both) == {0}
    assert min(one) >= 1


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0), st.sampled_from(["walk", "wave", "squat"]))
def test_a_clip_played_backwards_is_smoothed_alike(seed, motion):
    keypoints = without(noisy(person(motion, frames=12), 2, seed), [3, 40, 70], slice(4, 6))
    backwards = Keypoints(keypoints.frames[::-1], 512, 512, keypoints.frame_rate)
    np.testing.assert_array_equal(smooth(backwards).frames, smooth(keypoints).frames[::-1])


def test_the_size_of_the_picture_does_not_matter():
    keypoints = noisy(person("wave"), 2)
    np.testing.assert_allclose(
        smooth(resized(keypoints, 3)).frames, resized(smooth(keypoints), 3).frames, atol=1e-9
    )


def test_the_frame_rate_matters():
    truth = still()
    keypoints = noisy(truth, 1)
    left = [(forward(keypoints, Fraction(rate)) - truth.frames)[50:].std() for rate in (12, 24, 60)]
    assert left[0] > 1.2 * left[1] > 1.2 * 1.2 * left[2]  # what changes faster is more likely to be noise
    unknown = Keypoints(keypoints.frames, 512, 512)
    at_24 = Keypoints(keypoints.frames, 512, 512, Fraction(24))
    np.testing.assert_array_equal(smooth(unknown).frames, smooth(at_24).frames)


def test_the_filter_begins_anew_after_a_gap_and_missing_points_stay_missing():
    keypoints = without(noisy(person("walk"), 2), range(NUM_POINTS), slice(10, 12))
    parts = [
        Keypoints(keypoints.frames[part], 512, 512, Fraction(25)) for part in (slice(10), slice(12, None))
    ]
    expected = np.concatenate(
        [smooth(parts[0]).frames, np.zeros((2, NUM_POINTS, 3)), smooth(parts[1]).frames]
    )
    np.testing.assert_array_equal(smooth(keypoints).frames, expected)


def test_a_sample_with_a_low_score_moves_the_filter_less():
    moved = []
    for score in (0.05, 0.3, 0.6, 1.0):
        frames = np.array(still(11).frames)
        frames[5] += [20, 0, 0]
        frames[5, :, 2] = score
        result = smooth(Keypoints(frames, 512, 512, Fraction(25)))
        moved.append(result.points[6, 4, 0] - frames[6, 4, 0])
    assert 0 < moved[0] < moved[1] < moved[2] < moved[3]


def test_the_forward_pass_gives_each_frame_as_soon_as_it_has_come():
    keypoints = person(frames=5)
    taken = []
    frames = smooth_forward((taken.append(0) or pose for pose in keypoints), 512, 512, Fraction(25))
    for count, _ in enumerate(frames, 1):
        assert len(taken) == count


def test_a_sequence_without_frames():
    assert len(smooth(Keypoints(np.zeros((0, NUM_POINTS, 3)), 512, 512))) == 0


def test_two_thousand_frames_take_well_under_a_second(capsys):
    keypoints = noisy(person(frames=2000), 1)
    start = time.perf_counter()
    smooth(keypoints)
    seconds = time.perf_counter() - start
    with capsys.disabled():
        print(f"\nsmoothing of 2,000 frames: {1000 * seconds:.0f} ms")
    assert seconds < 2
