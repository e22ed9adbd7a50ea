"""Many clients at once: bounded queue, random cancelling, broken inputs; nothing is left behind."""

from __future__ import annotations

import gc
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import active_count

import pytest
from animate_rt import Cancelled, InputError, QueueFull, Service

from .conftest import Case
from .service_requests import short, truth

CLIENTS, SEEDS = 16, 4


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def load(bundle: Path, small: Case, folder: Path, num_clips: int) -> dict[str, int]:
    """Let 16 clients make clips against a queue of 4. Returns how many ended in which way."""
    expected = {
        seed: truth(bundle, small, folder / f"{seed}.mp4", frames=small.window, seed=seed)
        for seed in range(SEEDS)
    }
    broken = folder / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    outcomes = dict.fromkeys(("completed", "cancelled", "refused", "full"), 0)

    def client(number: int) -> str:
        generator = random.Random(number)
        seed, kind = (
            number % SEEDS,
            generator.choice(["whole", "cancelled", "whole", "broken", "cancelled", "whole"]),
        )
        while True:
            try:
                keys = {"reference": broken} if kind == "broken" else {}
                job = service.submit(short(small, seed=seed, **keys))
                break
            except QueueFull:
                outcomes["full"] += 1
                time.sleep(generator.uniform(0.05, 0.3))
            except InputError:
                assert kind == "broken"
                return "refused"
        if kind == "cancelled":
            time.sleep(generator.uniform(0, 0.5))
            job.cancel()
        try:
            content = job.result(300).read_bytes()
        except Cancelled:
            return "cancelled"
        assert content == expected[seed]
        return "completed"

    with Service(bundle, queue_size=4, spool=folder / "spool") as service:
        assert service.ready.wait(120)
        service.submit(short(small)).result(60)
        gc.collect()
        (place,) = service.animators.places.values()
        assert place.animator is not None
        pool = place.animator.session.pool
        before = active_count(), descriptors(), sum(free.used_bytes for free in pool.free.values())
        with ThreadPoolExecutor(CLIENTS) as clients:
            for outcome in clients.map(client, range(num_clips)):
                outcomes[outcome] += 1
        assert service.drain(60)
        gc.collect()
        assert active_count() <= before[0]
        assert descriptors() <= before[1]
        assert list(service.spool.new.iterdir()) == []
        for job in service.list():
            assert not list(job.folder.glob(".*"))
        assert place.borrowers == 0
        assert sum(free.used_bytes for free in pool.free.values()) == before[2]  # those of the reference
    return outcomes


def test_many_clients(small_bundle: Path, small: Case, tmp_path: Path) -> None:
    outcomes = load(small_bundle, small, tmp_path, 24)
    assert outcomes["completed"] >= 8  # as many are whole and not cancelled
    assert outcomes["refused"] >= 1
    assert sum(outcomes.values()) - outcomes["full"] == 24


@pytest.mark.slow
def test_two_hundred_clips_from_sixteen_clients(
    small_bundle: Path, small: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = load(small_bundle, small, tmp_path, 200)
    with capsys.disabled():
        print(f"\n{outcomes}")
    assert outcomes["full"] > 0
    assert outcomes["cancelled"] > 20
