"""Layouts and task orders: frames lie in one segment, windows do not run ahead, first frames come early."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import product

import pytest
from animate_rt.runtime.clip.layout import Layout
from animate_rt.runtime.clip.order import ORDERS, Task, step_major, time_skewed
from animate_rt.runtime.clip.windows import POLICIES, KnownLength, Window, open_ended

SHAPES = [
    (frames, size, overlap)
    for frames, size in product(range(1, 40, 3), (1, 2, 5, 8))
    for overlap in range(size)
]


class Growing:
    """A clip whose length is unknown until its end is read; `num_read` is how many frames were read."""

    def __init__(self, num_frames: int):
        self.num_frames, self.num_read = num_frames, 0

    def at_least(self, num_frames: int) -> bool:
        self.num_read = max(self.num_read, min(num_frames, self.num_frames))
        return self.num_frames >= num_frames

    def total(self) -> int:
        self.num_read = self.num_frames
        return self.num_frames


@pytest.mark.parametrize("policy", POLICIES)
def test_every_frame_of_a_window_is_in_one_segment_that_lists_the_window(policy: str) -> None:
    for frames, size, overlap in SHAPES:
        layout = Layout(POLICIES[policy](KnownLength(frames), size, overlap))
        covered: defaultdict[int, list[int]] = defaultdict(list)
        for index in layout:
            places = layout.places(index)
            rows = [
                (row, frame)
                for segment, rows in places
                for row, frame in zip(rows, segment.frames, strict=True)
            ]
            assert rows == list(enumerate(layout.windows[index]))
            for segment, _ in places:
                assert index in segment.windows
                for frame in segment.frames:
                    covered[frame].append(index)
        assert sorted(covered) == list(range(frames))
        for segment in layout.segments.values():
            assert all(covered[frame] == list(segment.windows) for frame in segment.frames)


def check(tasks: Iterable[Task], windows: list[Window], num_steps: int) -> None:
    """Check that every task comes once, in an order that allows overlapping frames to be averaged."""
    taken: defaultdict[int, int] = defaultdict(int)
    latest: dict[int, int] = {}
    frames = [set(window) for window in windows]
    for window, step in tasks:
        assert taken[window] == step
        neighbours = [n for n in range(len(windows)) if frames[n] & frames[window]]
        assert all(taken[n] >= step for n in neighbours), "a neighbour is behind"
        assert latest.get(step, -1) < window, "windows of a step have to come in ascending order"
        latest[step] = window
        taken[window] += 1
    assert all(taken[n] == num_steps for n in range(len(windows)))


@pytest.mark.parametrize("order", ORDERS)
def test_no_window_runs_ahead_of_its_neighbours(order: str) -> None:
    for frames, size, overlap in SHAPES:
        for steps in (1, 2, 5):
            windows = list(open_ended(KnownLength(frames), size, overlap))
            layout = Layout(open_ended(Growing(frames), size, overlap))
            check(ORDERS[order](layout, steps), windows, steps)


def test_uniform_windows_step_by_step() -> None:
    for frames, size, overlap in SHAPES:
        windows = list(POLICIES["uniform"](KnownLength(frames), size, overlap))
        check(step_major(Layout(windows), 3), windows, 3)


@pytest.mark.parametrize("steps", [1, 4, 20])
def test_time_skewed_finishes_early_and_keeps_few_windows_under_way(steps: int) -> None:
    num_frames, size, overlap = 1800, 24, 4
    clip = Growing(num_frames)
    layout = Layout(open_ended(clip, size, overlap))
    first = None
    begun: set[int] = set()
    finished: set[int] = set()
    under_way = 0
    for count, (window, step) in enumerate(time_skewed(layout, steps), start=1):
        begun.add(window)
        under_way = max(under_way, len(begun - finished))
        if step == steps - 1:
            finished.add(window)
            if first is None:
                first, read = count, clip.num_read
    assert count == 90 * steps
    assert first == steps * (steps + 1) // 2
    assert under_way == steps
    assert read <= (steps + 2) * (size - overlap) + size


def test_a_thousand_steps_do_not_recurse_deeply() -> None:
    assert sum(1 for _ in time_skewed(Layout(open_ended(KnownLength(60), 24, 4)), 1000)) == 3000


def test_finished_windows_of_a_long_clip_are_forgotten() -> None:
    layout = Layout(open_ended(KnownLength(20_000), 24, 4))
    most = 0
    for window, step in time_skewed(layout, 5):
        layout.places(window)
        if step == 4:
            layout.forget(window)
        most = max(most, len(layout.covering) + len(layout.segments))
    assert most < 300
