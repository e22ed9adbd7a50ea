"""Metrics: what a service counts and measures, for any monitoring system."""

from __future__ import annotations

from typing import Protocol

# Names as Prometheus wants them, in base units; the labels of each are in brackets.
JOBS = "animate_jobs_total"  # ended jobs [state]
REFUSED = "animate_jobs_refused_total"  # requests that were not accepted [code]
FRAMES = "animate_frames_total"  # frames of completed clips
QUEUE_SECONDS = "animate_queue_seconds"  # from acceptance until the device takes the job
JOB_SECONDS = "animate_job_seconds"  # from acceptance to the end [state]
STAGE_SECONDS = "animate_stage_seconds"  # [stage]
QUEUED = "animate_jobs_queued"  # now
ACTIVE = "animate_jobs_active"  # now
LOADED = "animate_bundles_loaded"  # now

HELP = {
    JOBS: "Jobs that have ended.",
    REFUSED: "Requests that were not accepted.",
    FRAMES: "Frames of completed clips.",
    QUEUE_SECONDS: "Time from the acceptance of a job until the device takes it.",
    JOB_SECONDS: "Time from the acceptance of a job to its end.",
    STAGE_SECONDS: "Time that a job spent in a stage.",
    QUEUED: "Jobs that the device has not begun.",
    ACTIVE: "Jobs that are being made.",
    LOADED: "Bundles in memory.",
}
LABELS = {JOBS: ("state",), REFUSED: ("code",), JOB_SECONDS: ("state",), STAGE_SECONDS: ("stage",)}


class Metrics(Protocol):
    """Receives the measurements of a service, from any of its threads. Must not block or raise."""

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Increase a counter, one of those that end in `_total`."""

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Add a duration to a histogram."""

    def set(self, name: str, value: float) -> None:
        """Set a gauge."""


class NoMetrics:
    """Discards all measurements."""

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        pass

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        pass

    def set(self, name: str, value: float) -> None:
        pass
