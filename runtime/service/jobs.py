"""The jobs of a service: in memory, on disk, in the log and in the metrics."""

from __future__ import annotations

import logging
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from threading import RLock
from typing import Any

from ...engines.cache import cache_folder
from ...errors import AnimateError, Refused
from .job import Job, JobError
from .metrics import FRAMES, JOB_SECONDS, JOBS, QUEUE_SECONDS, STAGE_SECONDS, Metrics
from .spool import ENDED, Record, Spool, State

LOG = logging.getLogger("animate_rt")


class Jobs:
    """Every job that the service knows. Ended ones are kept for `keep_s` seconds, in `keep_bytes` bytes."""

    def __init__(self, spool: Spool, metrics: Metrics, keep_s: float, keep_bytes: int):
        self.spool, self.metrics = spool, metrics
        self.keep_s, self.keep_bytes = keep_s, keep_bytes
        self.lock = RLock()
        self.by_id: dict[str, Job] = {}  # the oldest first
        self.by_key: dict[str, Job] = {}  # idempotency key

    def add(self, job: Job) -> None:
        with self.lock:
            self.by_id[job.id] = job
            if job.record.idempotency_key:
                self.by_key[job.record.idempotency_key] = job

    def begin(self, job: Job) -> None:
        """The device takes a job for the first time since the service started.

        The record on disk stays as it is: after a kill, the job is queued again.
        """
        job.record = replace(job.record, state="in_progress", began=time.time())
        self.metrics.observe(QUEUE_SECONDS, job.record.began - job.record.created)
        job.change(state="in_progress", stage="load")
        log(job, "in progress")

    def end(self, job: Job, state: State, error: AnimateError | None = None) -> None:
        """Record that a job has ended, first on disk, and tell those who wait for it."""
        record = replace(job.record, state=state, ended=time.time())
        status: dict[str, Any] = {"stage": "", "seconds_left": None}
        if state == "completed":
            record = replace(record, num_bytes=size_of(job.path))
            status |= {"progress": 1.0, "frames_done": record.num_frames, "seconds_left": 0.0}
        if error is not None:
            record = replace(record, error_code=error.code, error_message=public(error, job.folder))
            status["error"] = JobError(record.error_code, record.error_message, error.retryable)
        job.record = record
        self.spool.end(record)
        job.change(state=state, **status)
        self._measure(record)
        # A policy may name people.
        reason = error.code if isinstance(error, Refused) else record.error_message
        log(job, f"{state}: {reason}" if error else state)
        if job.removed.is_set():
            self.forget(job)
        self.expire()

    def forget(self, job: Job) -> None:
        """Remove a job, with its result."""
        with self.lock:
            if self.by_id.pop(job.id, None) is None:
                return
            self.by_key.pop(job.record.idempotency_key, None)
            folder = self.spool.take_out(job.id)
        shutil.rmtree(folder, ignore_errors=True)  # without the lock: nobody should wait for a large folder

    def expire(self) -> None:
        """Remove ended jobs that are too old, and the oldest while their results are too large together."""
        with self.lock:
            ended = [job for job in self.by_id.values() if job.record.state in ENDED]
        excess = sum(job.record.num_bytes for job in ended) - self.keep_bytes
        oldest = time.time() - self.keep_s
        for job in sorted(ended, key=lambda job: job.record.ended):
            if job.record.ended < oldest or (excess > 0 and job.record.num_bytes):
                excess -= job.record.num_bytes
                self.forget(job)

    def _measure(self, record: Record) -> None:
        self.metrics.add(JOBS, state=record.state)
        self.metrics.observe(JOB_SECONDS, record.ended - record.created, state=record.state)
        for stage, seconds in record.stage_seconds.items():
            self.metrics.observe(STAGE_SECONDS, seconds, stage=stage)
        if record.state == "completed":
            self.metrics.add(FRAMES, record.num_frames)


def size_of(path: Path) -> int:
    """Bytes of a file; 0 if somebody has removed it."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def log(job: Job, what: str) -> None:
    LOG.info("job %s: %s", job.id, what, extra={"job": job.id, "trace": job.record.trace})


def public(error: AnimateError, folder: Path) -> str:
    """The message of an error without the paths of the job's folder and of this user's models."""
    message = str(error)
    for place in filter(None, (folder, cache_folder())):
        message = message.replace(f"{place}{os.sep}", "").replace(str(place), place.name)
    return message
