"""A farm: how shots and CPUs are assigned to workers, what is reported, and how throughput scales."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from animate_rt.__main__ import main
from animate_rt.engines.contract import REFERENCE_NET
from animate_rt.runtime.animator import Animator
from animate_rt.runtime.farm.farm import Farm, Job, Slot, choose, share_of
from animate_rt.runtime.farm.report import FarmReport, ShotReport
from animate_rt.runtime.farm.worker import ShotProgress, Worker, WorkerProcess
from animate_rt.runtime.shots.shot import Shot
from animate_rt.tests import fixed_cost  # not relative: workers import it, too

from . import ray_cluster
from .job_lists import NUM_POSES, job, shots
from .ray_cluster import FARM, run
from .slow import SLOW

if not find_spec("ray"):
    pytest.skip("needs the extra farm", allow_module_level=True)

# Ray does not wait for processes that it has ended.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

collected, shared_ray = ray_cluster.collected, ray_cluster.shared_ray
ray, inputs = ray_cluster.ray, ray_cluster.inputs


def test_workers_prefer_shots_whose_reference_they_have() -> None:
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
    assert choose([d, e], c.key, set()) is e  # its bundle is the loaded one
    assert choose([d, e], c.key, {e.key}) is d


def test_workers_of_a_host_get_separate_cpus(inputs: Path, tmp_path: Path) -> None:
    assert [share_of([16], n) for n in (1, 4, 5)] == [16, 4, 3]
    assert share_of([3, 3], 1) == 3
    assert share_of([1, 64], 16) == 4
    assert share_of([2], 8) == 0.25
    farm = Farm(shots(inputs, tmp_path / "out", [job("a")]))
    farm.slots = [Slot(i) for i in range(3)]
    for index, host in ((2, "x"), (0, "x"), (1, "y")):
        farm._on_start(farm.slots[index], WorkerProcess(host, 1))
    assert [slot.rank for slot in farm.slots] == [1, 0, 0]
    farm.slots[2].process = None  # it died
    farm._on_start(farm.slots[2], WorkerProcess("x", 2))
    assert [slot.rank for slot in farm.slots] == [1, 0, 0]

    seen = []

    def open_animator(bundle: Path) -> Animator:
        seen.append(os.sched_getaffinity(0))
        return fixed_cost.open_animator(bundle)

    worker, (shot,) = Worker(open_animator), shots(inputs, tmp_path / "out", [job("a")])
    for cpus in (range(1), range(1, 2)):  # Ray may run each call in another thread
        worker.bundle = None
        thread = threading.Thread(target=worker.make, args=(shot, True, cpus))
        thread.start()
        thread.join()
    assert seen == [{cpu} for cpu in worker.cpus[:2]]


def test_reports_count_the_frames_that_this_run_made() -> None:
    made = ShotReport("resumed", state="making")
    made.update(0.0, 0, 0)  # no progress yet
    made.update(0.5, 3, 3)
    made.update(1.0, 3, 8)
    made.update(1.0, 8, 8)  # a later attempt found 8 frames finished
    report = FarmReport([made, ShotReport("already", state="done", num_frames=8, num_before=8)], wall_s=1.0)
    assert (made.num_frames, made.num_before, report.num_frames) == (8, 3, 5)
    assert report.document()["frames_per_second"] == 5
    assert int(1000 * report.share) < 1000  # below 100 % until every shot has finished


@pytest.mark.usefixtures("ray")
def test_the_command_reports_a_failed_shot(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One shot of two fails: exit status, messages, report and page say so. --force makes both again."""
    monkeypatch.setitem(Farm.__init__.__kwdefaults__, "open_animator", fixed_cost.open_animator)
    path, output = inputs / "list.jsonl", tmp_path / "out"
    path.write_text("".join(json.dumps(line) + "\n" for line in (job("one"), job("two", frames="5-50"))))
    command = ["farm", str(path), "--output", str(output), "--workers", "1"]
    assert main([*command, "--progress", "json"]) == 1
    out, err = capsys.readouterr()
    message, last = err.splitlines()
    assert message.startswith("animate-rt: 1 of 2 shots failed: two;")
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


def test_joining_a_running_cluster_from_another_folder(ray: Any, inputs: Path, tmp_path: Path) -> None:
    """Relative paths refer to the command's folder, although the workers run in another one."""
    (inputs / "there.jsonl").write_text(json.dumps(job("one")) + "\n")
    address = ray.get_runtime_context().gcs_address
    output = os.path.relpath(tmp_path / "out", inputs)
    arguments = ["farm", "there.jsonl", "--output", output, "--address", address, "--workers", "1", "0"]
    done = subprocess.run(
        [sys.executable, "-c", FARM, *arguments], cwd=inputs, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "report.json").read_text())["states"] == {"done": 1}


def test_finished_shots_are_not_made_again(inputs: Path, tmp_path: Path) -> None:
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


def throughput(report: FarmReport) -> float:
    """Shots per second from when every worker has begun its first shot to when one has ended its last."""
    spans = [(shot.worker, shot.began_s, shot.ended_s) for shot in report.shots]
    workers = {worker for worker, _, _ in spans}
    begin = max(min(b for w, b, _ in spans if w == worker) for worker in workers)
    end = min(max(e for w, _, e in spans if w == worker) for worker in workers)
    done = sum(max(min(e, end) - max(b, begin), 0) / (e - b) for _, b, e in spans)
    return done / (end - begin)


@pytest.mark.usefixtures("ray")
@pytest.mark.parametrize(
    ("most", "shots_each", "cost_s", "turns"),
    [(2, 2, 0.03, 12), pytest.param(8, 6, 0.3, 1, marks=SLOW)],
)
def test_throughput_scales_with_the_number_of_workers(
    inputs: Path,
    tmp_path: Path,
    most: int,
    shots_each: int,
    cost_s: float,
    turns: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The UNet takes a fixed time and no CPU, so any loss of efficiency is the farm's. The best of up to
    `turns` counts for each number of workers, as other load on the machine slows some of them."""
    found: dict[int, float] = {}
    least = 0.95 if most == 8 else 0.8
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
        if min(efficiency.values()) >= least:
            break
    with capsys.disabled():
        print("\nefficiency: " + ", ".join(f"{n} workers {e:.3f}" for n, e in efficiency.items()))
    assert min(efficiency.values()) >= least


def test_the_farm_runs_without_home_terminal_writable_folder_or_utf8(inputs: Path, tmp_path: Path) -> None:
    """The farm and Ray run with an almost empty environment, a long TMPDIR and the ASCII locale. Stopped by
    SIGTERM the farm leaves a report and no process; the same command then finishes the shots."""
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
    for _ in range(100):  # Ray does not wait for processes that it has ended
        if not (left := processes_with(str(temporary))):
            break
        time.sleep(0.1)
    assert not left


def processes_with(text: str) -> list[str]:
    """Command lines of the processes that have `text` in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if text.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text())
    return found
