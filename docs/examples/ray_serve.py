"""The service on several devices or machines, with Ray Serve: one replica for each device.

    pip install 'animate-rt[cpu,serve]' 'ray[serve]'
    python ray_serve.py bundle --replicas 2
    curl -o clip.mp4 http://127.0.0.1:8000/v1/videos/sync \\
        -F input_reference=@hero.png -F control_reference=@walk.mp4

Both routes take the form of /v1/videos (docs/serving.md). Ray Serve gives a request to any replica, so there
are no routes that ask for a job later: the video is the answer. If the connection ends, the job is cancelled.
A replica that dies is started again; the clients of its jobs see a broken answer and have to ask again.
"""

import argparse
import os
from collections.abc import AsyncIterator
from threading import Event
from typing import Any

from animate_rt import Job, Service
from animate_rt.runtime.service.http.auth import Guard
from animate_rt.runtime.service.http.failures import add_handlers
from animate_rt.runtime.service.http.uploads import UploadLimits
from animate_rt.runtime.service.http.videos import Videos
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from ray import serve

CLIPS = 2  # of a replica: one is denoised while the other prepares, decodes and encodes
app = FastAPI()
add_handlers(app)
app.add_middleware(Guard, tokens=(), open_paths=())  # pages of other sites cannot use it


@serve.deployment(
    max_ongoing_requests=CLIPS,
    max_queued_requests=8,  # all others are answered with 503
    ray_actor_options={"num_cpus": 1},  # on GPUs: {"num_gpus": 1}
)
@serve.ingress(app)
class Clips:
    def __init__(self, bundle: str):
        self.service = Service(bundle, active_clips=CLIPS)
        self.service.ready.wait()
        self.check_health()
        self.videos = Videos(self.service, UploadLimits(), Event())

    def __del__(self) -> None:
        """Ray calls this when it stops a replica."""
        self.service.close()

    def check_health(self) -> None:
        """Ray calls this; a replica that raises is replaced."""
        if self.service.failure:
            raise self.service.failure

    @app.post("/v1/videos/sync")
    async def make(self, request: Request) -> Response:
        """The mp4, once it is complete."""
        return await self.videos.create_and_wait(request)

    @app.post("/v1/videos/stream")
    async def stream(self, request: Request) -> Response:
        """A fragmented mp4 of the frames as they are finished, of less quality."""
        job = await self.videos.submit(request)
        return StreamingResponse(self.live(job), media_type="video/mp4")

    async def live(self, job: Job) -> AsyncIterator[bytes]:
        try:
            async for chunk in self.service.live.watch(job):
                yield chunk
        finally:
            job.cancel()  # the client has left, or the job has ended and nothing happens


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=os.path.abspath)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args()
    serve.start(http_options={"port": given.port})
    deployment: Any = Clips
    serve.run(deployment.options(num_replicas=given.replicas).bind(given.bundle), blocking=True)
