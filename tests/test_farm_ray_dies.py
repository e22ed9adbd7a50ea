"""A farm whose Ray dies, or that is killed: it ends soon, says so in its own words, and leaves no process."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path

import pytest
from animate_rt.runtime.farm import driver as driver_module
from animate_rt.runtime.farm.cluster import ended, ray_folder
from animate_rt.runtime.farm.driver import run_in_driver
from animate_rt.runtime.farm.farm import Farm
from animate_rt.runtime.farm.processes import DEAD, processes

from . import ray_cluster
from .job_lists import job, shots
from .ray_cluster import FARM

if not find_spec("ray"):
    pytest.skip("needs the extra farm", allow_module_level=True)

inputs = ray_cluster.inputs
BOUND_S = 60.0  # for the end of a farm; Ray itself may block for 30 s while it starts


class Command:
    """A running command `farm`. Its process starts the driver, which starts Ray if no address is given."""

    def __init__(self, inputs: Path, output: Path, *given: str):
        self.output = output
        self.jobs = inputs / "list.jsonl"
        self.jobs.write_text("".join(json.dumps(job(f"s{i}", seed=i)) + "\n" for i in range(6)))
        arguments = ["farm", str(self.jobs), "--output", str(output), "--workers", "2", *given]
        self.process = subprocess.Popen(
            [sys.executable, "-c", FARM, *arguments, "--progress", "json", "0.3"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def driver(self) -> int:
        return next((p.pid for p in processes() if p.parent == self.process.pid), 0)

    def named(self, name: str) -> int:
        """The process of Ray with this name; 0 if it has not started yet."""
        driver = self.driver()
        return next((p.pid for p in processes() if driver and p.parent == driver and p.name == name), 0)

    def rendering(self) -> bool:
        return any(self.output.glob(".*/*"))

    def wait_for(self, what: Callable[[], object]) -> None:
        until = time.monotonic() + BOUND_S
        while not what():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < until
            time.sleep(0.02)

    def end(self) -> tuple[int, str]:
        _, err = self.process.communicate(timeout=BOUND_S)
        return self.process.returncode, err


@pytest.fixture
def command(inputs: Path, tmp_path: Path) -> Iterator[Command]:
    running = Command(inputs, tmp_path / "out")
    yield running
    running.process.kill()
    running.process.communicate()


def alive(session: int) -> list[str]:
    return [p.name for p in processes() if p.session == session and p.state != DEAD]


def assert_ends_with_session(session: int, within_s: float) -> None:
    until = time.monotonic() + within_s
    while left := alive(session):
        assert time.monotonic() < until, left
        time.sleep(0.05)


def listening(session: int) -> set[str]:
    """Addresses on which the processes of a session listen."""
    inodes = set()
    for process in processes():
        if process.session == session:
            for link in Path(f"/proc/{process.pid}/fd").iterdir():
                if (target := os.readlink(link)).startswith("socket:["):
                    inodes.add(target[8:-1])
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                words = bytes.fromhex(fields[1].partition(":")[0])
                found.add(str(ip_address(b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4)))))
    return found


@pytest.mark.parametrize(
    ("victim", "when"),
    [
        ("raylet", "start"),
        ("gcs_server", "rendering"),
        pytest.param("gcs_server", "start", marks=pytest.mark.slow),
        pytest.param("raylet", "rendering", marks=pytest.mark.slow),
        pytest.param("driver", "rendering", marks=pytest.mark.slow),
    ],
)
def test_a_farm_whose_ray_dies_says_so_and_ends(command: Command, victim: str, when: str) -> None:
    command.wait_for(lambda: command.named("raylet" if victim == "driver" else victim))
    session = command.driver()
    if when == "rendering":
        command.wait_for(command.rendering)
    os.kill(session if victim == "driver" else command.named(victim), signal.SIGKILL)
    status, err = command.end()
    message, last = err.splitlines()
    assert message.startswith("animate-rt: farm: expected"), err
    assert victim == "driver" or f"its process {victim} died" in message or "to reach Ray" in message
    assert (status, last) == (69, "animate_error code=cluster retryable=1 status=69 shot=list")
    states = json.loads((command.output / "report.json").read_text())["states"]
    assert sum(states.values()) == 6
    assert (command.output / "index.html").is_file()
    assert_ends_with_session(session, within_s=5)


def test_a_killed_farm_leaves_no_process_and_its_ports_listen_on_loopback(command: Command) -> None:
    command.wait_for(command.rendering)
    session = command.driver()
    assert len(alive(session)) > 4
    with ray_folder() as other:
        folders = Path(other).parent.glob("farm-*")
    (folder,) = (path for path in folders if any(path.glob(f"session_*_{session}")))
    addresses = listening(session)
    assert addresses
    assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1", "::ffff:7f00:1"}
    command.process.kill()
    assert_ends_with_session(session, within_s=5)
    assert not folder.exists()


@pytest.mark.slow
def test_farms_killed_at_any_moment_leave_no_process(inputs: Path, tmp_path: Path) -> None:
    chance = random.Random(0)
    for turn in range(20):
        command = Command(inputs, tmp_path / f"out{turn}")
        command.wait_for(command.driver)
        session = command.driver()
        time.sleep(chance.uniform(0.0, 4.0))
        command.process.kill()
        command.process.communicate()
        assert_ends_with_session(session, within_s=5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("host", ["other", "own"])
def test_a_farm_in_a_cluster_of_others_ends_when_the_cluster_does(
    inputs: Path, tmp_path: Path, host: str
) -> None:
    """There is one other host, which runs the workers. Ray takes up to a minute to call a process dead."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        nodes = {"own": cluster.head_node, "other": cluster.add_node(num_cpus=2)}
        command = Command(inputs, tmp_path / "out", "--address", cluster.address)
        command.wait_for(command.rendering)
        nodes[host].all_processes["raylet"][0].process.kill()
        _, err = command.process.communicate(timeout=150)
        message, last = err.splitlines()
        assert message.startswith("animate-rt: farm: expected")
        assert last == "animate_error code=cluster retryable=1 status=69 shot=list"
        assert (command.output / "report.json").is_file()
    finally:
        cluster.shutdown()


