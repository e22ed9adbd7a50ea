"""`Frames`, the iterator that `Animator.animate` returns."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from inspect import GEN_CLOSED, getgeneratorstate
from threading import Event
from typing import Self

from ...engines.device import Array
from .clip import check_cancelled


class Frames(Iterator[Array]):
    """An iterator over the frames of one clip, uint8 (H, W, 3) RGB. Iterating makes the clip."""

    def __init__(
        self,
        rendering: Generator[Array, None, None],
        cancelled: Event,
        check_process: Callable[[], None],
        on_end: Callable[[], None],
    ):
        self._rendering, self._cancelled = rendering, cancelled
        self._check_process, self._on_end = check_process, on_end

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Array:
        self._check_process()
        try:
            if getgeneratorstate(self._rendering) != GEN_CLOSED:
                check_cancelled(self._cancelled)
            return next(self._rendering)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Abandon the clip. Call it from the iterating thread, or when no thread is iterating.

        On a CPU, of the tasks that are issued only the one that runs is finished.
        """
        self._check_process()
        self._cancelled.set()  # which these tasks look at
        self._rendering.close()
        self._on_end()

    def cancel(self) -> None:
        """Abandon the clip, from any thread. This call does not wait.

        The iterating thread gets Cancelled once what it waits for has happened: at most the end of one task
        or of the reference, the next pose frame or the end of loading. Everything the clip held is then given
        back. Once the clip has ended, nothing happens.
        """
        self._cancelled.set()
