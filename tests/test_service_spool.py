"""What a service keeps on disk: records that can be read again, what was asked for, full disks, locks."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from animate_rt import ConfigError, InputError, Job, OutputError, QueueFull
from animate_rt.runtime.service import request as request_module
from animate_rt.runtime.service import spool as spool_module
from animate_rt.runtime.service.spool import CANCELLED, RECORD, REMOVED, Spool
from PIL import Image

from .forks import fork
from .quick_service import LONG, Quick, prepare, wait_for_stage
from .service_requests import held


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Quick:
    return prepare(tmp_path, monkeypatch)


def in_child(act: Callable[[], None]) -> None:
    """Run something in a fork of this process, which is killed when it returns."""
    child = fork()
    if child == 0:
        try:
            act()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


@pytest.mark.parametrize(
    "given", [{"labels": {"a": 3}}, {"labels": {"a": object()}}, {"labels": {"a": "x" * (600 << 10)}}]
)
def test_a_record_that_could_not_be_read_again_is_refused(quick: Quick, given: dict[str, Any]) -> None:
    with quick.service() as service:
        with pytest.raises(ConfigError, match=r"^(labels|job\.labels)"):
            service.submit(quick.request(), **given)
        assert service.list() == []
        assert list(service.spool.new.iterdir()) == list(service.spool.jobs.iterdir()) == []


def test_a_record_that_cannot_be_read_is_logged(quick: Quick, caplog: pytest.LogCaptureFixture) -> None:
    with quick.service() as service:
        job = service.submit(quick.request())
        job.result(30)
    record = json.loads((job.folder / RECORD).read_text())
    (job.folder / RECORD).write_text(json.dumps(record | {"schema": 99}))
    caplog.set_level(logging.WARNING)
    with quick.service() as service:
        assert service.list() == []
    assert f"{job.id} is left out, as its record is damaged" in caplog.text
    assert "schema 99" in caplog.text


@pytest.mark.parametrize("wish", [CANCELLED, REMOVED])
def test_what_was_asked_for_before_a_kill_is_done_after_it(quick: Quick, wish: str) -> None:
    """The folder as a killed service leaves it: the wish is on disk before the caller hears of it."""
    service = quick.service()
    job = service.submit(quick.request(steps=LONG))
    wait_for_stage(job)
    ask = service.remove_later if wish == REMOVED else service.cancel
    service.jobs.end = lambda *_: None  # type: ignore[method-assign] # as if it was killed before
    ask(job)
    service.suspend()
    with quick.service() as again:
        found = again.get(job.id)
        if wish == REMOVED:
            assert found is None
            assert not job.folder.exists()
        else:
            assert found is not None
            assert found.status.state == "cancelled"
            assert {path.name for path in job.folder.iterdir()} == {RECORD, "shot.jsonl"}


def test_a_job_is_removed_once_it_has_ended(quick: Quick) -> None:
    with quick.service() as service:
        job = service.submit(quick.request(steps=LONG))
        wait_for_stage(job)
        service.remove_later(job)
        assert job.wait(30).state == "cancelled"
        while service.get(job.id) or job.folder.exists():
            time.sleep(0.01)


def test_a_wish_is_no_file_of_a_job_that_ended_before_it(quick: Quick) -> None:
    with quick.service() as service:
        job = service.submit(quick.request())
        job.result(30)
        job.cancel()
        assert job.status.state == "completed"
        assert not (job.folder / CANCELLED).exists()


def test_a_job_whose_place_is_not_durable_is_not_made_later(
    quick: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = spool_module.sync

    def failing(*paths: Path) -> None:
        if paths[0].name == "jobs":
            raise OSError(errno.EIO, "Input/output error")
        sync(*paths)

    with quick.service() as service:
        monkeypatch.setattr(spool_module, "sync", failing)
        with pytest.raises(OutputError):
            service.submit(quick.request())
        assert list(service.spool.jobs.iterdir()) == []


def test_a_full_disk_is_no_fault_of_the_inputs(quick: Quick, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with quick.service() as service:
        with monkeypatch.context() as patched:
            patched.setattr(request_module, "copy_file", full)
            with pytest.raises(OutputError, match="No space left on device"):
                service.submit(quick.request())
        with monkeypatch.context() as patched:
            patched.setattr(Image.Image, "save", full)
            with pytest.raises(OutputError, match="No space left on device"):
                service.submit(quick.request(reference=Image.new("RGB", (64, 64))))
        with monkeypatch.context() as patched:
            patched.setattr(Path, "write_bytes", full)
            with pytest.raises(OutputError, match="No space left on device"):
                service.submit(quick.request())
        with pytest.raises(InputError, match="mode F"):
            service.submit(quick.request(reference=Image.new("F", (64, 64))))
        assert list(service.spool.new.iterdir()) == []


def test_a_job_whose_key_is_forgotten_meanwhile_needs_a_place(quick: Quick) -> None:
    with quick.service(queue_size=1, active_clips=1) as service, held(service):
        known = service.submit(quick.request(), idempotency_key="a")
        known.cancel()
        assert known.wait(30).has_ended
        running = service.submit(quick.request())
        while running.status.state == "queued":
            time.sleep(0.01)
        service.submit(quick.request())  # takes the only place
        examine = service.checker.examine

        def forget_and_examine(path: Path) -> Any:
            service.remove(known)
            return examine(path)

        service.checker.examine = forget_and_examine  # type: ignore[method-assign]
        with pytest.raises(QueueFull):
            service.submit(quick.request(), idempotency_key="a")


def test_results_without_bytes_stay_when_others_are_too_large(quick: Quick) -> None:
    with quick.service(keep_bytes=1) as service, held(service):
        cancelled = service.submit(quick.request())
        cancelled.cancel()
        assert cancelled.wait(30).state == "cancelled"
    with quick.service(keep_bytes=1) as service:
        job: Job = service.submit(quick.request())
        assert job.wait(30).state == "completed"
        while service.get(job.id):
            time.sleep(0.01)
        assert service.get(cancelled.id)


def test_a_fork_that_outlives_a_killed_process_does_not_hold_its_spool(tmp_path: Path) -> None:
    read, write = os.pipe()

    def hold_and_fork() -> None:
        spool = Spool(tmp_path)
        if fork() == 0:
            os.close(write)
            os.read(read, 1)  # until the test is done
            os._exit(0)
        assert spool

    in_child(hold_and_fork)
    Spool(tmp_path).close()
    os.close(write)
    os.close(read)
