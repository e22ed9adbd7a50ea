"""Snapshots: the state of an unfinished clip, from which another process can resume it.

The order of a clip's tasks is fixed. So a later process skips the tasks that a snapshot includes, restores
the latents of the unfinished segments, and makes the same frames bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from ...engines.device import Array


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a clip after its first `num_tasks` tasks."""

    num_tasks: int = 0
    first_frame: int = 0  # all earlier frames were finished and saved
    # Unfinished segments, by first frame: latents, float32 (frames, 4, h, w), the sum of predictions if
    # several windows cover the segment, and the estimates that a multistep solver has kept, the last first.
    segments: dict[int, list[Array]] = field(default_factory=dict)
    # Cached deep features by window in progress, the last first.
    features: dict[int, list[Array]] = field(default_factory=dict)


@runtime_checkable
class SnapshotSink(Protocol):
    """Saves snapshots of a clip in progress, and provides the one to resume from."""

    start: Snapshot
    num_frames: int  # number of leading frames that need not be made again

    def due(self) -> bool:
        """Return whether to take a snapshot now."""

    def save(self, take: Callable[[], Snapshot]) -> None:
        """Take a snapshot and save it.

        Called when all frames before its `first_frame` have been yielded and consumed. The time of `take` is
        part of the cost of the snapshot.
        """


class _NoSnapshots:
    start, num_frames = Snapshot(), 0

    def due(self) -> bool:
        return False

    def save(self, take: Callable[[], Snapshot]) -> None:
        pass


NO_SNAPSHOTS: SnapshotSink = _NoSnapshots()
