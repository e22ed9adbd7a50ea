"""`Job`: one clip of a service. Any thread, or an asyncio event loop, can watch, await and cancel it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Condition, Event
from typing import Any, NamedTuple, Protocol

from ...errors import AnimateError, Cancelled, DeviceError, ServiceClosed
from .speed import Work
from .spool import ENDED, Record, State


class JobError(NamedTuple):
    """Why a job failed: the code and message of an AnimateError."""

    code: str
    message: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job at one moment. Times and durations are in seconds."""

    state: State
    stage: str = ""  # "load", "extract", "reference", "denoise" or "encode", while in progress
    progress: float = 0.0  # 0 to 1, the share of the work that is done; it never falls
    frames_done: int = 0
    num_frames: int = 0
    seconds_left: float | None = None  # an estimate from measured speed; None while nothing is measured
    ahead: int = 0  # queued jobs that are before this one, as long as it is queued
    error: JobError | None = None

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED


class Owner(Protocol):
    """The service of a job."""

    def cancel(self, job: Job) -> None:
        """Cancel a queued job, or one in progress after its current task."""

    def queue_of(self, job: Job) -> tuple[int, float | None]:
        """The number of jobs before a queued one, and the expected seconds until it has ended."""

    def check_process(self) -> None:
        """Raise Rejected in a fork of the service's process."""


class Job:
    """One accepted clip. Made by `Service.submit`."""

    def __init__(self, record: Record, folder: Path, work: Work, owner: Owner):
        self.record, self.folder, self.work = record, folder, work
        self.cancelled = Event()
        self.removed = Event()  # set to remove the job as soon as it has ended
        self._status = status_of(record)
        self._owner = owner
        self._changed = Condition()
        self._version = 0
        self._abandoned = False  # the service has stopped, so that nothing changes any more
        self._watchers: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def status(self) -> JobStatus:
        """The status now. Of a queued job, it tells how many are before it and when it may have ended."""
        status = self._status
        if status.state == "queued":
            ahead, seconds = self._owner.queue_of(self)
            status = replace(status, ahead=ahead, seconds_left=seconds)
        return status

    @property
    def path(self) -> Path:
        """Where the result is, an mp4, once the job is completed."""
        return self.folder / f"{self.id}.mp4"

    def cancel(self) -> None:
        """Ask for the job to be cancelled. This call does not wait.

        A queued job is cancelled at once, one in progress after the task that runs, at most one run of the
        UNet. A job whose clip is finished by then is completed.
        """
        self._owner.cancel(self)

    def wait(self, timeout: float | None = None) -> JobStatus:
        """Wait until the job has ended, or for so many seconds, and return its status.

        Raises ServiceClosed if the service has stopped before the job's end.
        """
        self._owner.check_process()
        with self._changed:
            self._changed.wait_for(lambda: self._status.has_ended or self._abandoned, timeout)
            self._check_owner()
        return self.status

    def result(self, timeout: float | None = None) -> Path:
        """Wait until the job has ended and return the path of its mp4.

        Raises TimeoutError if that takes longer than so many seconds, Cancelled if the job was cancelled, the
        error of a job that failed, and ServiceClosed if the service has stopped before the job's end.
        """
        if not self.wait(timeout).has_ended:
            raise TimeoutError(f"job {self.id} has not ended after {timeout} seconds")
        return self._outcome()

    def events(self) -> Events:
        """The status now and after every change, up to the end. For `for` and `async for`.

        They raise ServiceClosed if the service has stopped before the job's end.
        Changes that follow one another faster than they are taken become one.
        """
        self._owner.check_process()
        return Events(self)

    def __await__(self) -> Generator[Any, None, Path]:
        """Like `result`, in an asyncio event loop."""
        return self._ended().__await__()

    async def _ended(self) -> Path:
        async for _status in self.events():
            pass
        return self._outcome()

    def _outcome(self) -> Path:
        error = self._status.error
        if self._status.state == "cancelled":
            raise Cancelled(f"job {self.id}: cancelled on request")
        if error is not None:
            raise error_class(error.code)(error.message)
        return self.path

    def change(self, **changes: Any) -> None:
        """Replace parts of the status and tell everybody who watches."""
        with self._changed:
            self._status = replace(self._status, **changes)
            self._version += 1
        self._tell()

    def abandon(self) -> None:
        """Tell those who wait for the end that this service does not make it."""
        with self._changed:
            self._abandoned = True
        self._tell()

    def _check_owner(self) -> None:
        if self._abandoned and not self._status.has_ended:
            raise ServiceClosed(
                f"job {self.id}: expected a running service, found it stopped; "
                "the next one on the same spool makes the job"
            )

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()
            watchers = list(self._watchers)
        for loop, event in watchers:
            with suppress(RuntimeError):  # a caller that no longer watches has closed the loop
                loop.call_soon_threadsafe(event.set)

    def add_seconds(self, stage: str, seconds: float) -> None:
        """Add to the seconds that the job has spent in a stage."""
        spent = dict(self.record.stage_seconds)
        spent[stage] = spent.get(stage, 0.0) + seconds
        self.record = replace(self.record, stage_seconds=spent)

    def next_version(self, seen: int) -> tuple[int, JobStatus]:
        """Wait for a version after `seen`. Raises ServiceClosed if there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._version > seen or self._abandoned)
            if self._version <= seen:
                self._check_owner()
            return self._version, self.status


class Events(Iterator[JobStatus]):
    """An iterator over the changing status of a job, sync and async."""

    def __init__(self, job: Job):
        self.job = job
        self.seen = -1
        self.ended = False

    def __next__(self) -> JobStatus:
        if self.ended:
            raise StopIteration
        self.seen, status = self.job.next_version(self.seen)
        self.ended = status.has_ended
        return status

    async def __aiter__(self) -> AsyncIterator[JobStatus]:
        event, loop = asyncio.Event(), asyncio.get_running_loop()
        watcher = (loop, event)
        with self.job._changed:
            self.job._watchers.add(watcher)
        try:
            while not self.ended:
                event.clear()
                with self.job._changed:
                    version, status = self.job._version, self.job.status
                if version > self.seen:
                    self.seen, self.ended = version, status.has_ended
                    yield status
                else:
                    self.job._check_owner()
                    await event.wait()
        finally:
            with self.job._changed:
                self.job._watchers.discard(watcher)


def status_of(record: Record) -> JobStatus:
    """The status of a job that is read from disk."""
    done = record.state == "completed"
    error = None
    if record.error_code:
        kind = error_class(record.error_code)
        error = JobError(record.error_code, record.error_message, kind.retryable)
    return JobStatus(
        "queued" if record.state == "in_progress" else record.state,
        progress=1.0 if done else 0.0,
        frames_done=record.num_frames if done else 0,
        num_frames=record.num_frames,
        error=error,
    )


def error_class(code: str) -> type[AnimateError]:
    """The class of errors with this code; DeviceError for one that no class has."""
    pending = [AnimateError]
    while pending:
        kind = pending.pop()
        if kind.code == code:
            return kind
        pending += kind.__subclasses__()
    return DeviceError
