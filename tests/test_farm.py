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
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from animate_rt.__main__ import main
from animate_rt.runtime.animator import Animator
from animate_rt.runtime.farm import Farm, Job, Lost, choose
from animate_rt.runtime.jobs import read_jobs
from animate_rt.runtime.report import FarmReport, ShotReport
from animate_rt.runtime.shot import Shot
from animate_rt.runtime.worker import Standing, Worker
from animate_rt.tests import fixed_cost  # not relative: workers import it, too
from PIL import Image

if not find_spec("ray"):
    pytest.skip("needs the extra farm", allow_module_level=True)

# Ray does not wait for the processes it has ended.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

NUM_POSES = 8


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    yield
    gc.collect()  # while that warning is ignored


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bundle/, three references and pose/ of 8 pictures."""
    folder = tmp_path_factory.mktemp("inputs")
    fixed_cost.hollow_bundle(folder / "bundle")
    chance = np.random.default_rng(0)
    size = (fixed_cost.HEIGHT, fixed_cost.WIDTH, 3)
    (folder / "pose").mkdir()
    for i in range(NUM_POSES):
        Image.fromarray(chance.integers(0, 256, size, np.uint8)).save(folder / "pose" / f"{i}.png")
    for i in range(3):
        Image.fromarray(chance.integers(0, 256, size, np.uint8)).save(folder / f"reference{i}.png")
    return folder


def job(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "name": name,
        "bundle": "bundle",
        "reference": "reference0.png",
        "pose": "pose",
        "steps": 4,
    } | fields


def shots(inputs: Path, output: Path, jobs: list[dict[str, Any]]) -> list[Shot]:
    output.mkdir(exist_ok=True)
    path = inputs / f"{output.name}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in jobs))
    found, errors = read_jobs(path, output)
    assert not errors
    return found


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


@pytest.mark.parametrize(
    ("lost", "resumed", "expected"),
    [
        (Lost(Standing(0.0, 0.5), 10.0, 10.0), 0.5, 0.0),
        (Lost(Standing(0.0, 0.5), 10.0, 10.0), 0.25, 5.0),
        (Lost(Standing(0.0, 0.5), 10.0, 11.0), 0.55, 0.0),  # it was asked a second before it died
        (Lost(Standing(0.5, 0.9), 10.0, 11.0), 0.6, 8.5),
        (Lost(Standing(0.5, 0.5), 0.0, 10.0), 0.5, 10.0),  # it died before it had come further
    ],
)
def test_how_much_of_an_attempt_was_for_nothing(lost: Lost, resumed: float, expected: float) -> None:
    assert lost.wasted_s(resumed) == pytest.approx(expected)


def test_bad_lines_are_told_all_at_once(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [
        ("{", "cannot read it"),
        ("[1, 2]", "expected an object"),
        (json.dumps({"name": "x", "pose": "pose"}), "missing bundle, reference"),
        (json.dumps(job("x1", colour="red")), "unknown colour"),
        (json.dumps(job("x2", steps="many")), 'steps: expected int, found "many"'),
        (json.dumps(job("../x")), "name: expected up to 100"),
        (json.dumps(job("good")), "found good on line 1"),
        (json.dumps(job("x3", pose="none.mp4")), "pose: expected a video or directory of pictures, found no"),
        (json.dumps(job("x4", bundle="pose")), "expected a bundle"),
        (json.dumps(job("x5", steps=0)), "steps: expected 1 to 1000"),
        (json.dumps(job("x6", overlap=99)), "overlap: expected 0 to 3"),
        (json.dumps(job("x7", order="time-skewed")), "expected open windows"),
        (json.dumps(job("x8", frames="9-3")), "frames: expected at least 1"),
        (json.dumps(job("x9", fps="fast")), "expected frames per second"),
        (json.dumps(job("x10", format="gif")), "format: expected mp4 or png"),
    ]
    path = inputs / "bad.jsonl"
    path.write_text("\n".join([json.dumps(job("good")), "", *(line for line, _ in bad)]))
    assert main(["farm", str(path), "--output", str(tmp_path / "out")]) == 65
    *told, last = capsys.readouterr().err.splitlines()
    assert len(told) == len(bad)
    for number, (line, (_, part)) in enumerate(zip(told, bad, strict=True), start=3):
        assert line.startswith(f"animate-rt: {path}:{number}: ")
        assert part in line
    assert f"found {len(bad)} bad; nothing was started" in last
    assert list((tmp_path / "out").iterdir()) == []


def test_poison_is_set_aside_and_the_rest_goes_on(inputs: Path, tmp_path: Path) -> None:
    """Five kinds of it: four bad inputs, and a crash of the whole process."""
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
    ]
    made = shots(inputs, tmp_path / "out", jobs)
    report = run(made, fixed_cost.open_deadly_animator, num_workers=2, tries=2)
    failed = {shot.name: shot for shot in report.shots if shot.state == "failed"}
    assert failed.keys() == {"damaged", "empty", "range", "noise", "crash"}
    assert {shot.name for shot in report.shots if shot.state == "done"} == {f"good{i}" for i in range(4)}
    assert (failed["crash"].attempts, failed["crash"].deaths, failed["crash"].code) == (2, 2, "worker_died")
    assert (failed["damaged"].attempts, failed["damaged"].code) == (1, "input")
    assert "found 8" in failed["range"].error
    kept = [path.name for path in (tmp_path / "out").iterdir() if path.suffix == ".partial"]
    assert all(name.startswith(".crash.") for name in kept)  # it may be tried again


def test_the_command(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Engines that are not there: all is set aside, with a status, a report and a page that say so."""
    path = inputs / "list.jsonl"
    path.write_text("".join(json.dumps(job(name)) + "\n" for name in ("one", "two")))
    output = tmp_path / "out"
    assert main(["farm", str(path), "--output", str(output), "--workers", "1"]) == 1
    out, err = capsys.readouterr()
    assert err.splitlines()[-1].startswith("animate-rt: 2 of 2 shots were set aside: one, two;")
    report = json.loads((output / "report.json").read_text())
    assert report["states"] == {"failed": 2}
    assert "one" in out
    page = (output / "index.html").read_text()
    assert page.count('class="failed"') == 2


