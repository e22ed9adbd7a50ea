"""`Video`: a job as the clients of the Videos API know it."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any, Literal

from pydantic import BaseModel

from ..job import Job, JobStatus
from ..spool import State
from .failures import public_message

LEAST_POLL_S, MOST_POLL_S, UNKNOWN_POLL_S = 0.2, 5.0, 1.0


class VideoError(BaseModel):
    code: str
    message: str
    retryable: bool


class Video(BaseModel):
    """A job. Times are in seconds since 1970. What other servers do not have comes after `error`."""

    id: str
    object: Literal["video"] = "video"
    model: str
    status: State
    progress: int
    created_at: int
    completed_at: int | None = None
    expires_at: int | None = None
    size: str
    seconds: str
    prompt: str | None = None
    remixed_from_video_id: str | None = None
    error: VideoError | None = None

    stage: str = ""
    frames_done: int
    num_frames: int
    fps: float
    seconds_left: float | None = None
    queue_position: int | None = None
    control_type: str = ""
    settings: dict[str, Any]
    stage_durations: dict[str, float]
    inference_time_s: float | None = None
    num_bytes: int = 0
    unused: list[str]


class VideoList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedVideo(BaseModel):
    """`deleted` is false while the job is still being stopped."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: bool


def video_of(job: Job, keep_s: float, status: JobStatus | None = None) -> Video:
    """Describe a job now, or at the moment of a status."""
    status = status or job.status
    record, labels = job.record, job.record.labels
    ended = record.ended if status.has_ended else 0.0
    rate = Fraction(record.frame_rate)
    error = None
    if status.error is not None:
        message, _ = public_message(status.error.code, status.error.message)
        error = VideoError(code=status.error.code, message=message, retryable=status.error.retryable)
    return Video(
        id=job.id,
        model=labels.get("model") or record.size,
        status=status.state,
        progress=100 if status.state == "completed" else int(100 * status.progress),
        created_at=int(record.created),
        completed_at=int(ended) if status.state == "completed" else None,
        expires_at=int(ended + keep_s) if ended else None,
        size=record.size,
        seconds=f"{float(record.num_frames / rate):.3f}".rstrip("0").rstrip("."),
        prompt=labels.get("prompt") or None,
        error=error,
        stage=status.stage,
        frames_done=status.frames_done,
        num_frames=record.num_frames,
        fps=float(rate),
        seconds_left=status.seconds_left,
        queue_position=status.ahead if status.state == "queued" else None,
        control_type=labels.get("control_type", ""),
        settings=json.loads(labels.get("settings", "{}")),
        stage_durations={stage: round(seconds, 6) for stage, seconds in record.stage_seconds.items()},
        inference_time_s=round(ended - record.began, 6) if ended and record.began else None,
        num_bytes=record.num_bytes,
        unused=json.loads(labels.get("unused", "[]")),
    )


def poll_after_ms(status: JobStatus) -> int:
    """When a client should look at a job again."""
    seconds = UNKNOWN_POLL_S if status.seconds_left is None else status.seconds_left / 2
    return round(1000 * min(MOST_POLL_S, max(LEAST_POLL_S, seconds)))
