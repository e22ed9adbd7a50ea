"""A farm whose workers die or cannot run, or whose shots fail."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from animate_rt.errors import ClusterError, DeviceError
from animate_rt.runtime.farm import farm as farm_module
from animate_rt.runtime.farm.farm import Farm, LostAttempt
from animate_rt.runtime.farm.worker import ShotProgress, Worker
from animate_rt.tests import fixed_cost  # not relative: workers import it, too

from . import ray_cluster
from .job_lists import job, shots
from .ray_cluster import FARM, run
from .slow import SLOW

if not find_spec("ray"):
    pytest.skip("needs the extra farm", allow_module_level=True)

# Ray does not wait for processes that it has ended.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

collected, shared_ray = ray_cluster.collected, ray_cluster.shared_ray
ray, inputs = ray_cluster.ray, ray_cluster.inputs


def results(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    ("lost", "resumed", "expected"),
    [
        (LostAttempt(ShotProgress(0.0, 0.5), 10.0, 10.0), 0.5, 0.0),
        (LostAttempt(ShotProgress(0.0, 0.5), 10.0, 10.0), 0.25, 5.0),
        (LostAttempt(ShotProgress(0.0, 0.5), 10.0, 11.0), 0.55, 0.0),  # last polled a second before it died
        (LostAttempt(ShotProgress(0.5, 0.9), 10.0, 11.0), 0.6, 8.5),
        (LostAttempt(ShotProgress(0.5, 0.5), 0.0, 10.0), 0.5, 10.0),  # it died before making any progress
    ],
)
def test_wasted_seconds_of_a_lost_attempt(lost: LostAttempt, resumed: float, expected: float) -> None:
    assert lost.wasted_s(resumed) == pytest.approx(expected)


@pytest.mark.usefixtures("ray")
def test_shots_that_keep_failing_are_given_up_and_the_others_finish(inputs: Path, tmp_path: Path) -> None:
    """Four shots have bad inputs and one kills its worker; one more fails at first and is tried again."""
    (inputs / "damaged.png").write_bytes(b"not a picture")
    (inputs / "empty").mkdir(exist_ok=True)
    np.save(inputs / "short.npy", np.zeros((1, 4, 3, 8, 8), np.float32))
    jobs = [job(f"good{i}", seed=i) for i in range(4)]
    jobs[2:2] = [
        job("damaged", reference="damaged.png"),
        job("empty", pose="empty"),
        job("range", frames="5-50"),
        job("noise", initial_noise="short.npy"),
        job("crash", seed=fixed_cost.SUICIDAL_SEED),
        job("tired", seed=fixed_cost.TIRED_SEED),
    ]
    made = shots(inputs, tmp_path / "out", jobs)
    report = run(
        made,
        partial(fixed_cost.open_troubled_animator, folder=tmp_path),
        num_workers=2,
        tries=2,
    )
    (tired,) = (shot for shot in report.shots if shot.name == "tired")
    assert (tired.state, tired.attempts, tired.deaths) == ("done", 2, 0)
    failed = {shot.name: shot for shot in report.shots if shot.state == "failed"}
    assert failed.keys() == {"damaged", "empty", "range", "noise", "crash"}
    done = {shot.name for shot in report.shots if shot.state == "done"}
    assert done == {"tired", *(f"good{i}" for i in range(4))}
    assert (failed["crash"].attempts, failed["crash"].deaths, failed["crash"].code) == (2, 2, "worker_died")
    assert (failed["damaged"].attempts, failed["damaged"].code) == (1, "input")
    assert "found 8" in failed["range"].error
    kept = [path.name for path in (tmp_path / "out").iterdir() if path.suffix == ".partial"]
    assert all(name.startswith(".crash.") for name in kept)  # kept, as another run may resume it


@pytest.mark.usefixtures("ray")
def test_broken_devices_and_workers_that_cannot_start(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken devices do not fail the whole list, and workers that cannot start do not stop the others."""
    monkeypatch.setattr(farm_module, "MAX_STARTS", 1)
    jobs = [job(f"shot{i}", seed=i) for i in range(5)]
    broken = partial(fixed_cost.open_troubled_animator, folder=tmp_path, broken=2)
    report = run(shots(inputs, tmp_path / "broken", jobs), broken, num_workers=2)
    assert report.states == {"done": 5}
    assert report.retries == 2
    farm = Farm(
        shots(inputs, tmp_path / "unreachable", jobs[:2]),
        open_animator=fixed_cost.Unreachable(tmp_path, survivors=1),
        num_workers=2,
    )
    assert farm.run().states == {"done": 2}
    assert (len(farm.slots), farm.report.waiting_for) == (1, "")
    nowhere = Farm(
        shots(inputs, tmp_path / "nowhere", jobs[:1]),
        open_animator=fixed_cost.Unreachable(tmp_path, survivors=0),
    )
    with pytest.raises(DeviceError, match="expected workers to start, they died"):
        nowhere.run()
    assert nowhere.report.states == {"waiting": 1}
    assert "free CPUs" in nowhere.report.waiting_for


