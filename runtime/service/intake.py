"""The intake of a service: how a request becomes a job, or is refused."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...atomic import unwritable
from ...engines.files import digest_of
from ...errors import AnimateError, ConfigError, DeadlineMissed, KeyReused, QueueFull, ServiceClosed
from ...text import quoted
from .animators import Animators
from .checker import Checker
from .job import Job
from .jobs import Jobs, log, public
from .request import COPIED, ClipRequest, to_line, without_names
from .review import Review
from .schedule import Schedule
from .speed import Work
from .spool import SHOT, Record, Spool
from .workers import read_shot, work_of

MAX_KEY = 255  # characters of an idempotency key

TakeJob = Callable[[Record, Path, Work], Job]


class Intake:
    """Accepts requests until it is closed. `take` makes a job of what is in the spool, and schedules it."""

    def __init__(
        self,
        spool: Spool,
        jobs: Jobs,
        schedule: Schedule,
        animators: Animators,
        checker: Checker,
        review: Review,
        queue_size: int,
        take: TakeJob,
    ):
        self.spool, self.jobs, self.schedule, self.animators = spool, jobs, schedule, animators
        self.checker, self.review, self.queue_size, self.take = checker, review, queue_size, take
        self.reserved = 0  # places in the queue for requests that are being checked
        self.closed = False

    def accept(
        self, request: ClipRequest, key: str, deadline_s: float | None, trace: str, labels: dict[str, str]
    ) -> Job:
        """The job of a request, durable; an earlier one if the key is known. See `Service.submit`."""
        if len(key) > MAX_KEY:
            raise ConfigError(f"idempotency_key: expected up to {MAX_KEY} characters, found {quoted(key)}")
        if deadline_s is not None and not math.isfinite(deadline_s):
            raise ConfigError(f"deadline_s: expected a finite number of seconds, found {deadline_s}")
        place = self.animators.find(request.size)
        with self.jobs.lock:
            known = key in self.jobs.by_key
            if not known:
                self.check_room()
                self.reserved += 1
        folder = self.spool.start()
        try:
            line = request.write(folder, folder.name, place.path.absolute())
            (folder / SHOT).write_bytes(to_line(line))
            num_frames, frame_rate = self.checker.examine(folder / SHOT)
            shot = read_shot(folder, place.bundle)
            self.review.reference(shot, {"size": place.name, "labels": labels, **options_in(line)})
            content = {"size": place.name, **without_names(line), **shot.read_inputs().content()}
            now = time.time()
            record = Record(
                id=folder.name,
                size=place.name,
                bundle=place.bundle.digest,
                request=digest_of(content),
                num_frames=num_frames,
                frame_rate=str(frame_rate),
                created=now,
                deadline=0.0 if deadline_s is None else now + deadline_s,
                idempotency_key=key,
                trace=trace,
                labels=labels,
            )
            work = work_of(shot, num_frames, place.bundle)
            self.spool.prepare(folder, record)
            with self.jobs.lock:
                if job := self._same(record):
                    return job
                if known:  # that job has been removed meanwhile, and this one has no place yet
                    self.check_room()
                self.check_open()
                if deadline_s is not None:
                    check_deadline(deadline_s, place.speed.least_seconds(work))
                job = self.take(record, self.spool.accept(folder, record), work)
        except AnimateError as error:
            error.args = (public(error, folder),)
            raise
        except OSError as error:
            raise unwritable(folder.name, error) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            with self.jobs.lock:
                self.reserved -= not known
        log(job, "queued")
        return job

    def check_room(self) -> None:
        """Raise ServiceClosed or QueueFull if a new request would be refused."""
        self.check_open()
        if self.schedule.num_waiting + self.reserved >= self.queue_size:
            seconds = max(1.0, self.schedule.seconds_to_room())
            raise QueueFull(
                f"queue: expected fewer than {self.queue_size} waiting jobs, found no place; "
                f"try again in {seconds:.0f} s",
                seconds,
            )

    def check_open(self) -> None:
        """Raise ServiceClosed once new jobs are refused."""
        if self.closed:
            raise ServiceClosed("service: expected an open one, found it shutting down; try again later")

    def _same(self, record: Record) -> Job | None:
        """The job with this record's key, if there is one. Raises KeyReused if it is of another request."""
        job = self.jobs.by_key.get(record.idempotency_key)
        if job is not None and job.record.request != record.request:
            raise KeyReused(
                f"idempotency_key: expected a new key, found that of job {job.id}, which is another request; "
                "use one key for one request"
            )
        return job


def options_in(line: dict[str, Any]) -> dict[str, Any]:
    """The line of a job list without files."""
    return {key: value for key, value in without_names(line).items() if key not in ("reference", *COPIED)}


def check_deadline(deadline_s: float, least: float) -> None:
    if least > deadline_s:
        raise DeadlineMissed(
            f"deadline: expected at least {least:.1f} s, which the clip takes, found {deadline_s:g} s; "
            "allow more time, or use fewer frames or steps"
        )
