"""The orders in which a clip's tasks are issued. A task is one window at one step.

A window can take a step once all windows that share frames with it have taken the previous step. Both orders
obey this rule and take the windows of a step in ascending order, so the frames are the same bit for bit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import NamedTuple

from .layout import Layout


class Task(NamedTuple):
    window: int
    step: int


Order = Callable[[Layout, int], Iterator[Task]]


def step_major(layout: Layout, num_steps: int) -> Iterator[Task]:
    """Take all windows through each step. The whole clip is in memory, and all of it is ready at the end."""
    windows = list(layout)
    for step in range(num_steps):
        for window in windows:
            yield Task(window, step)


def time_skewed(layout: Layout, num_steps: int) -> Iterator[Task]:
    """Finish one window after another, running ahead in later windows only as far as overlaps require.

    The first window is finished after about num_steps**2 / 2 tasks, and at most num_steps windows are in
    progress (if neighbours overlap by no more than half). Windows must not wrap around: the first window
    would need the last one.
    """
    taken: defaultdict[int, int] = defaultdict(int)  # steps taken, by window
    for last in layout:
        earliest = layout.neighbours(last)[0]  # no window before it is needed from here on
        for finished in [window for window in taken if window < earliest]:
            del taken[finished]
        wanted = [(last, num_steps)]  # a stack: each entry waits for those above it
        while wanted:
            window, steps = wanted[-1]
            if taken[window] >= steps:
                wanted.pop()
            elif behind := [n for n in layout.neighbours(window) if taken[n] < steps - 1]:
                wanted.extend((neighbour, steps - 1) for neighbour in reversed(behind))
            else:
                taken[window] = steps
                yield Task(window, steps - 1)


ORDERS: dict[str, Order] = {"step-major": step_major, "time-skewed": time_skewed}
