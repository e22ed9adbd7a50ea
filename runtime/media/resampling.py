"""Resampling in time: frames at constant intervals, chosen from frames that have times of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def in_ticks(items: Iterable[T]) -> Iterator[tuple[T, float]]:
    """Items at constant intervals, with their times in ticks: 0, 1, 2 and so on."""
    return ((item, float(time)) for time, item in enumerate(items))


def resampled(timed: Iterator[tuple[T, float]], step: float) -> Iterator[T]:
    """Yield an item for each of the times 0, `step`, 2 * `step` and so on: the nearest one.

    Times are in ticks of the source, and its last item lasts one tick. With steps of less than a tick, an
    item is repeated until the next one is due.
    """
    number = 0
    current = next(timed, None)
    while current is not None:
        item, time = current
        current = next(timed, None)
        next_time = time + 1 if current is None else current[1]
        end = next_time - step / 2 if step < 1 else (time + next_time) / 2
        while number * step < end:
            yield item
            number += 1
