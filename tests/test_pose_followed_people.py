"""Following one person through the poses of a file: who is meant, losses, and nobody else instead."""

from __future__ import annotations

import numpy as np
import pytest
from animate_rt.errors import ConfigError, InputError
from animate_rt.runtime.poses.following import Found, Trail, follow
from animate_rt.runtime.poses.keypoints import BODY, NECK, NUM_POINTS, VISIBLE, Pose
from animate_rt.runtime.poses.people import STEADY, box, movement, movements

from .keypoint_truth import truth


def at(x: float, person: int = 0, track: int | None = None) -> Found:
    """A person whose neck is at x; person 1 has half the size."""
    pose = truth(person=person)
    pose[:, 0] += x - pose[NECK, 0]
    return Found(pose, track)


def necks(frames: list[list[Found]], **options: object) -> tuple[list[float], Trail]:
    """x of the neck in each frame, 0 if the person is missing; and the trail."""
    poses, trail = follow(frames, **options)  # type: ignore[arg-type]
    missing = [number for number, pose in enumerate(poses) if not pose.any()]
    assert missing == trail.missing
    return [float(pose[NECK, 0].round(6)) for pose in poses], trail


def walk(*places: float, track: int | None = None) -> list[list[Found]]:
    return [[at(x, track=track)] for x in places]


def test_the_largest_is_followed_wherever_the_file_lists_it() -> None:
    frames = [[at(400, 1), at(200)], [at(210), at(400, 1)], [at(400, 1), at(220)]]
    assert necks(frames)[0] == [200, 210, 220]
    assert necks(frames, person=1)[0] == [400, 400, 400]
    assert necks(frames, person=(400.0, 420.0))[0] == [400, 400, 400]


def test_scores_count_as_much_as_size() -> None:
    doubtful = at(100)
    doubtful.pose[:, 2] *= 0.2
    assert necks([[doubtful, at(400, 1)]])[0] == [400]


def test_a_person_who_is_not_there_is_refused() -> None:
    frames: list[list[Found]] = [[], [at(200), at(400, 1)]]
    with pytest.raises(InputError, match="expected 0 to 1 for one of the people in frame 1, found 2"):
        follow(frames, 2)
    with pytest.raises(InputError, match="expected a person at 5,5 in frame 1, found none"):
        follow(frames, (5.0, 5.0))
    with pytest.raises(ConfigError):
        follow(frames, -1)


@pytest.mark.parametrize("lost", [1, 5])
def test_short_losses_are_interpolated(lost: int) -> None:
    frames = [*walk(100, 105), *([[]] * lost), *walk(105 + 5 * (lost + 1))]
    found, trail = necks(frames)
    np.testing.assert_allclose(found, [100 + 5 * i for i in range(len(frames))])
    assert trail == Trail(interpolated=list(range(2, 2 + lost)))


def test_long_losses_and_both_ends_are_missing() -> None:
    frames = [[], [], *walk(100), *([[]] * 6), *walk(110, 115), []]
    found, trail = necks(frames)
    assert found == [0, 0, 100, 0, 0, 0, 0, 0, 0, 110, 115, 0]
    assert trail == Trail(missing=[0, 1, 3, 4, 5, 6, 7, 8, 11])


def test_a_point_that_one_end_lacks_is_not_interpolated() -> None:
    frames = walk(100, 100, 110)
    frames[1] = []
    frames[2][0].pose[40] = 0
    poses, _ = follow(frames)
    assert poses[1, 39].all()
    assert not poses[1, 40].any()


def test_nobody_else_is_taken_when_the_person_is_lost() -> None:
    """The other one walks to the place where the person was lost."""
    other = [400, 360, 320, 280, 240, 205, 200, 200]
    frames = [[at(200), at(x)] if i < 2 else [at(x)] for i, x in enumerate(other)]
    found, trail = necks(frames)
    assert found == [200, 200, 0, 0, 0, 0, 0, 0]
    assert trail.missing == [2, 3, 4, 5, 6, 7]
    frames.append([at(200), at(212)])  # the other one has not moved, so the second is the person
    assert necks(frames)[0][-1] == 212


def test_two_people_who_pass_each_other_are_not_exchanged() -> None:
    frames = [[at(100 + 12 * i), at(300 - 12 * i, 1)] for i in range(17)]
    assert necks(frames)[0] == [100 + 12 * i for i in range(17)]
    assert necks(frames, person=1)[0] == [300 - 12 * i for i in range(17)]


def test_a_person_who_comes_back_beside_the_other_is_found() -> None:
    frames = [[at(200), at(420, 1)], [at(420, 1)], [at(420, 1)], [at(425, 1), at(212)]]
    found, trail = necks(frames)
    np.testing.assert_allclose(found, [200, 204, 208, 212])
    assert trail.interpolated == [1, 2]


def test_the_only_person_is_kept_over_a_cut_and_it_is_reported() -> None:
    frames = [*walk(100, 105), *walk(900, 905), [], *walk(100)]
    found, trail = necks(frames)
    assert found == [100, 105, 900, 905, 0, 100]
    assert trail == Trail(missing=[4], jumped=[2, 5])


def test_a_cut_to_several_people_loses_the_person() -> None:
    frames = [*walk(100), [at(900), at(1300, 1)], *walk(900)]
    assert necks(frames)[0] == [100, 0, 0]


def test_tracks_decide_and_are_never_exchanged() -> None:
    frames = [
        [at(100, track=3), at(300, track=4)],
        [at(290, track=3), at(110, track=4)],  # far, but the same track
        [at(290, track=5)],
        [at(295, track=3)],
    ]
    found, trail = necks(frames)
    assert found == [100, 290, 292.5, 295]
    assert trail == Trail(interpolated=[2])


def test_nobody_at_all() -> None:
    empty = Found(np.zeros((NUM_POINTS, 3)))
    poses, trail = follow([[], [empty]])
    assert poses.shape == (2, NUM_POINTS, 3)
    assert trail.missing == [0, 1]
    assert follow([])[0].shape == (0, NUM_POINTS, 3)


def one_movement(before: Pose, after: Pose) -> float:
    """The same as `movement`, for one pair of poses alone."""
    visible = (before[BODY, 2] > VISIBLE) & (after[BODY, 2] > VISIBLE)
    both = [i for i in STEADY if visible[i]] or list(np.flatnonzero(visible))
    left, top, right, bottom = box(before)
    size = max(right - left, bottom - top)
    if not both or size <= 0:
        return np.inf
    return float(np.median(np.hypot(*(after[both, :2] - before[both, :2]).T)) / size)


def test_movements_of_many_are_those_of_each_pair() -> None:
    rng = np.random.default_rng(0)
    poses = list(rng.uniform(0, 500, (12, NUM_POINTS, 3)))
    for pose in poses:
        pose[:, 2] = rng.uniform(0, 1, NUM_POINTS) * rng.integers(0, 2, NUM_POINTS)
    poses += [np.zeros((NUM_POINTS, 3)), poses[0] * (np.arange(NUM_POINTS) == 4)[:, None]]
    expected = [[one_movement(one, other) for other in poses] for one in poses]
    np.testing.assert_allclose(movements(poses, poses), expected, rtol=1e-12)
    assert np.isinf(expected).any()
    assert movement(poses[0], poses[1]) == pytest.approx(expected[0][1])


def test_people_without_a_body_are_followed_if_alone() -> None:
    pose: Pose = np.zeros((NUM_POINTS, 3))
    pose[60:128] = truth()[60:128]
    poses, trail = follow([[Found(pose)], [Found(pose)]])
    np.testing.assert_array_equal(poses, [pose, pose])
    assert trail == Trail()
