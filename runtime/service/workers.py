"""The workers of a service: threads that make one job after another."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Thread

from ...engines.bundle import Bundle
from ...errors import AnimateError, BundleMismatch, Cancelled, ConfigError, OutOfMemory
from ...text import message_of
from ..clip.windows import KnownLength
from ..marks.marks import MarkOptions
from ..poses.sources import is_keypoint_source
from ..shots.job_list import JobReader, parse
from ..shots.making import make
from ..shots.resume import Paused
from ..shots.shot import Shot
from .animators import Animators
from .jobs import Jobs
from .review import Review
from .run import Run, check_wanted
from .schedule import Entry, Schedule
from .speed import Work
from .spool import SHOT

LOG = logging.getLogger("animate_rt")


class Workers:
    """As many threads as the schedule has active jobs. `on_change` is called when one begins or ends."""

    def __init__(
        self,
        schedule: Schedule,
        jobs: Jobs,
        animators: Animators,
        review: Review,
        marks: MarkOptions,
        on_change: Callable[[], None],
    ):
        self.schedule, self.jobs, self.animators, self.on_change = schedule, jobs, animators, on_change
        self.review, self.marks = review, marks
        self.suspended = False
        self.threads = [
            Thread(target=self._work, name=f"animate-rt job {number}", daemon=True)
            for number in range(schedule.num_active)
        ]
        for thread in self.threads:
            thread.start()

    def suspend(self) -> None:
        """Stop all jobs as soon as they can be resumed."""
        self.suspended = True
        self.schedule.pause_all()

    def join(self) -> None:
        """Wait for the threads, once the schedule is closed."""
        for thread in self.threads:
            thread.join()

    def _work(self) -> None:
        while entry := self.schedule.take():
            self.on_change()
            try:
                self._make(entry)
            except Paused:
                self.schedule.put_back(entry)
                if entry.job.cancelled.is_set() and self.schedule.remove(entry.job):
                    self.jobs.end(entry.job, "cancelled")
            except Exception:
                LOG.exception("job %s: its end could not be recorded", entry.job.id)
                self.schedule.end(entry)
            else:
                self.schedule.end(entry)
            self.on_change()

    def _make(self, entry: Entry) -> None:
        """Make a job and record how it ended. Raises Paused."""
        job = entry.job
        try:
            check_wanted(job)
            if job.status.state == "queued":
                self.jobs.begin(job)
            self._render(entry)
        except Paused:
            job.change(stage="waiting")
            raise
        except Cancelled:
            self.jobs.end(job, "cancelled")
        except AnimateError as error:
            self.jobs.end(job, "failed", error)
        except MemoryError:
            too_large = OutOfMemory("expected more free memory; use a smaller size or fewer frames")
            self.jobs.end(job, "failed", too_large)
        except Exception as error:
            LOG.exception("job %s: failed", job.id)
            self.jobs.end(job, "failed", AnimateError(f"internal error: {type(error).__name__}"))
        else:
            self.jobs.end(job, "completed")

    def _render(self, entry: Entry) -> None:
        job, place = entry.job, self.animators.places[entry.job.record.size]
        run = Run(job, place.speed, self.schedule.num_running, lambda: self.suspended)
        entry.seconds_left = run.work_left

        def check_wait() -> None:
            check_wanted(job, place.speed.least_seconds(run.left))
            if self.schedule.should_pause(entry):
                raise Paused

        try:
            with self.animators.borrow(place.name, check_wait) as animator:
                run.enter("reference")
                if animator.bundle.digest != job.record.bundle:
                    raise BundleMismatch(
                        f"job {job.id}: expected the bundle that {place.name} was when the job was accepted, "
                        "found another one; submit the job again"
                    )
                self._check_marks()
                shot = replace(read_shot(job.folder, animator.bundle), marks=self.marks)
                make(
                    shot, animator, progress=run.on_progress, pause=partial(self.schedule.should_pause, entry)
                )
                self.review.result(job.path)
        finally:
            run.leave()

    def _check_marks(self) -> None:
        """Raise AnimateError if the certificate cannot sign any more. The client is told nothing of it."""
        try:
            self.marks.credentials()
        except ConfigError as error:
            raise AnimateError(message_of(error)) from error


def read_shot(folder: Path, bundle: Bundle) -> Shot:
    """The shot of a job's folder. Raises ConfigError or InputError."""
    reader = JobReader(folder, folder, lambda _path: bundle)
    reader.read(1, parse((folder / SHOT).read_bytes()))
    return replace(reader.shots[1], contact_sheet=None, overlay=None)


def work_of(shot: Shot, num_frames: int, bundle: Bundle) -> Work:
    """What there is to do for a clip."""
    settings = shot.options.resolve(bundle.manifest)
    windows = sum(1 for _ in settings.windows(KnownLength(num_frames)))
    extracted = 0 if shot.driving is None or is_keypoint_source(shot.driver) else num_frames
    return Work(windows * len(settings.steps), num_frames, extracted)
