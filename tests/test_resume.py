"""A clip that is killed goes on from what is kept of it, and is bit for bit what it would have been."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from animate_rt.errors import InputError, InputMissing, OutputError
from animate_rt.runtime.clip.snapshot import Snapshot
from animate_rt.runtime.shots import output as output_module
from animate_rt.runtime.shots.output import Output
from animate_rt.runtime.shots.resume import SNAPSHOT, PartialClip
from animate_rt.runtime.shots.shot import Shot, is_done, make

from .fixed_cost import HEIGHT, WIDTH, example, open_animator, write_inputs

NUM_POSES = 11


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bundle/, reference.png and pose/ of 11 pictures."""
    return write_inputs(tmp_path_factory.mktemp("inputs"), NUM_POSES)


class Stopped(Exception):
    pass


def make_until(shot: Shot, num_calls: int, *, force: bool = False) -> bool:
    """Make a shot that is stopped at so many calls of its progress; whether it came to its end before."""
    calls = 0

    def progress(_progress: object) -> None:
        nonlocal calls
        calls += 1
        if calls > num_calls:
            raise Stopped

    with open_animator(shot.bundle) as animator:
        try:
            make(shot, animator, shot.digest(), force=force, progress=progress)
        except Stopped:
            return False
    return True


def result(folder: Path) -> dict[str, bytes]:
    """Every file in it, hidden ones and sidecars included."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


SHAPES = [
    {"windows": "uniform"},
    {"windows": "open", "order": "step-major"},
    {"windows": "open", "order": "time-skewed"},
    {"windows": "open", "order": "time-skewed", "guidance_scale": 1.0},
]


@pytest.mark.parametrize("options", SHAPES)
@pytest.mark.parametrize("name", ["out.mp4", "frames"])
def test_stopped_at_every_moment_it_tells_of(
    inputs: Path, tmp_path: Path, options: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PartialClip, "due", lambda _kept: True)  # a snapshot after every task
    (tmp_path / "quiet").mkdir()
    (tmp_path / "stopped").mkdir()
    assert make_until(example(inputs, tmp_path / "quiet" / name, steps=3, **options), 10**9)
    shot = example(inputs, tmp_path / "stopped" / name, steps=3, **options)
    num_stops = 0
    # Reading the poses alone takes 14 calls, and while frames finish out of order nothing is kept.
    while not make_until(shot, (16, 17, 30)[num_stops % 3]):
        assert not shot.output.path.exists()
        num_stops += 1
        assert num_stops < 100
    assert num_stops >= 3
    assert result(tmp_path / "stopped") == result(tmp_path / "quiet")
    assert is_done(shot, shot.digest())


def test_nothing_that_is_kept_is_made_again(inputs: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(PartialClip, "due", lambda _kept: True)
    shot = example(inputs, tmp_path / "frames", steps=3, windows="open", order="time-skewed")
    seen = []

    def stop(progress: Any) -> None:
        if progress.stage == "decode" and progress.done == 7:
            raise Stopped

    with open_animator(shot.bundle) as animator:
        with pytest.raises(Stopped):
            make(shot, animator, shot.digest(), progress=stop)
        made = make(shot, animator, shot.digest(), progress=seen.append)
    assert (made.num_frames, made.num_kept) == (NUM_POSES, 6)
    decode = [progress.done for progress in seen if progress.stage == "decode"]
    denoise = [progress.done for progress in seen if progress.stage == "denoise"]
    assert decode == list(range(6, NUM_POSES + 1))
    assert denoise[0] > 0
    assert denoise == list(range(denoise[0], seen[-1].total and denoise[-1] + 1))


@pytest.mark.parametrize("damage", ["snapshot", "frame", "both", "cut"])
def test_what_is_damaged_is_made_again(inputs: Path, tmp_path: Path, damage: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(PartialClip, "due", lambda _kept: True)
    (tmp_path / "quiet").mkdir()
    (tmp_path / "damaged").mkdir()
    options: dict[str, Any] = {"steps": 3, "windows": "open", "order": "time-skewed"}
    assert make_until(example(inputs, tmp_path / "quiet" / "frames", **options), 10**9)
    shot = example(inputs, tmp_path / "damaged" / "frames", **options)
    assert not make_until(shot, 40)
    (kept,) = (tmp_path / "damaged").iterdir()
    frames = sorted((kept / "frames").iterdir())
    assert len(frames) > 2
    if damage in ("snapshot", "both"):
        content = bytearray((kept / SNAPSHOT).read_bytes())
        content[len(content) // 2] ^= 1
        (kept / SNAPSHOT).write_bytes(content)
    if damage in ("frame", "both"):
        content = bytearray(frames[1].read_bytes())
        content[len(content) // 2] ^= 1
        frames[1].write_bytes(content)
    if damage == "cut":
        frames[1].write_bytes(frames[1].read_bytes()[:-20])
        frames[2].write_bytes(b"")
    assert make_until(shot, 10**9)
    assert result(tmp_path / "damaged") == result(tmp_path / "quiet")


def test_other_options_begin_anew_and_leave_nothing_behind(inputs: Path, tmp_path: Path) -> None:
    assert not make_until(example(inputs, tmp_path / "out.mp4", steps=3), 18)
    assert [path.suffix for path in tmp_path.iterdir()] == [".partial"]
    assert make_until(example(inputs, tmp_path / "out.mp4", steps=2), 10**9)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mp4", "out.mp4.json"]


def test_bad_inputs_leave_nothing_behind(inputs: Path, tmp_path: Path) -> None:
    shot = example(inputs, tmp_path / "out.mp4", steps=3, frames="5-50")
    with open_animator(shot.bundle) as animator, pytest.raises(InputError, match="found 11"):
        make(shot, animator, shot.digest())
    assert list(tmp_path.iterdir()) == []


def test_an_input_that_is_gone_for_a_moment_costs_nothing(inputs: Path, tmp_path: Path) -> None:
    shutil.copy(inputs / "reference.png", tmp_path / "reference.png")
    shot = replace(example(inputs, tmp_path / "out.mp4", steps=3), reference=tmp_path / "reference.png")
    assert not make_until(shot, 18)
    before, digest = result(tmp_path), shot.digest()
    (tmp_path / "reference.png").unlink()
    with open_animator(shot.bundle) as animator, pytest.raises(InputMissing):
        make(shot, animator, digest)
    assert result(tmp_path) == {name: file for name, file in before.items() if name != "reference.png"}


def test_forced_it_is_made_anew_whoever_goes_on(inputs: Path, tmp_path: Path) -> None:
    for name in ("out.mp4", "frames"):
        shot = example(inputs, tmp_path / name, steps=3)
        assert make_until(shot, 10**9)
        assert not make_until(shot, 18, force=True)
        assert shot.output.path.exists()
        assert not is_done(shot, shot.digest())
        assert make_until(example(inputs, tmp_path / name, steps=3), 10**9)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "frames",
        "frames.json",
        "out.mp4",
        "out.mp4.json",
    ]


def test_two_processes_with_the_same_frames_publish_them_once(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is there between the other's last look at the frames and their taking their place."""
    shot = example(inputs, tmp_path / "frames", steps=3)
    real, digest = output_module.hashes, shot.digest()

    def hashes(files: Any) -> dict[str, str]:
        monkeypatch.setattr(output_module, "hashes", real)
        found = real(files)
        shot.output.publish(kept.frames, digest, {})
        return found

    with PartialClip(shot.output, digest) as kept:
        shot.output.save(kept.frame(0), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
        monkeypatch.setattr(output_module, "hashes", hashes)
        with pytest.raises(OutputError):
            shot.output.publish(kept.frames, digest, {})
        assert is_done(shot, digest)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frames", "frames.json"]


CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree")


def made_by_another(shot: Shot, kill_at: int = -1, count: Path | None = None) -> int:
    """The exit status of a process that makes a shot, and is killed before that change of the file system."""
    if process := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    changes = 0

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal changes
        write = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in CHANGES or (write and str(shot.output.path.parent) in str(arguments[0])):
            if changes == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            changes += 1

    status = 1
    try:
        PartialClip.due = lambda _kept: True  # type: ignore[method-assign]
        sys.addaudithook(note)
        if is_done(shot, shot.digest()) or make_until(shot, 10**9):
            status = 0
        num_changes = changes
        if count:
            count.write_text(str(num_changes))
    finally:
        os._exit(status)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # nothing else runs here
@pytest.mark.parametrize(("output", "windows"), [("out.mp4", "open"), ("frames", "uniform")])
@pytest.mark.parametrize(
    "every", [False, pytest.param(True, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_kills_at_every_change_of_the_file_system(
    inputs: Path, tmp_path: Path, output: str, windows: str, every: bool
) -> None:
    """Of which the default tries some at the beginning, and all at the end; every other time there is a
    result of other options to be replaced."""

    def shot(folder: Path, steps: int = 2) -> Shot:
        folder.mkdir(exist_ok=True)
        sheet = folder / "sheet.png"
        return example(inputs, folder / output, windows=windows, steps=steps, contact_sheet=sheet, frames="6")

    assert made_by_another(shot(tmp_path / "old", steps=1)) == 0
    shutil.copytree(tmp_path / "old", tmp_path / "quiet")
    assert made_by_another(shot(tmp_path / "quiet"), count=tmp_path / "count") == 0
    num_changes, truth = int((tmp_path / "count").read_text()), result(tmp_path / "quiet")
    late = num_changes - 24
    for kill_at in range(num_changes) if every else (*range(0, late, 9), *range(late, num_changes)):
        folder = tmp_path / f"killed {kill_at}"
        if kill_at % 2:
            shutil.copytree(tmp_path / "old", folder)
        assert made_by_another(shot(folder), kill_at) in (-signal.SIGKILL, 0)
        assert made_by_another(shot(folder)) == 0
        assert result(folder) == truth, kill_at
        assert len(list(folder.iterdir())) == 3, kill_at


def test_a_snapshot_is_what_was_kept(tmp_path: Path) -> None:
    segments = {3: [np.ones((2, 4, 1, 1), np.float32)], 5: [np.zeros((1, 4, 1, 1), np.float32)] * 2}

    def take() -> Snapshot:
        time.sleep(0.05)
        return Snapshot(7, 1, segments)

    with PartialClip(Output.at(str(tmp_path / "out.mp4")), "0" * 64) as kept:
        for _ in kept.write(iter([np.zeros((8, 8, 3), np.uint8)]), (8, 8, 3)):
            kept.save(take)
            assert kept.cost_s > 0.05  # taking it is part of what it costs
    with PartialClip(Output.at(str(tmp_path / "out.mp4")), "0" * 64) as kept:
        assert (kept.start.num_tasks, kept.start.first_frame, kept.num_frames) == (7, 1, 1)
        assert [len(arrays) for arrays in kept.start.segments.values()] == [1, 2]
        assert np.array_equal(kept.start.segments[3][0], segments[3][0])


def test_two_processes_with_the_same_shot_make_it_once(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "quiet").mkdir()
    (tmp_path / "both").mkdir()
    for name in ("out.mp4", "frames"):
        assert make_until(example(inputs, tmp_path / "quiet" / name, steps=8), 10**9)
        commands = [start(inputs, tmp_path / "both" / name, "uniform", 8, 0.01) for _ in range(2)]
        assert [process.wait(60) for process in commands] == [0, 0]
    assert result(tmp_path / "both") == result(tmp_path / "quiet")


def start(inputs: Path, output: Path, windows: str, num_steps: int, cost_s: float) -> subprocess.Popen[bytes]:
    arguments = [inputs, output, windows, num_steps, cost_s]
    return subprocess.Popen([sys.executable, "-m", "animate_rt.tests.fixed_cost", *map(str, arguments)])


def kill_and_resume(
    inputs: Path, folder: Path, num_kills: int, num_steps: int, cost_s: float
) -> dict[str, Any]:
    """Kill one run of a shot at a random moment, resume it, compare; so many times."""
    chance = random.Random(0)
    shapes = [(windows, name) for windows in ("uniform", "open") for name in ("out.mp4", "frames")]
    shapes = shapes[::3] if num_kills < len(shapes) else shapes
    quiet: dict[tuple[str, str], tuple[dict[str, bytes], float]] = {}
    for number, shape in enumerate(shapes):
        (folder / f"quiet {number}").mkdir()
        began = time.monotonic()
        output = folder / f"quiet {number}" / shape[1]
        assert start(inputs, output, shape[0], num_steps, cost_s).wait() == 0
        quiet[shape] = result(output.parent), time.monotonic() - began
    found: dict[str, Any] = {"kills": 0, "identical": 0, "leftovers": 0, "resumed": 0, "too_late": 0}
    while found["kills"] < num_kills:
        shape = shapes[found["kills"] % len(shapes)]
        truth, run_s = quiet[shape]
        parent = folder / f"killed {found['kills'] + found['too_late']}"
        parent.mkdir()
        process = start(inputs, parent / shape[1], shape[0], num_steps, cost_s)
        time.sleep(chance.uniform(0.2, 1.0) * run_s)
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            found["too_late"] += 1
            continue
        found["kills"] += 1
        found["resumed"] += any(parent.glob(f".*/{SNAPSHOT}"))
        assert start(inputs, parent / shape[1], shape[0], num_steps, cost_s).wait() == 0
        after = result(parent)
        found["identical"] += after == truth
        found["leftovers"] += len(after.keys() - truth.keys())
    return found


@pytest.mark.parametrize(
    ("num_kills", "num_steps", "cost_s"),
    [(2, 20, 0.01), pytest.param(50, 20, 0.03, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])],
)
def test_kills_at_random_moments(
    inputs: Path,
    tmp_path: Path,
    num_kills: int,
    num_steps: int,
    cost_s: float,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = kill_and_resume(inputs, tmp_path, num_kills, num_steps, cost_s)
    with capsys.disabled():
        print(f"\n{json.dumps(found)}")
    assert (found["identical"], found["leftovers"]) == (num_kills, 0)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kills_of_the_real_engines(
    small: Any, small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command, OpenVINO and all, killed 5 times on its way, wherever it then is, and let be."""
    chance = random.Random(1)

    def command(folder: str) -> list[str]:
        (tmp_path / folder).mkdir(exist_ok=True)
        inputs = ["--reference", str(small.reference), "--pose", str(small.pose)]
        output = ["--output", str(tmp_path / folder / "out.mp4"), "--steps", "200", "--progress", "json"]
        return [sys.executable, "-m", "animate_rt", "animate", str(small_bundle), *inputs, *output]

    subprocess.run(command("quiet"), check=True, stdout=subprocess.DEVNULL)
    for percent in sorted(chance.uniform(5, 90) for _ in range(5)):
        with subprocess.Popen(command("killed"), stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            while json.loads(process.stdout.readline()).get("percent", 0) < percent:
                pass
            time.sleep(chance.random())  # lines come once a second
            process.kill()
    done = subprocess.run(command("killed"), check=True, capture_output=True, text=True)
    with capsys.disabled():
        print(f"\nafter 5 kills: {done.stdout.splitlines()[-1]}")
    assert not json.loads(done.stdout.splitlines()[-1])["already_done"]
    assert result(tmp_path / "killed") == result(tmp_path / "quiet")
