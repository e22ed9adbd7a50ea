"""Frames: what `Animator.animate` returns."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from threading import Event
from typing import Self

from ...engines.device import Array


class Frames(Iterator[Array]):
    """The frames of one clip, uint8 (H, W, 3) RGB. The clip is made while iterating."""

    def __init__(self, rendering: Generator[Array, None, None], cancelled: Event):
        self._rendering, self._cancelled = rendering, cancelled

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Array:
        return next(self._rendering)

    def close(self) -> None:
        """Abandon the clip. Called by the thread that iterates, or once nothing iterates any more."""
        self._rendering.close()

    def cancel(self) -> None:
        """Abandon the clip from any thread: the one that iterates gets Cancelled before the next task. After
        the last task, nothing happens."""
        self._cancelled.set()
