"""The service as a library: results, progress, cancelling, waiting, idempotency, deadlines, expiry."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import enumerate as threads
from typing import Any

import numpy as np
import pytest
from animate_rt import (
    Cancelled,
    ConfigError,
    DeadlineMissed,
    InputError,
    InputMissing,
    JobStatus,
    KeyReused,
    QueueFull,
    Rejected,
    Service,
    ServiceClosed,
)
from animate_rt.runtime.service import Limits
from animate_rt.runtime.service.spool import Spool

from .conftest import Case
from .forks import fork
from .service_requests import MANY_STEPS, held, request, short, truth


@pytest.fixture(scope="module")
def service(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(small_bundle, spool=tmp_path_factory.mktemp("spool"), limits=Limits(frames=50)) as one:
        assert one.ready.wait(120)
        assert one.failure is None
        yield one


def test_a_served_clip_is_what_the_animator_makes(
    service: Service, small: Case, small_bundle: Path, tmp_path: Path
) -> None:
    path = service.submit(request(small)).result(60)
    assert path.read_bytes() == truth(small_bundle, small, tmp_path / "truth.mp4")


def test_a_picture_in_memory_is_a_reference(
    service: Service, small: Case, small_bundle: Path, tmp_path: Path
) -> None:
    from PIL import Image

    with Image.open(small.reference) as opened:
        picture = opened.convert("RGB")
    for number, reference in enumerate((picture, np.asarray(picture))):
        path = service.submit(short(small, reference=reference)).result(60)
        keys = {"frames": small.window, "reference": reference}
        assert path.read_bytes() == truth(small_bundle, small, tmp_path / f"{number}.mp4", **keys)


def check_events(events: list[JobStatus]) -> None:
    states = [event.state for event in events]
    assert states == sorted(states, key=["queued", "in_progress", "completed"].index)
    assert events[-1].state == "completed"
    for name in ("progress", "frames_done"):
        values = [getattr(event, name) for event in events]
        assert values == sorted(values)
    assert events[-1].progress == 1.0
    assert events[-1].frames_done == events[-1].num_frames == 10
    assert {"reference", "denoise"} <= {event.stage for event in events}
    assert len({event.progress for event in events}) > 10
    denoising = [event.seconds_left for event in events if event.stage == "denoise"]
    assert all(seconds is not None for seconds in denoising)


def test_progress_is_made_of_tasks_and_frames_and_never_falls(service: Service, small: Case) -> None:
    seen: list[JobStatus] = []
    with held(service, lambda job: not seen or seen[-1] != job.status):  # the clip waits for its watcher
        job = service.submit(request(small, steps=3))
        for event in job.events():
            seen.append(event)
    check_events(seen)
    assert {"load", "reference", "denoise", "encode"} <= job.record.stage_seconds.keys()


def test_jobs_can_be_awaited_and_watched_by_an_event_loop(service: Service, small: Case) -> None:
    events: list[JobStatus] = []

    async def main() -> None:
        job = await service.submit_async(request(small, steps=3))
        ticks = 0

        async def watch() -> None:
            async for event in job.events():
                events.append(event)

        async def tick() -> None:
            nonlocal ticks
            while not job.status.has_ended:
                await asyncio.sleep(0.01)
                ticks += 1

        path, _, _ = await asyncio.gather(job, watch(), tick())
        assert path.stat().st_size
        assert ticks > 3  # the loop was not blocked

    with held(service, lambda job: not events or events[-1] != job.status):  # the clip waits for its watcher
        asyncio.run(main())
    check_events(events)


def test_a_cancelled_job_ends_soon_and_leaves_no_file(service: Service, small: Case) -> None:
    job = service.submit(short(small, steps=MANY_STEPS))
    for event in job.events():
        if event.stage == "denoise" and event.progress > 0:
            break
    job.cancel()
    assert job.wait(10).state == "cancelled"
    with pytest.raises(Cancelled):
        job.result()
    assert {path.name for path in job.folder.iterdir()} == {"job.json", "shot.jsonl"}
    # The animator goes on.
    assert service.submit(short(small)).result(60)


def test_a_finished_job_that_is_cancelled_stays_completed(service: Service, small: Case) -> None:
    job = service.submit(short(small))
    job.result(60)
    job.cancel()
    assert job.status.state == "completed"
    assert job.result(1).exists()


def test_a_full_queue_says_when_to_try_again(service: Service, small: Case) -> None:
    with held(service):
        running = [service.submit(short(small)) for _ in range(2)]
        while any(job.status.state == "queued" for job in running):
            time.sleep(0.01)
        queued = [service.submit(short(small)) for _ in range(8)]
        assert {job.status.state for job in queued} == {"queued"}
        assert [job.status.ahead for job in queued] == list(range(8))
        with pytest.raises(QueueFull) as caught:
            service.submit(short(small))
        assert caught.value.retry_after_s >= 1
        assert isinstance(caught.value, Rejected)
        for job in queued:
            job.cancel()
            assert job.status.state == "cancelled"
        for job in running:
            job.cancel()
            assert job.wait(10).state == "cancelled"


def test_the_same_key_and_request_is_the_same_job(service: Service, small: Case) -> None:
    with ThreadPoolExecutor(4) as pool:
        jobs = list(pool.map(lambda _: service.submit(short(small), idempotency_key="order-17"), range(4)))
    assert len({job.id for job in jobs}) == 1
    jobs[0].result(60)
    assert service.submit(short(small), idempotency_key="order-17") is jobs[0]
    with pytest.raises(KeyReused, match=jobs[0].id):
        service.submit(short(small, seed=7), idempotency_key="order-17")


def test_a_deadline_that_cannot_be_met_is_refused_or_ends_the_job(service: Service, small: Case) -> None:
    service.submit(short(small, steps=10)).result(60)
    with pytest.raises(DeadlineMissed):
        service.submit(short(small, steps=1000), deadline_s=0.05)
    least = service.animators.find(None).speed.fastest_task_s
    assert least
    job = service.submit(short(small, steps=MANY_STEPS), deadline_s=MANY_STEPS * 10 * least)
    service.animators.find(None).speed.fastest_task_s = 100 * least  # the device is slower from now on
    with pytest.raises(DeadlineMissed):
        job.result(60)
    service.animators.find(None).speed.fastest_task_s = least
    assert job.status.error is not None
    assert job.status.error.code == "deadline_missed"


def test_a_queued_job_ends_at_its_deadline(service: Service, small: Case) -> None:
    with held(service):
        running = [service.submit(short(small)) for _ in range(2)]
        late = service.submit(short(small), deadline_s=1)
        with pytest.raises(DeadlineMissed):
            late.result(10)
        assert late.record.began == 0
        for job in running:
            job.cancel()
            assert job.wait(10).state == "cancelled"


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        ({"size": "1x1"}, ConfigError),
        ({"overlap": 6}, ConfigError),
        ({"reference": "missing.png"}, InputMissing),
        ({"reference": os.devnull}, InputError),
        ({"pose": __file__}, InputError),
        ({"frames": "12-20"}, InputError),
    ],
)
def test_what_cannot_be_made_is_refused_before_it_is_a_job(
    service: Service, small: Case, keys: dict[str, object], error: type[Exception]
) -> None:
    before = len(service.list())
    with pytest.raises(error) as caught:
        service.submit(request(small, **keys))
    assert "\n" not in str(caught.value)
    assert str(service.spool.path) not in str(caught.value)
    assert len(service.list()) == before
    assert list(service.spool.new.iterdir()) == []


@pytest.mark.parametrize("keys", [{"bundle": "other"}, {"steps": 0}, {"driving": "a.mp4"}, {"wrong": 1}])
def test_a_request_is_checked_when_it_is_made(small: Case, keys: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        request(small, **keys)


def test_more_frames_than_the_limit_are_refused(service: Service, small: Case, tmp_path: Path) -> None:
    from PIL import Image

    frames = [Image.new("RGB", (8, 8), (4 * number, 0, 0)) for number in range(60)]
    frames[0].save(tmp_path / "long.gif", save_all=True, append_images=frames[1:], duration=40)
    with pytest.raises(InputError, match="at most 50 frames"):
        service.submit(request(small, pose=tmp_path / "long.gif"))
    assert service.submit(request(small, pose=tmp_path / "long.gif", frames=3)).result(60)


def test_the_checker_is_replaced_when_it_dies(service: Service, small: Case) -> None:
    service.submit(short(small)).result(60)
    assert service.checker.process is not None
    service.checker.process.kill()
    assert service.submit(short(small)).result(60)


def test_in_a_fork_everything_is_refused(service: Service, small: Case) -> None:
    job = service.submit(short(small))
    calls = (
        lambda: service.submit(short(small)),
        job.wait,
        job.events,
        job.cancel,
        service.close,
        service.list,
    )
    child = fork()
    if child == 0:
        refused = 0
        for call in calls:
            try:
                call()
            except Rejected:
                refused += 1
        os._exit(0 if refused == len(calls) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert job.result(60)


@pytest.mark.parametrize("wrong", [{"queue_size": 0}, {"keep_bytes": -1}, {"keep_s": "a day"}])
def test_a_service_that_is_refused_leaves_its_spool(
    small_bundle: Path, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    """Another one can use the spool while the error is still looked at."""
    with pytest.raises((ConfigError, TypeError)) as caught:
        Service(small_bundle, spool=tmp_path, **wrong)
    Spool(tmp_path).close()
    assert caught.value


def test_results_expire_by_age_and_size(small_bundle: Path, small: Case, tmp_path: Path) -> None:
    with Service(small_bundle, spool=tmp_path / "a", keep_bytes=1) as service:
        job = service.submit(short(small))
        assert job.wait(60).state == "completed"
        assert service.get(job.id) is None
        assert not job.folder.exists()
    with Service(small_bundle, spool=tmp_path / "b", keep_s=0.5) as service:
        job = service.submit(short(small))
        assert job.result(60).exists()
        time.sleep(0.6)
        assert service.list() == []
        assert not job.folder.exists()


def test_draining_finishes_and_closing_cancels(small_bundle: Path, small: Case, tmp_path: Path) -> None:
    before = {thread.name for thread in threads()}
    with Service(small_bundle, spool=tmp_path / "spool") as service:
        jobs = [service.submit(short(small)) for _ in range(3)]
        assert service.drain(60)
        assert {job.status.state for job in jobs} == {"completed"}
        with pytest.raises(ServiceClosed):
            service.submit(short(small))
    service = Service(small_bundle)
    jobs = [service.submit(short(small, steps=MANY_STEPS)) for _ in range(4)]
    temporary = service.temporary
    service.close()
    assert {job.status.state for job in jobs} == {"cancelled"}
    assert temporary
    assert not temporary.exists()
    assert {thread.name for thread in threads()} <= before


@pytest.mark.parametrize("deadline_s", [float("inf"), float("nan")])
def test_a_deadline_is_finite(service: Service, small: Case, deadline_s: float) -> None:
    with pytest.raises(ConfigError, match="deadline_s: expected a finite number of seconds"):
        service.submit(request(small), deadline_s=deadline_s)


def test_a_record_has_a_limit(service: Service, small: Case) -> None:
    with pytest.raises(ConfigError, match="labels: expected a record of at most"):
        service.submit(request(small), labels={"note": "x" * (1 << 20)})
    assert not list(service.spool.new.iterdir())


def test_a_fork_does_not_keep_the_spool(small_bundle: Path, tmp_path: Path) -> None:
    with Service(small_bundle, spool=tmp_path):
        read, write = os.pipe()
        if not (child := fork()):
            os.close(write)
            os.read(read, 1)  # until the other process is done
            os._exit(0)
    Service(small_bundle, spool=tmp_path).close()
    os.close(write)
    os.waitpid(child, 0)
    os.close(read)
