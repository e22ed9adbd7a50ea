"""Jobs and bundles that wait, for memory or for each other."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from animate_rt import Job, Service
from animate_rt.runtime.service import warm_up
from animate_rt.runtime.service.animators import memory_of

from .quick_service import LONG, Quick, prepare, wait_for_stage


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Quick:
    return prepare(tmp_path, monkeypatch)


def for_one_bundle(quick: Quick) -> Service:
    """A service of two bundles with memory for one of them, which is "a" at first."""
    bundles = {name: shutil.copytree(quick.bundle, quick.folder / name) for name in ("a", "b")}
    with quick.service(bundles=bundles) as service:
        budget = max(memory_of(place.bundle) for place in service.animators.places.values()) * 3 // 2
    return quick.service(bundles=bundles, memory_budget=budget)


def waiting_for_memory(service: Service, quick: Quick, **keys: float) -> tuple[Job, Job]:
    """A job that keeps the memory, and one that waits for it."""
    running = service.submit(quick.request(size="a", steps=LONG))
    wait_for_stage(running)
    waiting = service.submit(quick.request(size="b"), **keys)
    wait_for_stage(waiting, "load")
    return running, waiting


def test_a_job_that_waits_for_memory_is_cancelled_at_once(quick: Quick) -> None:
    with for_one_bundle(quick) as service:
        running, waiting = waiting_for_memory(service, quick)
        waiting.cancel()
        assert waiting.wait(5).state == "cancelled"
        assert running.status.state == "in_progress"


def test_a_job_that_waits_for_memory_keeps_its_deadline(quick: Quick) -> None:
    with for_one_bundle(quick) as service:
        running, waiting = waiting_for_memory(service, quick, deadline_s=1)
        status = waiting.wait(5)
        assert status.error is not None
        assert status.error.code == "deadline_missed"
        assert running.status.state == "in_progress"


def test_a_job_that_waits_for_memory_makes_room_for_a_shorter_one(quick: Quick) -> None:
    with for_one_bundle(quick) as service:
        service.schedule.turn_s = 0.5
        running = service.submit(quick.request(size="a", steps=LONG))
        wait_for_stage(running)
        waiting = service.submit(quick.request(size="b", steps=LONG // 2))
        wait_for_stage(waiting, "load")
        assert service.submit(quick.request(size="a")).result(30)


def test_a_service_stops_while_a_job_waits_for_memory(quick: Quick) -> None:
    service = for_one_bundle(quick)
    jobs = waiting_for_memory(service, quick)
    began = time.monotonic()
    service.suspend()
    assert time.monotonic() - began < 5
    assert [service.spool.is_marked(job.id, "cancelled") for job in jobs] == [False, False]


def test_a_service_stops_while_it_warms_up(quick: Quick, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_up, "STEPS", LONG)  # of 10 ms
    service = Service(quick.bundle, spool=quick.spool)
    time.sleep(0.5)
    began = time.monotonic()
    service.close()
    assert time.monotonic() - began < 5
    assert service.failure is None


def test_jobs_that_share_the_device_are_counted_once(quick: Quick) -> None:
    with quick.service() as service:
        jobs = [service.submit(quick.request(steps=LONG)) for _ in range(2)]
        for job in jobs:
            wait_for_stage(job)
        while (
            None in (left := [job.status.seconds_left for job in jobs]) or service.schedule.num_running() < 2
        ):
            time.sleep(0.01)
        time.sleep(1)
        left = [job.status.seconds_left for job in jobs]
        assert service.schedule.seconds_ahead() == pytest.approx(sum(left) / 2, rel=0.2)
        assert service.schedule.seconds_to_room() == pytest.approx(min(left), rel=0.2)
