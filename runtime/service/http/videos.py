"""The routes below /v1/videos."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Coroutine
from functools import partial
from pathlib import Path
from threading import Event
from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from ....errors import AnimateError, ConfigError, QueueFull, ServiceClosed
from ....text import quoted
from ...shots.sidecar import Sidecar
from ..intake import MAX_KEY
from ..job import Job, JobStatus, error_class
from ..jobs import public
from ..metrics import REFUSED
from ..service import Service
from ..thumbnail import thumbnail
from .content import file_answer
from .descriptions import EVENT, EVENTS, MP4, failures, media, polled
from .events import event_lines, wait_for_end
from .failures import RETRY_S, Refused, not_found, refusal_of
from .form import openapi, read_form
from .uploads import UploadLimits, receive_form
from .video import DeletedVideo, Video, VideoList, poll_after_ms, video_of

ABORT_S = 10.0  # how long an answer waits for a job to stop
MAX_UPLOADS = 16  # at the same time
MAX_WATCHERS = 256  # events and live videos that are being sent
MAX_PAGE = 100
KEY = re.compile(r"[!-~]+")
TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class Videos:
    """Jobs as videos. `closing` is set when the server stops, so that streams end."""

    def __init__(self, service: Service, limits: UploadLimits, closing: Event):
        self.service, self.limits, self.closing = service, limits, closing
        self.sizes = [*service.animators.places]
        self.num_uploads = self.num_watchers = 0
        self.submitting = anyio.CapacityLimiter(4)  # threads of their own, as inputs are checked one by one
        self.tasks: set[asyncio.Task[Any]] = set()

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/v1/videos", tags=["videos"])
        form = {"requestBody": openapi(self.sizes)}
        add = router.add_api_route
        add(
            "",
            self.create,
            methods=["POST"],
            response_model=Video,
            responses=failures(400, 408, 409, 413, 415, 422, 429, 503, 507) | polled(),
            openapi_extra=form,
        )
        add("", self.list_page, methods=["GET"], response_model=VideoList, responses=failures(400, 404))
        add(
            "/sync",
            self.create_and_wait,
            methods=["POST"],
            response_class=Response,
            responses=failures(400, 408, 409, 413, 415, 422, 429, 500, 503, 507) | media(MP4),
            openapi_extra=form,
        )
        add(
            "/{video_id}",
            self.retrieve,
            methods=["GET"],
            response_model=Video,
            responses=failures(404) | polled(),
        )
        add(
            "/{video_id}",
            self.delete,
            methods=["DELETE"],
            response_model=DeletedVideo,
            responses=failures(404) | {202: {"model": DeletedVideo}},
        )
        add(
            "/{video_id}/cancel", self.cancel, methods=["POST"], response_model=Video, responses=failures(404)
        )
        add(
            "/{video_id}/content",
            self.content,
            methods=["GET"],
            response_class=Response,
            responses=failures(400, 404, 409, 416) | media(MP4, "image/webp"),
        )
        add("/{video_id}/content", self.content, methods=["HEAD"], include_in_schema=False)
        add(
            "/{video_id}/events",
            self.events,
            methods=["GET"],
            response_class=StreamingResponse,
            responses=failures(404, 429) | {200: {"content": {EVENTS: {"schema": EVENT}}}},
        )
        add(
            "/{video_id}/stream",
            self.stream,
            methods=["GET"],
            response_class=StreamingResponse,
            responses=failures(404, 409, 429) | media(MP4),
        )
        return router

    async def create(self, request: Request) -> Response:
        """Accept a job: upload a character and what drives it. Idempotency-Key makes repeating it safe."""
        return self.answer(await self.submit(request))

    async def create_and_wait(self, request: Request) -> Response:
        """Make a video and return its bytes. Without an Idempotency-Key, disconnecting cancels the job."""
        job = await self.submit(request)
        waiting = self.keep(wait_for_end(job, self.closing))
        leaving = self.keep(disconnected(request))
        await asyncio.wait((waiting, leaving), return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        if not waiting.done():
            waiting.cancel()
            if not job.record.idempotency_key:
                await asyncio.to_thread(job.cancel)
            return Response(status_code=499)  # nobody receives it
        status = job.status
        if status.error is not None:
            raise refusal_of(error_class(status.error.code)(status.error.message))
        if not status.has_ended:
            if not job.record.idempotency_key:  # nobody could find it after the next start
                await asyncio.to_thread(job.cancel)
            raise ServiceClosed(
                f"job {job.id}: expected a finished one, found the server stopping; ask again"
            )
        return await asyncio.to_thread(self.file_of, request, job, "video")

    def list_page(
        self,
        after: Annotated[str | None, Query(description="The last id of the page before.")] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> VideoList:
        """A page of jobs, by default the newest first."""
        jobs = self.service.list()
        if order == "desc":
            jobs.reverse()
        if after is not None:
            places = [place for place, job in enumerate(jobs, start=1) if job.id == after]
            if not places:
                raise not_found("after", after, "after")
            jobs = jobs[places[0] :]
        page = [self.describe(job) for job in jobs[:limit]]
        return VideoList(
            data=page,
            first_id=page[0].id if page else None,
            last_id=page[-1].id if page else None,
            has_more=len(jobs) > limit,
        )

    def retrieve(self, video_id: str) -> Response:
        """A job now. The header openai-poll-after-ms tells when to ask again."""
        return self.answer(self.find(video_id))

    async def delete(self, video_id: str) -> Response:
        """Stop a job, if it has not ended, and remove it with its files.

        202 with `deleted` false means that the job has not stopped yet; it is removed when it has.
        """
        job = await asyncio.to_thread(self.find, video_id)
        await asyncio.to_thread(job.cancel)
        status = await wait_for_end(job, self.closing, ABORT_S)
        if status.has_ended:
            await asyncio.to_thread(self.service.remove, job)
        else:
            await asyncio.to_thread(self.service.remove_later, job)
        body = DeletedVideo(id=job.id, deleted=status.has_ended)
        return JSONResponse(body.model_dump(), 200 if status.has_ended else 202)

    async def cancel(self, video_id: str) -> Response:
        """Stop a job and keep its record. A job that ended before it could be stopped stays as it is."""
        job = await asyncio.to_thread(self.find, video_id)
        if not job.status.has_ended:
            await asyncio.to_thread(job.cancel)
            await wait_for_end(job, self.closing, ABORT_S)
        return self.answer(job)

    def content(
        self, request: Request, video_id: str, variant: Literal["video", "thumbnail"] = "video"
    ) -> Response:
        """The mp4 of a completed job, or a picture of its first frame."""
        return self.file_of(request, self.find(video_id), variant)

    async def events(self, video_id: str) -> Response:
        """The Video object now and after every change, as server-sent events, until the job has ended."""
        job = await asyncio.to_thread(self.find, video_id)
        return self.watched(event_lines(job, self.closing, self.describe), EVENTS)

    async def stream(self, video_id: str) -> Response:
        """A fragmented mp4 with the frames of a job as they are finished, for players."""
        job = await asyncio.to_thread(self.find, video_id)
        status = job.status
        if status.has_ended and status.state != "completed":
            raise not_completed(status)
        return self.watched(self.service.live.watch(job), MP4)

    def watched(self, content: AsyncIterator[str | bytes], kind: str) -> StreamingResponse:
        """An answer that lasts as long as a job. Raises Refused if there are MAX_WATCHERS already."""
        if self.num_watchers >= MAX_WATCHERS:
            raise Refused(
                429,
                f"server: expected fewer than {MAX_WATCHERS} events and live videos at once, found as many; "
                "try again",
                code="queue_full",
                retryable=True,
                headers={"retry-after": str(RETRY_S)},
            )

        async def counted() -> AsyncIterator[str | bytes]:
            self.num_watchers += 1
            try:
                async for part in content:
                    yield part
            finally:
                self.num_watchers -= 1

        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(counted(), headers=headers, media_type=kind)

    async def submit(self, request: Request) -> Job:
        """Receive a form and submit its job."""
        key = request.headers.get("idempotency-key", "")
        if key and (len(key) > MAX_KEY or not KEY.fullmatch(key)):
            raise ConfigError(
                f"Idempotency-Key: expected up to {MAX_KEY} printable ASCII characters, found {quoted(key)}"
            )
        trace = request.headers.get("traceparent", "")
        self.check_room(key)
        self.num_uploads += 1
        folder = None
        try:
            folder = await asyncio.to_thread(self.service.spool.start)
            upload = await receive_form(request, folder, self.limits)
            asked = await asyncio.to_thread(read_form, upload, self.sizes)
            call = partial(
                self.service.submit,
                asked.clip,
                idempotency_key=key,
                deadline_s=asked.deadline_s,
                trace=trace if TRACEPARENT.fullmatch(trace) else "",
                labels=asked.labels,
            )
            return await anyio.to_thread.run_sync(call, limiter=self.submitting)
        except AnimateError as error:
            if folder is not None:
                error.args = (public(error, folder),)
            raise
        finally:
            self.num_uploads -= 1
            if folder is not None:
                await asyncio.to_thread(shutil.rmtree, folder, True)

    def check_room(self, key: str) -> None:
        """Refuse a request before its files are uploaded, if it would be refused after that."""
        service = self.service
        if not service.ready.is_set() and not service.draining:
            raise Refused(
                503,
                "server: expected one that has started, found it loading; try again soon",
                code="starting",
                retryable=True,
                headers={"retry-after": str(RETRY_S)},
            )
        try:
            if key not in service.jobs.by_key:
                service.intake.check_room()
            if self.num_uploads >= MAX_UPLOADS:
                raise QueueFull(
                    f"uploads: expected fewer than {MAX_UPLOADS} at once, found as many; try again"
                )
        except AnimateError as error:
            service.metrics.add(REFUSED, code=error.code)
            raise

    def find(self, video_id: str) -> Job:
        job = self.service.get(video_id)
        if job is None:
            raise not_found("video", video_id)
        return job

    def describe(self, job: Job, status: JobStatus | None = None) -> Video:
        return video_of(job, self.service.jobs.keep_s, status)

    def answer(self, job: Job) -> Response:
        status = job.status
        headers = {} if status.has_ended else {"openai-poll-after-ms": str(poll_after_ms(status))}
        return JSONResponse(self.describe(job, status).model_dump(), headers=headers)

    def file_of(self, request: Request, job: Job, variant: str) -> Response:
        """A file of a completed job. Raises Refused if it is not completed, or was removed just now."""
        status = job.status
        if status.state != "completed":
            raise not_completed(status)
        try:
            sidecar = Sidecar.read(Path(f"{job.path}.json"))
            digest = sidecar.files.get(job.path.name, job.id) if sidecar else job.id
            if variant == "thumbnail":
                return file_answer(
                    request, thumbnail(job), "image/webp", f"{digest}-thumbnail", f"{job.id}.webp"
                )
            return file_answer(request, job.path, MP4, digest, f"{job.id}.mp4")
        except FileNotFoundError as error:
            raise not_found("video", job.id) from error

    def keep(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a task and hold it until it is done: the event loop does not."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task


def not_completed(status: JobStatus) -> Refused:
    ended = status.has_ended
    return Refused(
        409,
        f"video: expected a completed one, found it {status.state}",
        code="not_completed",
        retryable=not ended,
        headers={} if ended else {"retry-after": str(max(1, poll_after_ms(status) // 1000))},
    )


async def disconnected(request: Request) -> None:
    """Wait until the client has left, once the body of its request has been received."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
