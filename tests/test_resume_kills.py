"""A shot whose process is killed resumes, and its result is bit for bit that of an uninterrupted run."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from animate_rt.runtime.shots.resume import SNAPSHOT, PartialClip
from animate_rt.runtime.shots.shot import Shot, clear_leftovers, is_done

from . import stopped_shots
from .fixed_cost import example
from .forks import fork
from .slow import SLOW
from .stopped_shots import make_until, result, start

inputs = stopped_shots.inputs

CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree")


def status_of_a_process_that_makes(shot: Shot, kill_at: int = -1, count: Path | None = None) -> int:
    """The exit status of a process that makes a shot and is killed before its file-system change `kill_at`.

    `count` is a file that receives the number of changes of a process that was not killed.
    """
    if process := fork():
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
        if is_done(shot, shot.digest()):
            clear_leftovers(shot, shot.digest())
            status = 0
        elif make_until(shot, 10**9):
            status = 0
        num_changes = changes
        if count:
            count.write_text(str(num_changes))
    finally:
        os._exit(status)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # no other thread runs here
@pytest.mark.parametrize(("output", "windows"), [("out.mp4", "open"), ("frames", "uniform")])
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=SLOW)])
def test_kills_at_every_change_of_the_file_system(
    inputs: Path, tmp_path: Path, output: str, windows: str, every: bool
) -> None:
    """By default at some of the early changes and all of the last 24. In every second case the shot replaces
    a result that was made with other options."""

    def shot(folder: Path, steps: int = 2) -> Shot:
        folder.mkdir(exist_ok=True)
        sheet = folder / "sheet.png"
        return example(inputs, folder / output, windows=windows, steps=steps, contact_sheet=sheet, frames="6")

    assert status_of_a_process_that_makes(shot(tmp_path / "old", steps=1)) == 0
    shutil.copytree(tmp_path / "old", tmp_path / "undisturbed")
    assert status_of_a_process_that_makes(shot(tmp_path / "undisturbed"), count=tmp_path / "count") == 0
    num_changes, truth = int((tmp_path / "count").read_text()), result(tmp_path / "undisturbed")
    late = num_changes - 24
    for kill_at in range(num_changes) if every else (*range(0, late, 9), *range(late, num_changes)):
        folder = tmp_path / f"killed {kill_at}"
        if kill_at % 2:
            shutil.copytree(tmp_path / "old", folder)
        assert status_of_a_process_that_makes(shot(folder), kill_at) in (-signal.SIGKILL, 0)
        assert status_of_a_process_that_makes(shot(folder)) == 0
        assert result(folder) == truth, kill_at
        assert len(list(folder.iterdir())) == 3, kill_at


def kill_and_resume(
    inputs: Path, folder: Path, num_kills: int, num_steps: int, cost_s: float
) -> dict[str, Any]:
    """Kill a shot at a random moment, resume it and compare its files, `num_kills` times."""
    chance = random.Random(0)
    shapes = [(windows, name) for windows in ("uniform", "open") for name in ("out.mp4", "frames")]
    shapes = shapes[::3] if num_kills < len(shapes) else shapes
    undisturbed: dict[tuple[str, str], tuple[dict[str, bytes], float]] = {}
    for number, shape in enumerate(shapes):
        (folder / f"undisturbed {number}").mkdir()
        began = time.monotonic()
        output = folder / f"undisturbed {number}" / shape[1]
        assert start(inputs, output, shape[0], num_steps, cost_s).wait() == 0
        undisturbed[shape] = result(output.parent), time.monotonic() - began
    found: dict[str, Any] = {"kills": 0, "identical": 0, "leftovers": 0, "resumed": 0, "too_late": 0}
    while found["kills"] < num_kills:
        shape = shapes[found["kills"] % len(shapes)]
        truth, run_s = undisturbed[shape]
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
    [(2, 20, 0.01), pytest.param(50, 20, 0.03, marks=SLOW)],
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
    """The real command with OpenVINO, killed 5 times at random moments; the sixth run finishes."""
    chance = random.Random(1)

    def command(folder: str) -> list[str]:
        (tmp_path / folder).mkdir(exist_ok=True)
        inputs = ["--reference", str(small.reference), "--pose", str(small.pose)]
        output = ["--output", str(tmp_path / folder / "out.mp4"), "--steps", "200", "--progress", "json"]
        return [sys.executable, "-m", "animate_rt", "animate", str(small_bundle), *inputs, *output]

    subprocess.run(command("undisturbed"), check=True, stdout=subprocess.DEVNULL)
    for percent in sorted(chance.uniform(5, 90) for _ in range(5)):
        with subprocess.Popen(command("killed"), stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            while json.loads(process.stdout.readline()).get("percent", 0) < percent:
                pass
            time.sleep(chance.random())  # progress lines come once a second
            process.kill()
    done = subprocess.run(command("killed"), check=True, capture_output=True, text=True)
    with capsys.disabled():
        print(f"\nafter 5 kills: {done.stdout.splitlines()[-1]}")
    assert not json.loads(done.stdout.splitlines()[-1])["already_done"]
    assert result(tmp_path / "killed") == result(tmp_path / "undisturbed")
