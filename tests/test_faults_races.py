"""Several processes that make the same shot at once: none fails, and all leave the same result."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
from animate_rt.runtime.shots.checks import check
from animate_rt.runtime.shots.shot import Shot, clear_leftovers, is_done, make

from .fixed_cost import example, open_animator, write_inputs
from .stopped_shots import result

CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link")
DELAYS_S = (0.0, 0.0, 0.0, 0.002, 0.01, 0.03)


def start(inputs: Path, output: Path, seed: int, *, jitter: bool, kill_at: int | None, **options: Any) -> int:
    """Make a shot in a process of its own, delayed at its changes of the file system; returns its id."""
    if process := os.fork():
        return process
    chance, changes, status = random.Random(seed), 0, 99

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal changes
        write = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in CHANGES or (write and str(output.parent) in str(arguments[0])):
            changes += 1
            if jitter:
                time.sleep(chance.choice(DELAYS_S))
            if changes == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        sys.addaudithook(note)
        run(example(inputs, output, contact_sheet=output.parent / "sheet.png", **options))
        status = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def run(shot: Shot) -> None:
    """What the command does."""
    digest = shot.digest()
    if is_done(shot, digest):
        clear_leftovers(shot, digest)
        return
    with open_animator(shot.bundle) as animator:
        check(shot, animator.bundle)
        make(shot, animator)


def race(inputs: Path, folder: Path, name: str, seed: int, *, jitter: bool) -> None:
    """2 to 4 processes, of which some are killed; often there is an older result."""
    chance, folder = random.Random(seed), folder / f"{name} {seed}"
    options: dict[str, Any] = {"steps": 1, "frames": chance.choice("25")}
    for part in ("undisturbed", "raced"):
        (folder / part).mkdir(parents=True)
    run(
        example(
            inputs,
            folder / "undisturbed" / name,
            contact_sheet=folder / "undisturbed" / "sheet.png",
            **options,
        )
    )
    truth = result(folder / "undisturbed")
    if chance.random() < 0.5:
        run(example(inputs, folder / "raced" / name, seed=77, steps=1, frames="4"))
    processes = []
    for number in range(chance.choice([2, 2, 3, 4])):
        kill_at = chance.randrange(1, 40) if number and chance.random() < 0.25 else None
        output = folder / "raced" / name
        processes.append(
            start(inputs, output, chance.randrange(10**6), jitter=jitter, kill_at=kill_at, **options)
        )
        time.sleep(chance.choice([0, 0, 0.01, 0.05, 0.15]))
    statuses = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
    assert set(statuses) <= {0, -signal.SIGKILL}, f"seed {seed}: {statuses}"
    run(example(inputs, folder / "raced" / name, contact_sheet=folder / "raced" / "sheet.png", **options))
    assert result(folder / "raced") == truth, f"seed {seed}"
    shutil.rmtree(folder)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # no other thread runs here
@pytest.mark.parametrize("name", ["out.mp4", "frames"])
@pytest.mark.parametrize(
    ("rounds", "jitter"),
    [
        (range(12), True),
        pytest.param(range(100, 170), True, marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
        pytest.param(range(200, 280), False, marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
    ],
)
def test_processes_that_make_the_same_shot(tmp_path: Path, name: str, rounds: range, jitter: bool) -> None:
    (tmp_path / "inputs").mkdir()
    inputs = write_inputs(tmp_path / "inputs", 6)
    for seed in rounds:
        race(inputs, tmp_path, name, seed, jitter=jitter)
