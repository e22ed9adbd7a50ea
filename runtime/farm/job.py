"""The jobs of a farm: shots that are still to be made, and which of them a worker makes next."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..shots.shot import Shot
from .report import ShotReport
from .worker import ShotProgress

Key = tuple[Path, Path]  # bundle and reference; one worker should make all shots with the same key


class LostAttempt(NamedTuple):
    """An attempt whose worker died."""

    shot_progress: ShotProgress  # at the last poll
    shot_progress_s: float  # seconds from the start of the attempt to that poll
    ended_s: float  # seconds from the start of the attempt to the worker's death

    def wasted_s(self, resumed: float) -> float:
        """Estimate how many seconds are repeated if the next attempt resumes at this fraction of the shot."""
        start, reached = self.shot_progress.resumed, self.shot_progress.share
        if reached <= start:
            return self.ended_s
        useful_s = self.shot_progress_s * (resumed - start) / (reached - start)
        return min(max(self.ended_s - useful_s, 0.0), self.ended_s)


@dataclass(slots=True, eq=False)
class Job:
    """A shot that the farm has still to make."""

    shot: Shot
    report: ShotReport
    tries: int = 0  # failed attempts in a row; an attempt that made progress starts again at 1
    reached: float = 0.0  # largest finished fraction of all attempts
    not_before_s: float = 0.0  # earliest time of the next attempt
    lost: LostAttempt | None = None  # the last attempt, if its worker died
    excluded_slots: set[int] = field(default_factory=set)  # slots where it failed with a host error

    @property
    def key(self) -> Key:
        return self.shot.bundle, self.shot.reference


def choose(waiting: Sequence[Job], last: Key | None, taken: Collection[Key | None]) -> Job | None:
    """Choose the next shot for a worker whose last shot had the key `last`.

    Prefers a shot with that key, so that its reference is cached; then one whose key no other worker has
    (`taken` are theirs); then any. Among equals, prefers one with the worker's bundle.
    """

    def preference(job: Job) -> tuple[bool, bool, bool]:
        return job.key != last, job.key in taken, last is None or job.shot.bundle != last[0]

    return min(waiting, key=preference, default=None)