@pytest.mark.usefixtures("ray")
def test_a_worker_that_no_host_is_large_enough_for(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(farm_module, "LOST_S", 1.0)
    monkeypatch.setattr(Farm, "_plan_workers", lambda _farm: (1, {"num_cpus": 1000, "num_gpus": 0}))
    farm = Farm(shots(inputs, tmp_path / "out", [job("a")]), open_animator=fixed_cost.open_animator)
    with pytest.raises(
        ClusterError, match="expected a host with 1000 free CPUs, found none in 1 s; the same"
    ):
        farm.run()
    assert farm.report.states == {"waiting": 1}
    assert farm.report.waiting_for == "a host with 1000 free CPUs"


def test_a_worker_that_no_host_has_room_for(
    ray: Any, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All CPUs are in use by somebody else: the farm waits longer, and starts if they become free."""
    cpus = int(ray.cluster_resources()["CPU"])

    class Other:
        def wait(self) -> None:
            pass

    other = ray.remote(Other).options(num_cpus=cpus).remote()
    ray.get(other.wait.remote())
    monkeypatch.setattr(farm_module, "LOST_S", 0.5)
    monkeypatch.setattr(farm_module, "BUSY_S", 2.0)
    made = shots(inputs, tmp_path / "out", [job("a")])
    farm = Farm(made, open_animator=fixed_cost.open_animator, num_workers=1)
    with pytest.raises(ClusterError, match=r"free CPUs, found none that is free in [23] s"):
        farm.run()
    monkeypatch.setattr(farm_module, "BUSY_S", 60.0)
    waited = []

    def show(report: Any) -> None:
        waited.append(report.waiting_for)
        if len(waited) == 8:
            ray.kill(other)

    farm = Farm(made, open_animator=fixed_cost.open_animator, num_workers=1, show=show)
    assert farm.run().states == {"done": 1}
    assert "free CPUs" in waited[7]
    assert waited[-1] == ""


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_a_worker_that_does_not_answer_is_replaced(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(farm_module, "SILENCE_S", 1.5)
    open_animator = partial(fixed_cost.open_animator, cost_s=0.1)
    farm = Farm(shots(inputs, tmp_path / "out", [job("a")]), open_animator=open_animator, num_workers=1)
    stopped: list[int] = []

    def stop() -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until and not any((tmp_path / "out").glob(".*/*")):
            time.sleep(0.05)
        (slot,) = farm.slots
        if slot.process:
            stopped.append(slot.process.pid)
            os.kill(slot.process.pid, signal.SIGSTOP)

    thread = threading.Thread(target=stop)
    thread.start()
    report = farm.run()
    thread.join()
    assert stopped
    assert report.states == {"done": 1}
    assert report.shots[0].deaths == 1
    assert not Path(f"/proc/{stopped[0]}").exists()


class Killer:
    """Kills a random busy worker every `every_s` seconds, `most` times at most."""

    def __init__(self, farm: Farm, every_s: float, most: int):
        self.farm, self.every_s, self.most, self.kills = farm, every_s, most, 0
        self.chance = random.Random(0)
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        while self.kills < self.most and not self.over.wait(self.every_s):
            busy = [slot.process for slot in self.farm.slots if slot.process and slot.job]
            if busy:
                os.kill(self.chance.choice(busy).pid, signal.SIGKILL)
                self.kills += 1

    def __enter__(self) -> Killer:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()


@pytest.mark.usefixtures("ray")
@pytest.mark.parametrize(
    ("num_shots", "every_s", "cost_s"),
    [(4, 1.5, 0.06), pytest.param(20, 3.0, 0.15, marks=SLOW)],
)
def test_results_are_the_same_if_workers_are_killed(
    inputs: Path,
    tmp_path: Path,
    num_shots: int,
    every_s: float,
    cost_s: float,
    capsys: pytest.CaptureFixture[str],
) -> None:
    jobs = [
        job(
            f"shot{i:02}",
            seed=i,
            steps=8,
            reference=f"reference{i % 3}.png",
            windows=("uniform", "open")[i % 2],
            format=("mp4", "png")[i // 2 % 2],
        )
        for i in range(num_shots)
    ]
    undisturbed = Worker(fixed_cost.open_animator)  # in this process
    for shot in shots(inputs, tmp_path / "undisturbed", jobs):
        assert not undisturbed.make(shot).error
    made = shots(inputs, tmp_path / "killed", jobs)
    farm = Farm(made, open_animator=partial(fixed_cost.open_animator, cost_s=cost_s), num_workers=2)
    with Killer(farm, every_s, most=10**6 if num_shots > 4 else 2) as killer:
        report = farm.run()
    document = report.document()
    with capsys.disabled():
        figures = ("states", "wall_s", "retries", "worker_deaths", "worker_starts", "wasted_s", "utilisation")
        print(f"\n{num_shots} shots, {killer.kills} kills: { ({name: document[name] for name in figures}) }")
    assert report.states["done"] == num_shots
    assert document["worker_deaths"] > 0
    assert results(tmp_path / "killed") == results(tmp_path / "undisturbed")
    busy_s = sum(shot.busy_s for shot in report.shots)
    assert 0 <= document["wasted_s"] < busy_s  # after only two kills the estimate may be 0
    assert document["wasted_s"] or num_shots == 4


@pytest.mark.slow
def test_workers_that_ray_kills_when_memory_runs_low(inputs: Path, tmp_path: Path) -> None:
    (inputs / "hungry.jsonl").write_text(json.dumps(job("one")) + "\n")
    done = subprocess.run(
        [sys.executable, "-c", FARM, "farm", str(inputs / "hungry.jsonl"), "--output", str(tmp_path), "1"],
        env=os.environ | {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "100"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "Traceback" in done.stderr) in {(69, False), (1, False)}, done.stderr
    assert "running low on memory" in done.stderr or "died while making it" in done.stdout
