"""The progress of a clip, reported separately for each stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Progress(NamedTuple):
    """The progress of one stage of a clip."""

    stage: str  # "pose", "denoise" or "decode"
    done: int  # pose frames read, tasks done or frames decoded
    total: int | None  # None while the pose sequence's length is unknown


ProgressCallback = Callable[[Progress], None]


def counter(
    progress: ProgressCallback, stage: str, total: Callable[[], int | None], done: int = 0
) -> Callable[[], None]:
    """Report the start of a stage, and return a function that reports one more item done.

    `total` is not called again once it has returned a number: counting a clip's windows at every task would
    take time quadratic in its length.
    """
    known = total()

    def tick() -> None:
        nonlocal done, known
        done += 1
        known = total() if known is None else known
        progress(Progress(stage, done, known))

    progress(Progress(stage, done, known))
    return tick
