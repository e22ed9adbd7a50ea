"""Progress of a clip, stage by stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Progress(NamedTuple):
    """How far a clip has come."""

    stage: str  # "pose", "denoise" or "decode"
    done: int
    total: int | None  # None while the pose sequence's length is unknown


ProgressCallback = Callable[[Progress], None]


def counter(
    progress: ProgressCallback, stage: str, total: Callable[[], int | None], done: int = 0
) -> Callable[[], None]:
    """Report a stage's beginning now, and one more thing done at each call. A total that is known stays so:
    to count a clip's windows at every task would be quadratic in its length."""
    known = total()

    def tick() -> None:
        nonlocal done, known
        done += 1
        known = total() if known is None else known
        progress(Progress(stage, done, known))

    progress(Progress(stage, done, known))
    return tick
