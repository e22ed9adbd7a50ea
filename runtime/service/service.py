"""`Service`: makes clips for many callers on one device.

    with Service({"512x768": "bundle"}, spool="jobs") as service:
        job = service.submit(ClipRequest(reference="hero.png", pose="walk.mp4", steps=25))
        print(job.result())

A job is a shot in the spool folder (spool.py). `submit` copies its inputs, checks them in a process of its
own (checker.py) and returns once the job is durable. The schedule (schedule.py) decides which jobs run. They
run in threads (workers.py), on the animators of the bundles (animators.py).
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Any, Self

from ...errors import (
    AnimateError,
    Cancelled,
    DeadlineMissed,
    InputError,
    Rejected,
    ServiceClosed,
)
from ...text import message_of, one_line
from ..clip.options import whole_number
from ..marks.marks import MarkOptions
from ..marks.policy import Policy
from .animators import Animators, named
from .checker import Checker, Limits
from .intake import Intake
from .job import Job
from .jobs import Jobs
from .live import LiveVideos
from .metrics import ACTIVE, LOADED, QUEUED, REFUSED, Metrics, NoMetrics
from .request import ClipRequest
from .review import Review
from .run import check_wanted
from .schedule import TURN_S, Schedule
from .speed import Work
from .spool import CANCELLED, ENDED, REMOVED, Record, Spool, State
from .warm_up import warm_up
from .workers import Workers, read_shot, work_of

LOG = logging.getLogger("animate_rt")
DAY_S, KEPT_BYTES = 86_400.0, 10 << 30
HOUSEKEEPING_S = 1.0  # between two looks at what has expired


class Service:
    """Makes clips for many callers. Use it in a `with`, or call `close`.

    bundles: the path of each bundle by the name that requests give as their size; one path alone is named
        after its frame size, such as "512x768".
    queue_size: jobs that may wait. active_clips: jobs that run at the same time: while one denoises, another
        prepares, decodes and encodes.
    spool: folder of the jobs. A service that starts on the spool of an earlier one finishes its jobs. Without
        it there is a temporary folder, which is removed at the end.
    turn_s: seconds that a long job may keep a shorter one waiting (schedule.py).
    keep_s, keep_bytes: how long results are kept, and how large they may be together; the oldest go first.
    memory_budget: bytes for loaded bundles; with None, every bundle stays loaded.
    limits: of the inputs of one job. metrics: receives measurements (metrics.py).
    policy: is asked whether a reference may be animated before its job is accepted, and about all frames
        before they are given away (marks/policy.py). Without it everything may be made.
    marks: what results get to say that they were generated; the default is a watermark and metadata.

    Returns at once: bundles are loaded and warmed up in a thread, and then `ready` is set. Raises
    ConfigError, BundleError, OutputError, or Rejected if another service uses the spool.
    """

    def __init__(
        self,
        bundles: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]],
        *,
        queue_size: int = 8,
        active_clips: int = 2,
        spool: str | os.PathLike[str] | None = None,
        turn_s: float = TURN_S,
        keep_s: float = DAY_S,
        keep_bytes: int = KEPT_BYTES,
        memory_budget: int | None = None,
        limits: Limits | None = None,
        metrics: Metrics | None = None,
        policy: Policy | None = None,
        marks: MarkOptions | None = None,
    ):
        marks = marks or MarkOptions()
        marks.credentials()  # now, and not when the first job has been accepted
        self.metrics = metrics or NoMetrics()
        self.process = os.getpid()
        self.ready, self.closed = Event(), Event()
        self.failure: Exception | None = None  # why a bundle could not be loaded at the start
        self.schedule = Schedule(whole_number("active_clips", active_clips, least=1), turn_s)
        self.animators = Animators(
            named(bundles), memory_budget, lambda count: self.metrics.set(LOADED, count)
        )
        queue_size = whole_number("queue_size", queue_size, least=1)
        keep_bytes = whole_number("keep_bytes", keep_bytes)
        self.checker, self.detector = Checker(limits or Limits()), Checker(limits or Limits())
        review = Review(policy)
        self.live = LiveVideos(review)
        self.temporary = None if spool else Path(tempfile.mkdtemp(prefix="animate-rt-"))
        self.spool = Spool(Path(spool or self.temporary or ".").absolute())
        try:
            self.jobs = Jobs(self.spool, self.metrics, keep_s, keep_bytes)
            self.intake = Intake(
                self.spool,
                self.jobs,
                self.schedule,
                self.animators,
                self.checker,
                review,
                queue_size,
                self._take,
            )
            self._recover()
        except BaseException:
            self._leave_spool()
            raise
        self.workers = Workers(self.schedule, self.jobs, self.animators, review, marks, self._on_change)
        self.housekeeping = Thread(target=self._keep_house, name="animate-rt housekeeping", daemon=True)
        self.housekeeping.start()

    def submit(
        self,
        request: ClipRequest,
        *,
        idempotency_key: str = "",
        deadline_s: float | None = None,
        trace: str = "",
        labels: Mapping[str, str] | None = None,
    ) -> Job:
        """Accept a job. It is durable when this call returns: a service that is killed finishes it later.

        A second call with the same `idempotency_key` and request returns the same job. A job that cannot end
        within `deadline_s` seconds is refused, or ended early. `trace` is the caller's trace context, which
        log lines and the job's record have. `labels` are kept with the job.

        Raises ConfigError or InputError for a request that cannot be made, Refused for a reference that the
        policy does not allow, QueueFull, ServiceClosed, DeadlineMissed, KeyReused for the key of another
        request, or OutputError if the disk is full.
        """
        self.check_process()
        try:
            return self.intake.accept(request, idempotency_key, deadline_s, trace, dict(labels or {}))
        except AnimateError as error:
            self.metrics.add(REFUSED, code=error.code)
            raise

    async def submit_async(self, request: ClipRequest, **keywords: Any) -> Job:
        """Like `submit`, without blocking the event loop."""
        return await asyncio.to_thread(self.submit, request, **keywords)

    @property
    def draining(self) -> bool:
        """Whether new jobs are refused because the service shuts down."""
        return self.intake.closed

    def get(self, job_id: str) -> Job | None:
        """The job with this id; None if there is none, or not any more."""
        self.check_process()
        self.jobs.expire()
        return self.jobs.by_id.get(job_id)

    def list(self) -> list[Job]:
        """All jobs, the oldest first."""
        self.check_process()
        self.jobs.expire()
        with self.jobs.lock:
            return [*self.jobs.by_id.values()]

    def remove(self, job: Job) -> None:
        """Remove an ended job, with its result. Raises Rejected if it has not ended."""
        self.check_process()
        if not job.status.has_ended:
            raise Rejected(
                f"job {job.id}: expected one that has ended, found it in progress; cancel it first"
            )
        self.jobs.forget(job)

    def remove_later(self, job: Job) -> None:
        """Cancel a job, and remove it as soon as it has ended; a service on the same spool does so, too."""
        self.check_process()
        self.spool.mark(job.id, REMOVED)
        job.removed.set()
        self.cancel(job)
        if job.status.has_ended:
            self.jobs.forget(job)

    def drain(self, timeout: float | None = None) -> bool:
        """Refuse new jobs and finish the old ones. False if that takes longer than so many seconds."""
        self._refuse()
        return self.schedule.wait_until_idle(timeout)

    def close(self) -> None:
        """Cancel all jobs that have not ended, and unload the bundles."""
        self._refuse()
        for job in self.list():
            self.cancel(job)
        self._stop()

    def suspend(self) -> None:
        """Stop without cancelling: the next service on the same spool finishes the jobs."""
        self._refuse()
        self.workers.suspend()
        self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    # For the jobs, see job.Owner.

    def cancel(self, job: Job) -> None:
        self.check_process()
        waits = self.schedule.remove(job)
        if not (waits or job.status.has_ended):
            self.spool.mark(job.id, CANCELLED)  # first: a service that is killed now need not make it
        job.cancelled.set()
        if waits or self.schedule.remove(job):  # it may have paused meanwhile
            self.jobs.end(job, "cancelled")
            self._on_change()

    def queue_of(self, job: Job) -> tuple[int, float | None]:
        own = self._seconds(job)
        return self.schedule.position(job), None if own is None else self.schedule.seconds_ahead(job) + own

    def check_process(self) -> None:
        if os.getpid() != self.process:
            raise Rejected(
                "service: expected the process that started it, found a fork of that process; "
                "start processes with multiprocessing's method spawn, and a service in each"
            )

    def _take(self, record: Record, folder: Path, work: Work) -> Job:
        """Take a job over from the spool."""
        job = Job(record, folder, work, self)
        self.jobs.add(job)
        if not job.status.has_ended:
            self.schedule.put(job, lambda: self._seconds(job))
            self._on_change()
        return job

    def _recover(self) -> None:
        """Take over the jobs of an earlier service."""
        for record in self.spool.read():
            folder, work = self.spool.folder(record.id), Work(0, record.num_frames)
            try:
                if record.state not in ENDED:
                    if self.spool.is_marked(record.id, CANCELLED):
                        raise Cancelled
                    bundle = self.animators.find(record.size).bundle
                    work = work_of(read_shot(folder, bundle), record.num_frames, bundle)
                self._take(record, folder, work)
            except Cancelled:
                self._end_at_once(record, work, "cancelled")
            except (AnimateError, OSError) as error:
                reason = f"job {record.id}: cannot be resumed: {message_of(error)}"
                self._end_at_once(record, work, "failed", InputError(reason))
        self.jobs.expire()

    def _end_at_once(
        self, record: Record, work: Work, state: State, error: AnimateError | None = None
    ) -> None:
        job = Job(record, self.spool.folder(record.id), work, self)
        self.jobs.add(job)
        self.jobs.end(job, state, error)

    def _seconds(self, job: Job) -> float | None:
        """Expected seconds of a job that waits."""
        return self.animators.places[job.record.size].speed.seconds(job.work)

    def _on_change(self) -> None:
        """Tell those who watch a queued job that its place may have changed."""
        waiting = self.schedule.waiting_jobs()
        self.metrics.set(QUEUED, len(waiting))
        self.metrics.set(ACTIVE, self.schedule.num_running())
        for job in waiting:
            job.change()

    def _keep_house(self) -> None:
        """Load and warm up the bundles that fit, then remove what has expired from time to time."""
        with suppress(OSError, ServiceClosed):  # then the first job tries again, if there is one
            self.checker.start()
        for place in self.animators.places.values():
            if not self.animators.fits(place):
                continue
            try:
                with self.animators.borrow(place.name, self.intake.check_open) as animator:
                    warm_up(animator, place.speed, self.intake.check_open)
            except ServiceClosed:
                break
            except Exception as error:
                self.failure = error
                LOG.error("bundle %s: %s", place.name, one_line(message_of(error)))
        self.ready.set()
        while not self.closed.wait(HOUSEKEEPING_S):
            self._end_late_jobs()
            self.jobs.expire()

    def _end_late_jobs(self) -> None:
        """End the queued jobs that cannot meet their deadline any more."""
        for job in self.schedule.waiting_jobs():
            least = self.animators.places[job.record.size].speed.least_seconds(job.work)
            try:
                check_wanted(job, 0.0 if job.status.state == "in_progress" else least)
            except DeadlineMissed as error:
                if self.schedule.remove(job):
                    self.jobs.end(job, "failed", error)
            except Cancelled:
                pass  # it ends in another thread

    def _refuse(self) -> None:
        """Accept no more jobs, not even those that are being checked."""
        self.check_process()
        self.intake.closed = True
        self.checker.close()
        self.detector.close()

    def _stop(self) -> None:
        self.schedule.close()
        self.closed.set()
        self.live.close()
        self.workers.join()
        self.housekeeping.join()
        self.animators.close()
        for job in self.jobs.by_id.values():
            job.abandon()
        self._leave_spool()

    def _leave_spool(self) -> None:
        self.spool.close()
        if self.temporary is not None:
            shutil.rmtree(self.temporary, ignore_errors=True)
