"""The report of a farm: what came of each shot, and how well the workers were used."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

State = Literal["waiting", "making", "done", "failed"]


@dataclass(slots=True)
class ShotReport:
    """Times are in seconds; those of a clock count from the farm's beginning."""

    name: str
    state: State = "waiting"
    already: bool = False  # done before the farm was started
    num_frames: int = 0  # that are finished
    num_before: int = 0  # of these, before the farm was started
    share: float = 0.0  # of the shot that is done
    attempts: int = 0
    deaths: int = 0  # of workers while they made it
    busy_s: float = 0.0  # of workers, over all attempts
    wasted_s: float = 0.0  # of that, about as much had to be done again, as a worker had died
    worker: int | None = None  # that it is with, or was last
    began_s: float = 0.0  # of the last attempt
    ended_s: float = 0.0
    error: str = ""
    code: str = ""
    retryable: bool = False

    def stands(self, share: float, num_kept: int, num_frames: int) -> None:
        """How far an attempt is, which had frames of earlier ones to begin with."""
        self.share = share
        if not self.num_frames:
            self.num_before = num_kept
        self.num_frames = max(self.num_frames, num_frames)


@dataclass(slots=True)
class FarmReport:
    shots: list[ShotReport]
    num_workers: int = 0
    worker_starts: int = 0
    wall_s: float = 0.0
    missing: str = ""  # what has to be had before anything can begin

    @property
    def states(self) -> Counter[State]:
        return Counter(shot.state for shot in self.shots)

    @property
    def share(self) -> float:
        """Of all the work."""
        over = ("done", "failed")
        shares = (1.0 if shot.state in over else min(shot.share, 0.999) for shot in self.shots)
        return sum(shares) / len(self.shots)

    @property
    def num_frames(self) -> int:
        """That this farm has made, so far."""
        return sum(shot.num_frames - shot.num_before for shot in self.shots)

    @property
    def retries(self) -> int:
        return sum(max(shot.attempts - 1, 0) for shot in self.shots)

    def document(self) -> dict[str, Any]:
        """For programs: JSON."""
        busy_s = sum(shot.busy_s for shot in self.shots)
        wall_s = self.wall_s or 1.0
        return {
            "states": dict(self.states),
            "already_done": sum(shot.already for shot in self.shots),
            "frames": self.num_frames,
            "frames_per_second": round(self.num_frames / wall_s, 3),
            "workers": self.num_workers,
            "worker_starts": self.worker_starts,
            "wall_s": round(self.wall_s, 3),
            "utilisation": round(busy_s / (wall_s * max(self.num_workers, 1)), 4),
            "retries": self.retries,
            "worker_deaths": sum(shot.deaths for shot in self.shots),
            "wasted_s": round(sum(shot.wasted_s for shot in self.shots), 3),
            "shots": [dataclasses.asdict(shot) for shot in self.shots],
        }

    def table(self) -> str:
        """For people."""
        document = self.document()
        width = max(len(shot.name) for shot in self.shots)
        lines = [f"{'shot':{width}}  state    frames  attempts    busy  error"]
        for shot in self.shots:
            state = "already" if shot.already else shot.state
            lines.append(
                f"{shot.name:{width}}  {state:7}  {shot.num_frames:6}  {shot.attempts:8}  "
                f"{shot.busy_s:5.1f} s  {shot.error}".rstrip()
            )
        states = ", ".join(f"{count} {state}" for state, count in document["states"].items())
        lines.append(
            f"{states}; {self.num_frames} frames in {self.wall_s:.1f} s, "
            f"{document['frames_per_second']:.2f} per second; {self.num_workers} workers, "
            f"{100 * document['utilisation']:.0f}% used; {self.retries} retries, "
            f"{document['wasted_s']:.1f} s of work done again"
        )
        return "\n".join(lines)
