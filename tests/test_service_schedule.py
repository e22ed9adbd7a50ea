"""The order of a service's jobs: short before long, none for ever, long ones paused; bundles in a budget."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path
from threading import Event, Thread
from typing import Any, cast

import pytest
from animate_rt import Job, Service
from animate_rt.runtime.service.animators import memory_of
from animate_rt.runtime.service.schedule import Entry, Schedule

from .conftest import Case
from .service_requests import MANY_STEPS, held, short, truth


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Simulation:
    """A device with one place that makes jobs of known lengths, in seconds, and takes no time to pause."""

    def __init__(self, turn_s: float):
        self.clock = Clock()
        self.schedule = Schedule(1, turn_s, self.clock)
        self.left: dict[Any, float] = {}
        self.came: dict[Any, float] = {}
        self.began: dict[Any, float] = {}
        self.ended: dict[Any, float] = {}

    def put(self, name: object, seconds: float) -> None:
        self.left[name], self.came[name] = seconds, self.clock.now
        self.schedule.put(cast(Any, name), lambda: self.left[name])

    def run(self, arrivals: dict[object, tuple[float, float]], tick: float = 0.5) -> None:
        """Let jobs arrive, by name (time, seconds), and run until all are made."""
        active: Entry | None = None
        coming = sorted(arrivals, key=lambda name: arrivals[name][0])
        while len(self.ended) < len(arrivals):
            while coming and arrivals[coming[0]][0] <= self.clock.now:
                name = coming.pop(0)
                self.put(name, arrivals[name][1])
            if active is None and self.schedule.num_waiting:
                active = self.schedule.take()
                assert active is not None
                self.began.setdefault(active.job, self.clock.now)
            self.clock.now += tick
            if active is not None:
                self.left[active.job] -= tick
                if self.left[active.job] <= 0:
                    self.ended[active.job] = self.clock.now
                    self.schedule.end(active)
                    active = None
                elif self.schedule.should_pause(active):
                    self.schedule.put_back(active)
                    active = None


def test_the_shortest_job_goes_first() -> None:
    simulation = Simulation(turn_s=1000)
    simulation.run({"a": (0, 10), "long": (1, 50), "short": (2, 5), "middle": (3, 20)})
    assert sorted(simulation.began, key=lambda name: simulation.began[name]) == [
        "a",
        "short",
        "middle",
        "long",
    ]


def test_a_short_job_waits_for_a_long_one_at_most_one_turn() -> None:
    simulation = Simulation(turn_s=30)
    simulation.run({"long": (0, 1000), "longer": (1, 2000), "short": (100, 5)})
    assert simulation.began["short"] - simulation.came["short"] <= 1
    assert simulation.ended["short"] <= 110
    simulation = Simulation(turn_s=30)
    simulation.run({"long": (0, 1000), "longer": (1, 2000), "short": (2, 5)})
    assert simulation.began["short"] <= 31


def test_a_long_job_is_made_although_short_ones_keep_coming() -> None:
    simulation = Simulation(turn_s=30)
    short: dict[object, tuple[float, float]] = {number: (number * 10, 9) for number in range(300)}
    simulation.run(short | {"long": (0, 300)})
    assert simulation.ended["long"] < 3000


@pytest.mark.parametrize("seed", range(20))
def test_every_job_ends_and_work_is_not_lost(seed: int) -> None:
    generator = random.Random(seed)
    arrivals: dict[object, tuple[float, float]] = {
        number: (generator.uniform(0, 500), generator.choice([2, 5, 60, 400])) for number in range(40)
    }
    simulation = Simulation(turn_s=30)
    simulation.run(arrivals)
    total = sum(seconds for _, seconds in arrivals.values())
    assert max(simulation.ended.values()) <= 500 + total + 0.5 * 40  # ticks
    for name, (_, seconds) in arrivals.items():
        assert simulation.ended[name] - simulation.came[name] >= seconds


def test_a_long_clip_pauses_for_a_short_one_and_has_the_same_bytes(
    small_bundle: Path, small: Case, tmp_path: Path
) -> None:
    steps, ready = 8, Event()

    def at(job: Job) -> bool:
        return not ready.is_set() and job.status.stage == "denoise"

    with Service(small_bundle, active_clips=1, turn_s=0) as service, held(service, at):
        assert service.ready.wait(120)
        long = service.submit(short(small, steps=steps))
        brief = service.submit(short(small))
        order = []
        waiters = [Thread(target=lambda job=job: (job.wait(120), order.append(job))) for job in (long, brief)]
        for waiter in waiters:
            waiter.start()
        ready.set()
        values = [event.progress for event in long.events()]
        for waiter in waiters:
            waiter.join()
        assert order == [brief, long]
        assert "waiting" not in long.record.stage_seconds
        assert values == sorted(values)
        assert long.result(1).read_bytes() == truth(
            small_bundle, small, tmp_path / "a.mp4", frames=small.window, steps=steps
        )


def test_bundles_share_a_memory_budget(small_bundle: Path, small: Case, tmp_path: Path) -> None:
    bundles = {name: shutil.copytree(small_bundle, tmp_path / name) for name in ("a", "b")}
    with Service(bundles) as service:
        assert service.ready.wait(120)
        assert [place.animator is not None for place in service.animators.places.values()] == [True, True]
        budget = max(memory_of(place.bundle) for place in service.animators.places.values()) * 3 // 2
    with Service(bundles, memory_budget=budget) as service:
        assert service.ready.wait(120)
        jobs = [service.submit(short(small, size=name)) for name in ("b", "a", "b")]
        results = [job.result(60).read_bytes() for job in jobs]
        assert results[0] == results[1] == results[2]
        assert sum(place.animator is not None for place in service.animators.places.values()) == 1


def test_a_bundle_that_is_rebuilt_serves_new_jobs_only(
    small_bundle: Path, small: Case, tmp_path: Path
) -> None:
    bundle = shutil.copytree(small_bundle, tmp_path / "bundle")
    with Service(bundle) as service:
        job = service.submit(short(small, steps=MANY_STEPS))
        while job.status.stage != "denoise":
            time.sleep(0.01)
        weights = bundle / "graphs" / "weights.bin"
        weights.write_bytes(weights.read_bytes())  # written to while it is loaded
        assert job.wait(60).state == "failed"
        assert job.status.error is not None
        assert job.status.error.retryable
        assert service.submit(short(small)).result(60)
