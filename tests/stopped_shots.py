"""Shots that are stopped midway, and the files they leave."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from animate_rt.runtime.shots.making import make
from animate_rt.runtime.shots.shot import Shot

from .fixed_cost import open_animator, write_inputs

NUM_POSES = 11


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bundle/, reference.png and pose/ of 11 pictures."""
    return write_inputs(tmp_path_factory.mktemp("inputs"), NUM_POSES)


class Stopped(Exception):
    pass


def make_until(shot: Shot, num_calls: int, *, force: bool = False) -> bool:
    """Make a shot, but stop it after `num_calls` progress calls. True if it finished before that."""
    calls = 0

    def progress(_progress: object) -> None:
        nonlocal calls
        calls += 1
        if calls > num_calls:
            raise Stopped

    with open_animator(shot.bundle) as animator:
        try:
            make(shot, animator, force=force, progress=progress)
        except Stopped:
            return False
    return True


def result(folder: Path) -> dict[str, bytes]:
    """The contents of every file in a folder, hidden files and sidecars included."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def files(shot: Shot) -> dict[str, bytes]:
    """The result without its sidecar."""
    paths = [shot.output.path] if shot.output.video else shot.output.path.iterdir()
    return {path.name: path.read_bytes() for path in paths}


def truth(shot: Shot, folder: Path) -> dict[str, bytes]:
    """The files of a shot that nothing disturbs."""
    folder.mkdir()
    undisturbed = replace(shot, output=replace(shot.output, path=folder / shot.output.path.name))
    with open_animator(shot.bundle) as animator:
        make(undisturbed, animator)
    return files(undisturbed)


def start(inputs: Path, output: Path, windows: str, num_steps: int, cost_s: float) -> subprocess.Popen[bytes]:
    """Make a shot in a process of its own, with arithmetic engines whose UNet takes `cost_s` seconds."""
    arguments = [inputs, output, windows, num_steps, cost_s]
    return subprocess.Popen([sys.executable, "-m", "animate_rt.tests.fixed_cost", *map(str, arguments)])
