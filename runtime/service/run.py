"""`Run`: a job while it is being made. Turns what the clip reports into the job's status.

It also ends the job: at every report, which follows every run of the UNet, the job may be cancelled or found
too late for its deadline.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from time import monotonic

from ...errors import Cancelled, DeadlineMissed
from ..clip.progress import Progress
from ..shots.driven_poses import EXTRACT
from ..shots.resume import Paused
from .job import Job
from .speed import ENOUGH, Speed, Work

STEP = 0.001  # of progress; smaller changes are not reported


class Run:
    """One attempt at a job. `on_progress` is called from the thread that makes the clip."""

    def __init__(self, job: Job, speed: Speed, num_running: Callable[[], int], suspended: Callable[[], bool]):
        """`num_running` is the number of clips that share the device. Extraction stops once `suspended`."""
        self.job, self.speed, self.num_running, self.suspended = job, speed, num_running, suspended
        self.left = job.work
        self.stage, self.stage_began = "load", monotonic()
        self.measured: tuple[float, int] | None = None  # when, and how many tasks were left

    def on_progress(self, progress: Progress) -> None:
        """Take a report of the clip. Raises Cancelled or DeadlineMissed."""
        check_wanted(self.job, self.speed.least_seconds(self.left))
        stage, done, total = progress
        work, left = self.job.work, self.left
        if stage == EXTRACT:
            if self.suspended():
                raise Paused
            self.enter("extract")
            left = replace(left, extracted=max(0, work.extracted - done))
        elif stage == "denoise":
            self.enter("denoise")
            left = replace(left, extracted=0, tasks=max(0, (total or work.tasks) - done))
            self.measure(left.tasks)
        elif stage == "decode":
            left = replace(left, frames=max(0, (total or work.frames) - done))
        elif self.stage != "denoise":  # poses are read
            self.enter("reference")
        if not (left.tasks or left.frames):
            self.enter("encode")
        self.left = left
        self.show(frames_done=work.frames - left.frames)

    def enter(self, stage: str) -> None:
        """Begin another stage."""
        if stage != self.stage:
            self.leave()
            self.stage = stage
            self.job.change(stage=stage, seconds_left=self.seconds_left())

    def leave(self) -> None:
        """Count the seconds of the stage."""
        now = monotonic()
        self.job.add_seconds(self.stage, now - self.stage_began)
        self.stage_began = now

    def measure(self, tasks_left: int) -> None:
        """Measure runs of the UNet. Clips that run side by side share the device."""
        now = monotonic()
        if self.measured is None:
            self.measured = now, tasks_left
        since, left = self.measured
        tasks = left - tasks_left
        # Reports may come in bursts, so only a number of runs tells how long one takes.
        if tasks >= ENOUGH or (tasks > 0 and not tasks_left):
            self.speed.take(tasks, (now - since) / max(1, self.num_running()))
            self.measured = now, tasks_left

    def show(self, frames_done: int) -> None:
        done = 1 - weight(self.left, self.speed) / weight(self.job.work, self.speed)
        before = self.job.status
        progress = max(before.progress, min(done, 0.999))  # 1 is for a result that is there
        if progress - before.progress >= STEP or frames_done > before.frames_done:
            self.job.change(
                progress=progress,
                frames_done=max(before.frames_done, frames_done),
                seconds_left=self.seconds_left(),
            )

    def work_left(self) -> float | None:
        """Expected seconds of the work that is left, on a device of its own."""
        return self.speed.seconds(self.left)

    def seconds_left(self) -> float | None:
        """Expected seconds until the clip is done, given how many share the device."""
        seconds = self.work_left()
        return None if seconds is None else seconds * max(1, self.num_running())


def check_wanted(job: Job, least_seconds: float = 0.0) -> None:
    """Raise Cancelled, or DeadlineMissed if a job that takes at least so many seconds more would be late."""
    if job.cancelled.is_set():
        raise Cancelled(f"job {job.id}: cancelled on request")
    deadline = job.record.deadline
    if deadline and time.time() + least_seconds > deadline:
        raise DeadlineMissed(
            f"job {job.id}: expected to end before its deadline, which it cannot; ended early"
        )


def weight(work: Work, speed: Speed) -> float:
    """The size of some work, in runs of the UNet."""
    task_s = speed.task_s or 1.0
    return work.tasks + 0.1 * work.frames + work.extracted * speed.extract_s / task_s
