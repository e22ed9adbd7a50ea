"""A service that is killed or suspended: the next one on its spool finishes every job, to the same bytes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from animate_rt import BundleMismatch, Rejected, Service
from animate_rt.runtime.service.spool import RECORD

from .conftest import Case
from .service_requests import held, request, short, truth

NUM_JOBS = 4
SERVE = """
import sys, time
from animate_rt import ClipRequest, Service
bundle, spool, reference, pose, frames = sys.argv[1:6]
service = Service(bundle, spool=spool)
print("open", flush=True)
for seed in map(int, sys.argv[6:]):
    request = ClipRequest(reference=reference, pose=pose, frames=frames, steps=3, seed=seed)
    job = service.submit(request, idempotency_key=str(seed))
    print(job.id, flush=True)
print("submitted", flush=True)
time.sleep(600)
"""


def start(bundle: Path, spool: Path, small: Case, seeds: list[int]) -> subprocess.Popen[str]:
    """A process with a service that accepts one job for each seed, and waits to be killed."""
    paths = map(str, (bundle, spool, small.reference, small.pose))
    arguments = [*paths, str(small.window), *map(str, seeds)]
    return subprocess.Popen([sys.executable, "-c", SERVE, *arguments], stdout=subprocess.PIPE, text=True)


def kill_after(process: subprocess.Popen[str], num_lines: int, delay: float) -> set[str]:
    """Kill a process a while after so many lines. Returns the ids of the jobs that it has accepted."""
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(num_lines)]
    os.set_blocking(process.stdout.fileno(), False)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with process.stdout as rest:  # a line that was not written whole names no job
        return {line.strip() for line in (*lines, *rest) if len(line.strip()) == 24}


def states(spool: Path) -> dict[str, str]:
    records = [json.loads((folder / RECORD).read_text()) for folder in (spool / "jobs").iterdir()]
    return {record["id"]: record["state"] for record in records}


def check_all_made(
    bundle: Path, spool: Path, accepted: set[str], expected: dict[int, bytes], seeds: list[int]
) -> None:
    """Finish everything: no accepted job is lost, none is made twice, and all have the right bytes."""
    with Service(bundle, spool=spool) as service:
        jobs = {job.id: job for job in service.list()}
        assert accepted <= jobs.keys()
        for job in jobs.values():
            seed = int(job.record.idempotency_key)
            assert job.result(120).read_bytes() == expected[seed]
            assert not list(job.folder.glob(".*"))
        keys = [job.record.idempotency_key for job in jobs.values()]
        assert len(set(keys)) == len(keys) <= len(seeds)
        assert list(service.spool.new.iterdir()) == []
    assert set(states(spool).values()) <= {"completed"}


@pytest.fixture(scope="module")
def expected(small_bundle: Path, small: Case, tmp_path_factory: pytest.TempPathFactory) -> dict[int, bytes]:
    folder = tmp_path_factory.mktemp("truth")
    return {
        seed: truth(small_bundle, small, folder / f"{seed}.mp4", frames=small.window, steps=3, seed=seed)
        for seed in range(NUM_JOBS)
    }


def test_a_killed_service_loses_no_job(
    small_bundle: Path, small: Case, tmp_path: Path, expected: dict[int, bytes]
) -> None:
    spool, seeds = tmp_path / "spool", [*range(NUM_JOBS)]
    accepted = kill_after(start(small_bundle, spool, small, seeds), 3, 0)
    assert len(accepted) >= 2
    check_all_made(small_bundle, spool, accepted, expected, seeds)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_fifty_kills(
    small_bundle: Path, small: Case, tmp_path: Path, expected: dict[int, bytes], seed: int
) -> None:
    chance, spool, seeds = random.Random(100 + seed), tmp_path / "spool", [*range(NUM_JOBS)]
    accepted: set[str] = set()
    for _ in range(5):
        # The same keys again: a client that heard nothing sends its requests anew.
        process = start(small_bundle, spool, small, seeds)
        accepted |= kill_after(process, chance.choice([0, 1, 1, 2, 5]), chance.uniform(0, 1.5))
    check_all_made(small_bundle, spool, accepted, expected, seeds)


def test_a_suspended_service_keeps_its_jobs(
    small_bundle: Path, small: Case, tmp_path: Path, expected: dict[int, bytes]
) -> None:
    spool = tmp_path / "spool"
    service = Service(small_bundle, spool=spool)
    with held(service, lambda job: job.status.stage == "denoise"):
        jobs = [
            service.submit(short(small, steps=3, seed=seed), idempotency_key=str(seed)) for seed in range(3)
        ]
        while not any(job.status.stage == "denoise" for job in jobs):
            time.sleep(0.01)
        with pytest.raises(Rejected, match="in use by another service"):
            Service(small_bundle, spool=spool)
        service.suspend()
    assert {job.status.state for job in jobs} <= {"queued", "in_progress"}
    check_all_made(small_bundle, spool, {job.id for job in jobs}, expected, [*range(3)])


def test_a_job_of_another_bundle_fails_after_a_restart(
    small_bundle: Path, small: Case, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    service = Service(small_bundle, spool=spool)
    job = service.submit(request(small, steps=50))
    service.suspend()
    record = json.loads((job.folder / RECORD).read_text())
    (job.folder / RECORD).write_text(json.dumps(record | {"bundle": "0" * 64}))
    with Service(small_bundle, spool=spool) as again:
        found = again.get(job.id)
        assert found is not None
        with pytest.raises(BundleMismatch):
            found.result(60)


def test_damaged_records_are_left_alone(small_bundle: Path, tmp_path: Path) -> None:
    contents = [b"", b"{", b"[]", b'{"id": 3}', b"\xff" * 10, b"[" * 100_000]
    paths = [tmp_path / "jobs" / f"damaged{number}" / RECORD for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    with Service(small_bundle, spool=tmp_path) as service:
        assert service.list() == []
    assert [path.read_bytes() for path in paths] == contents
