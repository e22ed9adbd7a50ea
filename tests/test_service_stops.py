"""A service that stops: nobody waits for what it no longer makes, and nothing of it goes on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from threading import enumerate as threads

import pytest
from animate_rt import AnimateError, InputError, Job, Service, ServiceClosed
from animate_rt.runtime.service import Limits, checker

from .forks import fork
from .quick_service import LONG, Quick, prepare, wait_for_stage


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Quick:
    return prepare(tmp_path, monkeypatch)


class Call(Thread):
    """A call in a thread, and the error that it raises."""

    def __init__(self, call: Callable[[], object]):
        super().__init__(daemon=True)
        self.call, self.error = call, None
        self.start()

    def run(self) -> None:
        try:
            self.call()
        except AnimateError as error:
            self.error = error

    def outcome(self, timeout: float) -> AnimateError | None:
        self.join(timeout)
        assert not self.is_alive()
        return self.error


def awaited(job: Job) -> None:
    async def main() -> None:
        await job

    asyncio.run(main())


def watched(service: Service, job: Job) -> None:
    async def main() -> None:
        async for _chunk in service.live.watch(job):
            pass

    asyncio.run(main())


def encoders() -> list[Thread]:
    return [thread for thread in threads() if thread.name == "animate-rt live"]


def test_those_who_wait_for_a_job_hear_that_its_service_has_stopped(quick: Quick) -> None:
    service = quick.service(active_clips=1)
    running, queued = (service.submit(quick.request(steps=LONG)) for _ in range(2))
    wait_for_stage(running)
    calls = [
        Call(call)
        for job in (running, queued)
        for call in (job.result, job.wait, lambda job=job: awaited(job), lambda job=job: list(job.events()))
    ]
    time.sleep(0.1)
    service.suspend()
    for call in calls:
        assert isinstance(call.outcome(10), ServiceClosed)
    assert running.status.state == "in_progress"
    assert queued.status.state == "queued"
    with pytest.raises(ServiceClosed, match=running.id):
        running.wait(10)


def test_a_live_video_ends_with_the_service(quick: Quick) -> None:
    service = quick.service()
    job = service.submit(quick.request(steps=LONG))
    watching = Call(lambda: watched(service, job))
    while not encoders():
        time.sleep(0.01)
    service.suspend()
    assert not encoders()
    assert watching.outcome(10) is None
    watched(service, job)  # nothing begins any more
    assert not encoders()


def test_a_live_video_is_made_as_long_as_somebody_watches(quick: Quick) -> None:
    async def main(service: Service, job: Job) -> None:
        watchers = [asyncio.create_task(anext(aiter(service.live.watch(job)))) for _ in range(2)]
        await asyncio.sleep(0.1)
        watchers[0].cancel()
        await asyncio.sleep(0.2)
        assert len(encoders()) == 1
        watchers[1].cancel()
        for _ in range(100):
            await asyncio.sleep(0.05)
            if not encoders():
                break
        assert not encoders()
        assert service.live.encoders == []

    with quick.service() as service:
        job = service.submit(quick.request(steps=LONG))
        wait_for_stage(job)
        asyncio.run(main(service, job))
        job.cancel()
        job.wait(30)
        watched(service, job)
        assert {path.name for path in job.folder.iterdir()} == {"job.json", "shot.jsonl"}


def stop_checker(service: Service) -> None:
    """Let the checker hang."""
    service.checker.start()
    assert service.checker.process is not None
    service.checker.process.send_signal(signal.SIGSTOP)


def test_a_fork_does_not_keep_a_checker_from_stopping() -> None:
    """The forks are made while the checker's process starts, and hold what they got until the end."""
    read, write = os.pipe()
    forks = []
    for _ in range(5):
        checks = checker.Checker(Limits())
        start = Thread(target=checks.start)
        start.start()
        while start.is_alive():
            if not (child := fork()):
                os.close(write)
                os.read(read, 1)
                os._exit(0)
            forks.append(child)
        close = Thread(target=checks.close, daemon=True)
        close.start()
        close.join(timeout=20)
        assert not close.is_alive()
    os.close(write)
    for child in forks:
        os.waitpid(child, 0)
    os.close(read)
    assert forks


def test_a_hanging_check_does_not_keep_a_service_from_stopping(quick: Quick) -> None:
    with quick.service() as service:
        stop_checker(service)
        submitting = Call(lambda: service.submit(quick.request()))
        while not service.checker.lock.locked():
            time.sleep(0.01)
        began = time.monotonic()
        assert service.drain(10)
        assert isinstance(submitting.outcome(5), ServiceClosed)
        assert time.monotonic() - began < 5
        for call in (lambda: service.checker.examine(quick.folder), service.checker.start):
            with pytest.raises(ServiceClosed):
                call()
        assert service.checker.process is None


def test_a_hanging_check_takes_no_longer_than_the_limit(quick: Quick) -> None:
    with quick.service(limits=Limits(check_s=2)) as service:
        stop_checker(service)
        began = time.monotonic()
        with pytest.raises(InputError, match="in 2 s"):
            service.submit(quick.request())
        assert time.monotonic() - began < 3.8
        assert service.submit(quick.request()).result(30)


def test_a_checker_whose_service_was_killed_ends_itself(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "shot.jsonl")  # opening it never ends
    process = subprocess.Popen([sys.executable, "-m", checker.__name__], stdin=subprocess.PIPE)
    question = {"job_list": str(tmp_path / "shot.jsonl"), "frames": 1, "check_s": 0.5 - checker.GRACE_S}
    assert process.stdin is not None
    process.stdin.write(json.dumps(question).encode() + b"\n")
    process.stdin.flush()
    assert process.wait(20) == -signal.SIGALRM
    process.stdin.close()
