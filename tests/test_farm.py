"""Many shots on many workers: what dies, what is bad, and how well the workers are used."""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from animate_rt.__main__ import main
from animate_rt.engines.contract import REFERENCE_NET
from animate_rt.errors import DeviceError
from animate_rt.runtime.animator import Animator
from animate_rt.runtime.farm import farm as farm_module
from animate_rt.runtime.farm.cluster import connected
from animate_rt.runtime.farm.farm import Farm, Job, LostAttempt, Slot, choose, share_of
from animate_rt.runtime.farm.report import FarmReport, ShotReport
from animate_rt.runtime.farm.worker import ShotProgress, Worker, WorkerProcess
from animate_rt.runtime.shots.shot import Shot
from animate_rt.tests import fixed_cost  # not relative: workers import it, too

from .job_lists import NUM_POSES, job, shots, write_job_inputs

if not find_spec("ray"):
    pytest.skip("needs the extra farm", allow_module_level=True)

# Ray does not wait for the processes it has ended.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    yield
    gc.collect()  # while that warning is ignored


@pytest.fixture(scope="module")
def shared_ray() -> Iterator[Any]:
    """Starting one takes seconds."""
    with connected(None) as ray:
        yield ray


@pytest.fixture
def ray(shared_ray: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What farms in this process use, instead of one of their own."""
    monkeypatch.setattr(farm_module, "connected", lambda _address: nullcontext(shared_ray))
    return shared_ray


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bundle/, three references and pose/ of 8 pictures."""
    return write_job_inputs(tmp_path_factory.mktemp("inputs"))


def results(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def run(made: list[Shot], open_animator: Callable[[Path], Animator], **options: Any) -> FarmReport:
    return Farm(made, open_animator=open_animator, **options).run()


def test_a_shot_goes_where_its_reference_is() -> None:
    def waiting(*references: str) -> list[Job]:
        options: dict[str, Any] = {"name": "", "pose": Path(), "output": None, "bundle": Path("b")}
        return [Job(Shot(reference=Path(r), **options), ShotReport("")) for r in references]

    a, b, c = waiting("a", "b", "c")
    assert choose([a, b, c], b.key, {a.key}) is b
    assert choose([a, c], b.key, {a.key}) is c
    assert choose([a], b.key, {a.key}) is a
    assert choose([], b.key, set()) is None
    d, e = waiting("d", "e")
    d.shot = replace(d.shot, bundle=Path("other"))
    assert choose([d, e], c.key, set()) is e  # of the bundle that is loaded
    assert choose([d, e], c.key, {e.key}) is d


def test_workers_fit_their_hosts_and_have_cpus_of_their_own(inputs: Path, tmp_path: Path) -> None:
    assert [share_of([16], n) for n in (1, 4, 5)] == [16, 4, 3]
    assert share_of([3, 3], 1) == 3
    assert share_of([1, 64], 16) == 4
    assert share_of([2], 8) == 0.25
    farm = Farm(shots(inputs, tmp_path / "out", [job("a")]))
    farm.slots = [Slot(i) for i in range(3)]
    for index, host in ((2, "x"), (0, "x"), (1, "y")):
        farm._arrived(farm.slots[index], WorkerProcess(host, 1))
    assert [slot.rank for slot in farm.slots] == [1, 0, 0]
    farm.slots[2].where = None  # it died
    farm._arrived(farm.slots[2], WorkerProcess("x", 2))
    assert [slot.rank for slot in farm.slots] == [1, 0, 0]

    seen = []

    def open_animator(bundle: Path) -> Animator:
        seen.append(os.sched_getaffinity(0))
        return fixed_cost.open_animator(bundle)

    worker, (shot,) = Worker(open_animator), shots(inputs, tmp_path / "out", [job("a")])
    for cpus in (range(1), range(1, 2)):  # Ray runs each call in any thread
        worker.bundle = None
        thread = threading.Thread(target=worker.make, args=(shot, True, cpus))
        thread.start()
        thread.join()
    assert seen == [{cpu} for cpu in worker.cpus[:2]]


def test_what_is_reported() -> None:
    made = ShotReport("resumed", state="making")
    made.stands(0.0, 0, 0)  # not there yet
    made.stands(0.5, 3, 3)
    made.stands(1.0, 3, 8)
    made.stands(1.0, 8, 8)  # by another attempt
    report = FarmReport([made, ShotReport("already", state="done", num_frames=8, num_before=8)], wall_s=1.0)
    assert (made.num_frames, made.num_before, report.num_frames) == (8, 3, 5)
    assert report.document()["frames_per_second"] == 5
    assert int(1000 * report.share) < 1000  # not before all is over


@pytest.mark.parametrize(
    ("lost", "resumed", "expected"),
    [
        (LostAttempt(ShotProgress(0.0, 0.5), 10.0, 10.0), 0.5, 0.0),
        (LostAttempt(ShotProgress(0.0, 0.5), 10.0, 10.0), 0.25, 5.0),
        (LostAttempt(ShotProgress(0.0, 0.5), 10.0, 11.0), 0.55, 0.0),  # it was asked a second before it died
        (LostAttempt(ShotProgress(0.5, 0.9), 10.0, 11.0), 0.6, 8.5),
        (LostAttempt(ShotProgress(0.5, 0.5), 0.0, 10.0), 0.5, 10.0),  # it died before it had come further
    ],
)
def test_how_much_of_an_attempt_was_for_nothing(lost: LostAttempt, resumed: float, expected: float) -> None:
    assert lost.wasted_s(resumed) == pytest.approx(expected)


@pytest.mark.usefixtures("ray")
def test_poison_is_set_aside_and_the_rest_goes_on(inputs: Path, tmp_path: Path) -> None:
    """Five kinds of it: four bad inputs, and a crash of the whole process. What may pass is tried again."""
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
    assert all(name.startswith(".crash.") for name in kept)  # it may be tried again


@pytest.mark.usefixtures("ray")
def test_workers_on_bad_hosts(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices that are broken do not eat the list; a place where none can start stops nobody else."""
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
    assert (len(farm.slots), farm.report.missing) == (1, "")
    nowhere = Farm(
        shots(inputs, tmp_path / "nowhere", jobs[:1]),
        open_animator=fixed_cost.Unreachable(tmp_path, survivors=0),
    )
    with pytest.raises(DeviceError, match="expected workers to start, they died"):
        nowhere.run()
    assert nowhere.report.states == {"waiting": 1}
    assert "CPUs to spare" in nowhere.report.missing


@pytest.mark.usefixtures("ray")
def test_the_command(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of it cannot be made: a status, a report, lines and a page say so. Forced, all is made anew."""
    monkeypatch.setitem(Farm.__init__.__kwdefaults__, "open_animator", fixed_cost.open_animator)
    path, output = inputs / "list.jsonl", tmp_path / "out"
    path.write_text("".join(json.dumps(line) + "\n" for line in (job("one"), job("two", frames="5-50"))))
    command = ["farm", str(path), "--output", str(output), "--workers", "1"]
    assert main([*command, "--progress", "json"]) == 1
    out, err = capsys.readouterr()
    told, last = err.splitlines()
    assert told.startswith("animate-rt: 1 of 2 shots were set aside: two;")
    assert last == "animate_error code=shots_failed retryable=0 status=1 shot=list"
    lines = [json.loads(line) for line in out.splitlines()]
    assert {"progress", "end", "fail"} == {line["event"] for line in lines}
    assert (lines[-2]["states"], lines[-2]["frames"]) == ({"done": 1, "failed": 1}, NUM_POSES)
    report = json.loads((output / "report.json").read_text())
    assert report["states"] == {"done": 1, "failed": 1}
    page = (output / "index.html").read_text()
    assert page.count('class="failed"') == page.count("<img") == 1
    before = (output / "one.mp4").stat().st_mtime_ns
    assert main(command) == 1
    assert "already" in capsys.readouterr().out
    assert (output / "one.mp4").stat().st_mtime_ns == before
    assert main([*command, "--force"]) == 1
    assert "already" not in capsys.readouterr().out
    assert (output / "one.mp4").stat().st_mtime_ns > before


FARM = (
    "import sys; from functools import partial; from animate_rt.runtime.farm.farm import Farm;"
    "from animate_rt.tests.fixed_cost import open_animator; from animate_rt.__main__ import main;"
    "opened = partial(open_animator, cost_s=float(sys.argv.pop()));"
    "Farm.__init__.__kwdefaults__['open_animator'] = opened; sys.exit(main(sys.argv[1:]))"
)


def test_a_cluster_that_was_started_somewhere_else(ray: Any, inputs: Path, tmp_path: Path) -> None:
    """Paths that are relative to the folder of the command are none to its workers."""
    (inputs / "there.jsonl").write_text(json.dumps(job("one")) + "\n")
    address = ray.get_runtime_context().gcs_address
    output = os.path.relpath(tmp_path / "out", inputs)
    arguments = ["farm", "there.jsonl", "--output", output, "--address", address, "--workers", "1", "0"]
    done = subprocess.run(
        [sys.executable, "-c", FARM, *arguments], cwd=inputs, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "report.json").read_text())["states"] == {"done": 1}


def test_what_is_done_is_left_alone(inputs: Path, tmp_path: Path) -> None:
    made = shots(inputs, tmp_path / "out", [job("a"), job("b", format="png", first_number=1001)])
    worker = Worker(fixed_cost.open_animator)  # in this process
    assert [worker.make(shot).shot_progress.num_frames for shot in made] == [NUM_POSES] * 2
    assert worker.animator.session.engines[REFERENCE_NET].runs == 1
    assert worker.shot_progress("b") == ShotProgress(0.0, 1.0, 0, NUM_POSES)
    assert worker.shot_progress("of another shot") == ShotProgress()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    for shot in made:
        assert worker.make(shot).already
        assert worker.make(shot).shot_progress.num_frames == NUM_POSES
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    assert (tmp_path / "out" / "b" / "01001.png").is_file()
    (tmp_path / "out" / "a.mp4").write_bytes(b"broken")
    assert [worker.make(shot).already for shot in made] == [False, True]
    assert [worker.make(shot, force=True).shot_progress.num_frames for shot in made] == [NUM_POSES] * 2
    assert before.keys() == set((tmp_path / "out").rglob("*"))


class Killer:
    """Kills a random worker that is making a shot, every so many seconds."""

    def __init__(self, farm: Farm, every_s: float, most: int):
        self.farm, self.every_s, self.most, self.kills = farm, every_s, most, 0
        self.chance = random.Random(0)
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        while self.kills < self.most and not self.over.wait(self.every_s):
            busy = [slot.where for slot in self.farm.slots if slot.where and slot.job]
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
    [(4, 1.5, 0.06), pytest.param(20, 3.0, 0.15, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])],
)
def test_workers_that_are_killed(
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
    quiet = Worker(fixed_cost.open_animator)  # in this process
    for shot in shots(inputs, tmp_path / "quiet", jobs):
        assert not quiet.make(shot).error
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
    assert results(tmp_path / "killed") == results(tmp_path / "quiet")
    busy_s = sum(shot.busy_s for shot in report.shots)
    assert 0 <= document["wasted_s"] < busy_s  # of two kills, an estimate may be that there was none
    assert document["wasted_s"] or num_shots == 4


def throughput(report: FarmReport) -> float:
    """Shots per second while all workers were at work: neither the start of processes nor the end counts."""
    spans = [(shot.worker, shot.began_s, shot.ended_s) for shot in report.shots]
    workers = {worker for worker, _, _ in spans}
    begin = max(min(b for w, b, _ in spans if w == worker) for worker in workers)
    end = min(max(e for w, _, e in spans if w == worker) for worker in workers)
    done = sum(max(min(e, end) - max(b, begin), 0) / (e - b) for _, b, e in spans)
    return done / (end - begin)


@pytest.mark.usefixtures("ray")
@pytest.mark.parametrize(
    ("most", "shots_each", "cost_s", "turns"),
    [(2, 2, 0.03, 3), pytest.param(8, 6, 0.3, 1, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])],
)
def test_scaling(
    inputs: Path,
    tmp_path: Path,
    most: int,
    shots_each: int,
    cost_s: float,
    turns: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A UNet that takes a fixed time and no CPU: what is lost is the farm's. In turns, and the best of each
    number of workers: what else the machine does in some of them is not the farm's."""
    found: dict[int, float] = {}
    for turn in range(turns):
        num_workers = 1
        while num_workers <= most:
            jobs = [job(f"shot{i:03}", seed=i) for i in range(shots_each * num_workers)]
            made = shots(inputs, tmp_path / f"on{num_workers}-{turn}", jobs)
            report = run(made, partial(fixed_cost.open_animator, cost_s=cost_s), num_workers=num_workers)
            assert report.states["done"] == len(made)
            found[num_workers] = max(found.get(num_workers, 0), throughput(report))
            num_workers *= 2
    efficiency = {n: rate / (n * found[1]) for n, rate in found.items()}
    with capsys.disabled():
        print("\nefficiency: " + ", ".join(f"{n} workers {e:.3f}" for n, e in efficiency.items()))
    assert min(efficiency.values()) >= (0.95 if most == 8 else 0.8)


def test_without_home_terminal_writable_folder_or_utf8(inputs: Path, tmp_path: Path) -> None:
    """The farm and Ray in an environment with nothing in it but a long path, ASCII forced. Stopped by SIGTERM
    it leaves a report and no process; the same command then finishes it."""
    folder, read_only, temporary = tmp_path / "out", tmp_path / "read only", tmp_path / ("long" * 20)
    read_only.mkdir(mode=0o555)
    temporary.mkdir()
    (inputs / "few.jsonl").write_text("".join(json.dumps(job(name)) + "\n" for name in ("one", "two")))
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "LC_ALL": "POSIX",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONUTF8": "0",
        "TMPDIR": str(temporary),
    }

    def start(cost_s: str) -> subprocess.Popen[str]:
        arguments = ["farm", str(inputs / "few.jsonl"), "--output", str(folder), "--workers", "1", cost_s]
        return subprocess.Popen(
            [sys.executable, "-c", FARM, *arguments],
            env=environment,
            cwd=read_only,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    stopped = start("0.5")
    while not any(folder.glob(".*/snapshot.npz")):
        assert stopped.poll() is None, stopped.stderr and stopped.stderr.read()
        time.sleep(0.1)
    stopped.send_signal(signal.SIGTERM)
    _, err = stopped.communicate(timeout=60)
    assert (stopped.returncode, "Traceback" in err) == (143, False), err
    assert json.loads((folder / "report.json").read_text())["states"] == {"making": 1, "waiting": 1}
    finished = start("0")
    _, err = finished.communicate(timeout=60)
    assert finished.returncode == 0, err
    names = [f"{name}{suffix}" for name in ("one", "two") for suffix in (".mp4", ".mp4.json", ".sheet.png")]
    assert sorted(p.name for p in folder.iterdir()) == ["index.html", *names[:3], "report.json", *names[3:]]
    assert list(read_only.iterdir()) == []
    assert list(temporary.iterdir()) == []
    for _ in range(100):  # Ray does not wait for the processes it has ended
        if not (left := processes_with(str(temporary))):
            break
        time.sleep(0.1)
    assert not left


@pytest.mark.slow
def test_workers_that_ray_kills_for_want_of_memory(inputs: Path, tmp_path: Path) -> None:
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


def processes_with(text: str) -> list[str]:
    """Command lines of the processes that have it in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if text.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text())
    return found