class Stuck(Farm):
    """A farm whose Ray hangs at a given point, ends its process, or fails with an error that is not Ray's."""

    def __init__(self, inputs: Path, output: Path, run: Callable[[Stuck], None]):
        super().__init__(shots(inputs, output, [job("a"), job("b")]))
        self.act = run

    def run(self):
        self.show(self.report)
        self.act(self)
        return self.report


def end_process(_farm: Farm) -> None:
    os.write(
        2,
        b"[2026-11-28 10:30:48,438 E 1 1] core_worker.cc:247: Failed \x1b[31m to \xff register. Run `ray`.\n",
    )
    os._exit(1)


def hang(_farm: Farm) -> None:
    time.sleep(100)


def hang_after_the_last_shot(farm: Farm) -> None:
    for shot in farm.report.shots:
        shot.state = "done"
    farm.show(farm.report)
    time.sleep(100)


def be_wrong(_farm: Farm) -> None:
    raise KeyError("two\nlines")


def fail(_farm: Farm) -> None:
    raise ended("a test said so")


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (end_process, r"ClusterError: .*: core_worker.cc:247: Failed \\x1b\[31m to .* register; the same"),
        (hang, "ClusterError: .* it has not answered for 1 s"),
        (fail, "ClusterError: .* a test said so"),
        (be_wrong, "RuntimeError: KeyError: 'two"),
        (hang_after_the_last_shot, "done"),
    ],
)
def test_whatever_happens_to_the_driver_the_farm_ends(
    inputs: Path,
    tmp_path: Path,
    run: Callable[[Stuck], None],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(driver_module, "SILENCE_S", 1.0)
    monkeypatch.setattr(driver_module, "GRACE_S", 0.5)
    monkeypatch.setitem(sys.modules, "ray", None)
    farm = Stuck(inputs, tmp_path / "out", run)
    began_s = time.monotonic()
    if expected == "done":
        run_in_driver(farm)
        assert farm.report.states == {"done": 2}
    else:
        name, _, message = expected.partition(": ")
        with pytest.raises(Exception, match=message) as caught:
            run_in_driver(farm)
        assert type(caught.value).__name__ == name
        assert farm.report.states == {"waiting": 2}
    assert time.monotonic() - began_s < 10
