"""Live video of a job: it begins before the job ends, and has every frame."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from animate_rt import Job, Service

from .conftest import Case
from .service_requests import MANY_STEPS, held, request


@pytest.fixture(scope="module")
def service(small_bundle: Path) -> Iterator[Service]:
    with Service(small_bundle) as one:
        assert one.ready.wait(120)
        yield one


async def watch(service: Service, job: Job, states: list[str] | None = None) -> bytes:
    content = b""
    async for chunk in service.live.watch(job):
        content += chunk
        if states is not None and b"mdat" in chunk:
            states.append(job.status.state)
    return content


def frames(video: bytes | Path) -> np.ndarray:
    source = io.BytesIO(video) if isinstance(video, bytes) else video
    with av.open(source) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def check_frames(video: bytes, path: Path) -> None:
    """The same frames as in the result, in the same order and colours, but for the loss of the codec."""
    seen, made = frames(video).astype(int), frames(path).astype(int)
    assert seen.shape == made.shape
    assert np.abs((seen - made).mean(axis=(0, 1, 2))).max() < 2
    for index, frame in enumerate(seen):
        errors = [np.abs(frame - other).mean() for other in made]
        assert errors[index] <= min(errors) + 0.5


def test_it_begins_before_the_clip_is_finished(service: Service, small: Case) -> None:
    states: list[str] = []

    async def main() -> None:
        job = await service.submit_async(request(small, windows="open"))
        content, late = await asyncio.gather(watch(service, job, states), watch(service, job))
        assert states[0] == "in_progress"
        assert content == late
        check_frames(content, await job)
        with av.open(io.BytesIO(content)) as container:
            assert container.streams.video[0].average_rate == 24

    # The last frames wait until the first ones were seen.
    with held(service, lambda job: job.status.frames_done > 0 and not states):
        asyncio.run(main())


def test_a_finished_job_is_streamed_from_its_result(service: Service, small: Case) -> None:
    job = service.submit(request(small))
    path = job.result(60)
    content = asyncio.run(watch(service, job))
    assert np.array_equal(frames(content), frames(path))


def test_it_ends_with_a_cancelled_or_removed_job(service: Service, small: Case) -> None:
    async def main() -> None:
        job = await service.submit_async(request(small, steps=MANY_STEPS))
        watching = asyncio.create_task(watch(service, job))
        await asyncio.sleep(0.3)
        job.cancel()
        await asyncio.wait_for(watching, 20)
        service.remove(job)
        assert await watch(service, job) == b""

    asyncio.run(main())


def test_it_is_made_again_for_later_watchers(small_bundle: Path, small: Case, tmp_path: Path) -> None:
    """After another job's was, and after a restart."""

    async def main(service: Service, *jobs: Job) -> None:
        for job in jobs:
            check_frames(await watch(service, job), await job)

    with Service(small_bundle, spool=tmp_path) as service:
        one, other = (service.submit(request(small, seed=seed)) for seed in (1, 2))
        asyncio.run(main(service, one, other, one))
    with Service(small_bundle, spool=tmp_path) as service:
        asyncio.run(main(service, *service.list()))
