"""In which order a clip's tasks are issued. A task is one window at one step.

A window can take a step once all windows that share frames with it have taken the step before. Every order
below keeps to that and, at each step, to ascending windows; the frames are the same bit for bit.
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
    """All windows, step by step: the whole clip is in memory, and all of it is ready at the end."""
    windows = list(layout)
    for step in range(num_steps):
        for window in windows:
            yield Task(window, step)


def time_skewed(layout: Layout, num_steps: int) -> Iterator[Task]:
    """Finish window after window, running ahead in later ones only as far as that takes.

    The first is finished after about num_steps**2 / 2 tasks, and at most num_steps windows are under way
    (where neighbours overlap by no more than half). Only for windows that do not wrap: these would need the
    last window for the first.
    """
    taken: defaultdict[int, int] = defaultdict(int)  # steps, by window
    for last in layout:
        earliest = layout.neighbours(last)[0]  # of all that will be asked about from here on
        for finished in [window for window in taken if window < earliest]:
            del taken[finished]
        wanted = [(last, num_steps)]
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
