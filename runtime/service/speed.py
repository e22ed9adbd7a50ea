"""Speed: how long clips take, from measurements of earlier ones."""

from __future__ import annotations

from dataclasses import dataclass

WEIGHT = 0.3  # of a new measurement
ENOUGH = 8  # tasks in a row that make a measurement
EXTRACT_S = 0.06  # until measured: seconds of a frame of a driving video


@dataclass(slots=True)
class Speed:
    """Measured seconds of one bundle's work; None until the first measurement."""

    task_s: float | None = None  # one run of the UNet
    fastest_task_s: float | None = None
    frame_s: float = 0.0  # decoding, encoding and storing a frame, as far as tasks do not hide it
    extract_s: float = EXTRACT_S

    def take(self, tasks: int, seconds: float) -> None:
        """Take the measurement of some tasks in a row."""
        each = seconds / tasks
        self.task_s = each if self.task_s is None else self.task_s + WEIGHT * (each - self.task_s)
        if tasks >= ENOUGH:
            self.fastest_task_s = min(each, self.fastest_task_s or each)

    def seconds(self, work: Work) -> float | None:
        """Expected seconds of work on a device of its own."""
        if self.task_s is None:
            return None
        return work.tasks * self.task_s + work.frames * self.frame_s + work.extracted * self.extract_s

    def least_seconds(self, work: Work) -> float:
        """Seconds that work takes at least, judged by the fastest tasks so far."""
        return work.tasks * (self.fastest_task_s or 0.0)


@dataclass(frozen=True, slots=True)
class Work:
    """What is left to do of a clip."""

    tasks: int
    frames: int
    extracted: int = 0  # frames of a driving video
