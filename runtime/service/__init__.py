"""A service that makes clips for many callers on one device: a queue, jobs on disk, progress, cancelling."""

from .checker import Limits
from .job import Job, JobError, JobStatus
from .metrics import Metrics
from .request import ClipRequest
from .service import Service

__all__ = ["ClipRequest", "Job", "JobError", "JobStatus", "Limits", "Metrics", "Service"]
