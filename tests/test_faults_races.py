"""Several processes with the same output at once: none fails, and the result is complete.

They make the same shot, or one of copies of the inputs that have other times, or shots with other options.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from animate_rt.engines.files import hashed
from animate_rt.runtime.shots.checks import check
from animate_rt.runtime.shots.making import make
from animate_rt.runtime.shots.shot import Shot, clear_leftovers, is_done

from .fixed_cost import example, open_animator, write_inputs
from .forks import fork
from .slow import SLOW
from .stopped_shots import result

CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link")
DELAYS_S = (0.0, 0.0, 0.0, 0.002, 0.01, 0.03)


def start(
    inputs: Path,
    output: Path,
    number: int,
    *,
    jitter: bool,
    kill_at: int | None,
    force: bool = False,
    **options: Any,
) -> int:
    """Make a shot in a process of its own, delayed at its changes of the file system; returns its id."""
    if process := fork():
        return process
    chance, changes, status = random.Random(number), 0, 99

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
        run(example(inputs, output, contact_sheet=output.parent / "sheet.png", **options), force=force)
        status = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def run(shot: Shot, force: bool = False) -> None:
    """What the command does."""
    digest = shot.digest()
    if not force and is_done(shot, digest):
        clear_leftovers(shot, digest)
        return
    with open_animator(shot.bundle) as animator:
        check(shot, animator.bundle)
        make(shot, animator, force=force)


def race(
    inputs: list[Path],
    folder: Path,
    name: str,
    seed: int,
    *,
    jitter: bool,
    seeds: list[int],
    forced: float = 0.0,
) -> None:
    """2 to 4 processes, of which some are killed; often there is an older result.

    They take one of `inputs` and of the clip's `seeds` in turn. A share of `forced` begins anew.
    """
    chance, folder = random.Random(seed), folder / f"{name} {seed}"
    frames = chance.choice("25")
    options: list[dict[str, Any]] = [
        {"steps": 1, "frames": str(int(frames) + i), "seed": one} for i, one in enumerate(seeds)
    ]
    truths = []
    for one in options:
        truth = folder / f"undisturbed {one['seed']}"
        truth.mkdir(parents=True)
        run(example(inputs[0], truth / name, contact_sheet=truth / "sheet.png", **one))
        truths.append(result(truth))
    raced = folder / "raced"
    raced.mkdir()
    if chance.random() < 0.5:
        run(example(inputs[0], raced / name, seed=77, steps=1, frames="4"))
    processes = []
    for number in range(chance.choice([2, 2, 3, 4])):
        kill_at = chance.randrange(1, 40) if number and chance.random() < 0.25 else None
        processes.append(
            start(
                inputs[number % len(inputs)],
                raced / name,
                chance.randrange(10**6),
                jitter=jitter,
                kill_at=kill_at,
                force=chance.random() < forced if forced else False,
                **options[number % len(options)],
            )
        )
        time.sleep(chance.choice([0, 0, 0.01, 0.05, 0.15]))
    statuses = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
    assert set(statuses) <= {0, -signal.SIGKILL}, f"seed {seed}: {statuses}"
    if set(statuses) == {0}:
        assert result(raced) in truths, f"seed {seed}"
    for one, truth in zip(options, truths, strict=True):
        run(example(inputs[0], raced / name, contact_sheet=raced / "sheet.png", **one))
        assert result(raced) == truth, f"seed {seed}"
    shutil.rmtree(folder)


@pytest.fixture
def inputs(tmp_path: Path) -> list[Path]:
    """Two copies of bundle/, reference.png and pose/, with other times."""
    folders = [tmp_path / "inputs", tmp_path / "copy"]
    for time_s, folder in enumerate(folders, start=10**9):
        folder.mkdir()
        for path in write_inputs(folder, 6).rglob("*.png"):
            os.utime(path, (time_s, time_s))
    return folders


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # no other thread runs here
@pytest.mark.parametrize("name", ["out.mp4", "frames"])
@pytest.mark.parametrize(
    ("rounds", "jitter"),
    [
        (range(4), True),
        pytest.param([*range(4, 12), *range(100, 170)], True, marks=SLOW),
        pytest.param(range(200, 280), False, marks=SLOW),
    ],
)
def test_processes_that_make_the_same_shot(
    inputs: list[Path], tmp_path: Path, name: str, rounds: Iterable[int], jitter: bool
) -> None:
    for seed in rounds:
        race(inputs[:1], tmp_path, name, seed, jitter=jitter, seeds=[42])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("name", ["out.mp4", "frames"])
@pytest.mark.parametrize(
    "rounds", [range(300, 302), pytest.param([*range(302, 306), *range(400, 470)], marks=SLOW)]
)
@pytest.mark.parametrize("differing", ["times", "options"])
def test_processes_that_make_one_output_differently(
    inputs: list[Path], tmp_path: Path, name: str, rounds: Iterable[int], differing: str
) -> None:
    """A shot of copies of its inputs with other times, as hosts have them; or two shots with one output."""
    for seed in rounds:
        if differing == "times":
            race(inputs, tmp_path, name, seed, jitter=True, seeds=[42])
        else:
            race(inputs[:1], tmp_path, name, seed, jitter=True, seeds=[42, 43])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("name", ["out.mp4", "frames"])
@pytest.mark.parametrize(
    "rounds", [range(504, 506), pytest.param([*range(506, 510), *range(600, 670)], marks=SLOW)]
)
def test_processes_that_begin_anew(
    inputs: list[Path], tmp_path: Path, name: str, rounds: Iterable[int]
) -> None:
    """With --force a process removes the partial clip that others are using."""
    for seed in rounds:
        race(inputs[:1], tmp_path, name, seed, jitter=True, seeds=[42], forced=0.6)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_file_is_hashed_while_its_links_change(tmp_path: Path) -> None:
    """Frames are, when one process publishes them while another replaces them by the same bytes."""
    path = tmp_path / "frame"
    path.write_bytes(bytes(20_000_000))
    right = hashed(path).file
    if not (process := fork()):
        while True:
            os.link(path, tmp_path / "link")
            os.unlink(tmp_path / "link")
    try:
        for _ in range(10):
            assert hashed(path).file == right
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
