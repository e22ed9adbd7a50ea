"""Events of a job: its status after every change, as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from threading import Event
from time import monotonic

from ....errors import ServiceClosed
from ..job import Job, JobStatus
from .video import Video

LOOK_S = 0.5  # how often a waiting stream looks whether the server closes
BEAT_S = 15.0  # between two comments that keep a silent connection open


async def statuses(job: Job, closing: Event, timeout: float | None = None) -> AsyncIterator[JobStatus | None]:
    """The status now and after every change, and None from time to time.

    Stops when the job has ended, after `timeout` seconds, and when the server closes.
    """
    end = None if timeout is None else monotonic() + timeout
    changes = aiter(job.events())
    change = asyncio.ensure_future(anext(changes, None))
    try:
        while not closing.is_set():
            left = LOOK_S if end is None else min(LOOK_S, end - monotonic())
            if left < 0:
                return
            await asyncio.wait((change,), timeout=left)
            if not change.done():
                yield None
                continue
            try:
                status = change.result()
            except ServiceClosed:
                return
            if status is None:
                return
            yield status
            change = asyncio.ensure_future(anext(changes, None))
    finally:
        change.cancel()
        with suppress(asyncio.CancelledError, ServiceClosed):
            await change


async def wait_for_end(job: Job, closing: Event, timeout: float | None = None) -> JobStatus:
    """Wait until the job has ended, or as `statuses` does. Returns the status then."""
    async for _status in statuses(job, closing, timeout):
        pass
    return job.status


async def event_lines(
    job: Job, closing: Event, describe: Callable[[Job, JobStatus], Video]
) -> AsyncIterator[str]:
    """The stream's text: events named `status`, whose data is the Video object."""
    sent = monotonic()
    async for status in statuses(job, closing):
        if status is not None:
            sent = monotonic()
            yield f"event: status\ndata: {describe(job, status).model_dump_json()}\n\n"
        elif monotonic() - sent > BEAT_S:
            sent = monotonic()
            yield ": waiting\n\n"