def test_what_is_done_is_left_alone(inputs: Path, tmp_path: Path) -> None:
    made = shots(inputs, tmp_path / "out", [job("a"), job("b", format="png", first_number=1001)])
    worker = Worker(fixed_cost.open_animator)  # in this process
    assert [worker.make(shot, force=False).num_frames for shot in made] == [NUM_POSES] * 2
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert all(worker.make(shot, force=False).already for shot in made)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    assert (tmp_path / "out" / "b" / "01001.png").is_file()
    (tmp_path / "out" / "a.mp4").write_bytes(b"broken")
    assert [worker.make(shot, force=False).already for shot in made] == [False, True]
    assert [worker.make(shot, force=True).num_frames for shot in made] == [NUM_POSES] * 2
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
        assert not quiet.make(shot, force=False).error
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
    assert 0 < document["wasted_s"] < busy_s


def throughput(report: FarmReport) -> float:
    """Shots per second while all workers were at work: neither the start of processes nor the end counts."""
    spans = [(shot.worker, shot.began_s, shot.ended_s) for shot in report.shots]
    workers = {worker for worker, _, _ in spans}
    begin = max(min(b for w, b, _ in spans if w == worker) for worker in workers)
    end = min(max(e for w, _, e in spans if w == worker) for worker in workers)
    done = sum(max(min(e, end) - max(b, begin), 0) / (e - b) for _, b, e in spans)
    return done / (end - begin)


@pytest.mark.parametrize(
    ("most", "shots_each", "cost_s"),
    [(2, 2, 0.03), pytest.param(8, 6, 0.3, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])],
)
def test_scaling(
    inputs: Path,
    tmp_path: Path,
    most: int,
    shots_each: int,
    cost_s: float,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A UNet that takes a fixed time and no CPU: what is lost is the farm's."""
    found: dict[int, float] = {}
    num_workers = 1
    while num_workers <= most:
        jobs = [job(f"shot{i:03}", seed=i) for i in range(shots_each * num_workers)]
        made = shots(inputs, tmp_path / f"on{num_workers}", jobs)
        report = run(made, partial(fixed_cost.open_animator, cost_s=cost_s), num_workers=num_workers)
        assert report.states["done"] == len(made)
        found[num_workers] = throughput(report)
        num_workers *= 2
    efficiency = {n: rate / (n * found[1]) for n, rate in found.items()}
    with capsys.disabled():
        print("\nefficiency: " + ", ".join(f"{n} workers {e:.3f}" for n, e in efficiency.items()))
    assert min(efficiency.values()) >= (0.95 if most == 8 else 0.8)


def test_without_home_terminal_writable_folder_or_utf8(inputs: Path, tmp_path: Path) -> None:
    """The farm and Ray in an environment with nothing in it, ASCII forced."""
    folder = tmp_path / "out"
    folder.mkdir()
    path = inputs / "one.jsonl"
    path.write_text(json.dumps(job("one")) + "\n")
    read_only = tmp_path / "read only"
    read_only.mkdir(mode=0o555)
    script = (
        "import sys; from pathlib import Path; from animate_rt.runtime.farm import Farm;"
        "from animate_rt.runtime.jobs import read_jobs;"
        "from animate_rt.tests.fixed_cost import open_animator;"
        "made, errors = read_jobs(Path(sys.argv[1]), Path(sys.argv[2]));"
        "report = Farm(made, open_animator=open_animator, num_workers=1).run();"
        "sys.exit(bool(errors) or report.states['done'] != 1)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path), str(folder)],
        env={"PATH": os.environ["PATH"], "LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        cwd=read_only,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in folder.iterdir()) == ["one.mp4", "one.mp4.json", "one.sheet.png"]
    assert list(read_only.iterdir()) == []
