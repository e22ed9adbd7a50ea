"""Following one person through a video: who is meant, losses, cuts, and no silent change to someone else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from animate_rt.errors import ConfigError
from animate_rt.runtime.poses.extraction.extract import Report, extract
from animate_rt.runtime.poses.gaps import MAX_LOST, between
from animate_rt.runtime.poses.keypoints import NECK
from PIL import Image

from .disc_people import BLUE, RED, Body, DiscModels, picture


def followed(frames: Any, **options: Any) -> tuple[list[tuple[float, float] | None], Report]:
    """Where the neck is in each frame, None if the person is missing; and the report."""
    report = Report()
    poses = list(extract(frames, DiscModels(), report=report, **options))
    assert report.frames == len(poses)
    assert report.missing == [i for i, pose in enumerate(poses) if not pose.any()]
    return [tuple(pose[NECK, :2].round(6)) if pose.any() else None for pose in poses], report


def neck(body: Body) -> tuple[float, float]:
    x, y = body.pose[NECK, :2].round(6)
    return float(x), float(y)


def walk(frames: int, start: float = 60, step: float = 5) -> list[Body]:
    return [Body(start + step * i) for i in range(frames)]


def test_someone_who_walks_is_detected_once() -> None:
    bodies = walk(20)
    found, report = followed(picture(body) for body in bodies)
    assert found == [neck(body) for body in bodies]
    assert (report.chosen, report.detections, report.cuts, report.missing) == ([0], 1, [], [])


def test_frames_may_be_pillow_pictures() -> None:
    found, _ = followed([Image.fromarray(picture(Body(100)))])
    assert found == [neck(Body(100))]


def test_the_largest_person_is_followed() -> None:
    small, large = Body(80, height=60, colour=RED), Body(220, height=100, colour=BLUE)
    for person, body in ((0, large), (1, small), ((80.0, 90.0), small), ((220.0, 90.0), large)):
        found, report = followed([picture(small, large)] * 3, person=person)
        assert found == [neck(body)] * 3
        assert report.most_people == 2


def test_a_person_who_is_not_there_is_missing_and_not_replaced() -> None:
    for person in (1, (5.0, 5.0)):
        found, report = followed([picture(Body(100))] * 3, person=person)
        assert found == [None] * 3
        assert report.chosen == []


@pytest.mark.parametrize("person", [-1, 1000, (1.0, float("nan")), (1.0, 2.0, 3.0)])
def test_an_impossible_person_is_refused_at_once(person: Any) -> None:
    with pytest.raises(ConfigError, match="person: expected"):
        extract([], DiscModels(), person=person)


@pytest.mark.parametrize("lost", [1, 2, MAX_LOST])
def test_a_short_loss_is_interpolated(lost: int) -> None:
    bodies = walk(4 + lost + 4)
    gap = range(4, 4 + lost)
    found, report = followed(picture(*([] if i in gap else [body])) for i, body in enumerate(bodies))
    assert np.allclose(found, [neck(body) for body in bodies])  # even steps, so interpolation is exact
    assert (report.interpolated, report.chosen) == (list(gap), [0])


def test_a_longer_loss_is_missing_and_the_next_person_is_reported_as_chosen() -> None:
    lost, body = MAX_LOST + 1, Body(100)
    found, report = followed([picture(body)] * 3 + [picture()] * lost + [picture(body)] * 3)
    assert found == [neck(body)] * 3 + [None] * lost + [neck(body)] * 3
    assert (report.interpolated, report.missing) == ([], list(range(3, 3 + lost)))
    assert report.chosen == [0, 3 + lost]


def test_points_that_one_end_of_a_gap_lacks_are_not_interpolated() -> None:
    before, after = Body(100).pose, Body(120).pose
    after[NECK] = 0
    (pose,) = between(before, after, 1)
    assert not pose[NECK].any()
    assert pose[0, 0] == 110


def test_someone_else_does_not_replace_a_person_who_is_lost_for_a_moment() -> None:
    red, blue = Body(60, colour=RED), Body(250, colour=BLUE)
    frames = [picture(red, blue)] * 3 + [picture(blue)] * MAX_LOST + [picture(red, blue)] * 3
    found, report = followed(frames, person=(60.0, 90.0))
    assert found == [neck(red)] * len(frames)
    assert report.chosen == [0]


def test_a_person_who_is_back_after_a_long_time_is_preferred_to_a_larger_one() -> None:
    red, blue = Body(60, height=60, colour=RED), Body(250, height=100, colour=BLUE)
    away = [picture()] * (MAX_LOST + 3)
    found, report = followed([picture(red)] * 2 + away + [picture(red, blue)] * 2)
    assert found[-2:] == [neck(red)] * 2
    assert report.chosen == [0, 2 + len(away)]


def test_a_jump_to_someone_near_is_not_followed() -> None:
    """Both are so near to each other that the models find the other one where the person was."""
    red, blue = Body(100, colour=RED), Body(160, colour=BLUE)
    found, report = followed([picture(red)] * 3 + [picture(blue)] * (MAX_LOST + 2))
    assert found[:3] == [neck(red)] * 3
    assert found[3 : 3 + MAX_LOST] == [None] * MAX_LOST
    assert found[3 + MAX_LOST :] == [neck(blue)] * 2
    assert report.chosen == [0, 3 + MAX_LOST]


def test_after_a_cut_a_person_is_chosen_anew_at_once() -> None:
    one, other = Body(60), Body(260, height=100)
    found, report = followed([picture(one)] * 3 + [picture(other, background=30)] * 3)
    assert found == [neck(one)] * 3 + [neck(other)] * 3
    assert (report.cuts, report.chosen, report.missing) == ([3], [0, 3], [])


def test_a_change_of_size_is_a_cut() -> None:
    small = np.asarray(Image.fromarray(picture(Body(60))).crop((0, 0, 200, 180)))
    _, report = followed([picture(Body(60)), small])
    assert report.cuts == [1]


def test_nobody() -> None:
    found, report = followed([picture()] * 10)
    assert found == [None] * 10
    assert (report.chosen, report.detections, report.most_people) == ([], 10, 0)


def test_no_frames() -> None:
    assert followed([]) == ([], Report())


def test_poses_leave_while_frames_arrive() -> None:
    """At most MAX_LOST frames are held back, and only while the person is lost."""
    read = 0

    def frames() -> Iterator[Any]:
        nonlocal read
        for i in range(40):
            read += 1
            yield picture(*([] if i % 8 in (5, 6) else [Body(100)]))

    for number, _pose in enumerate(extract(frames(), DiscModels())):
        assert read - number - 1 <= 2
    assert read == 40
