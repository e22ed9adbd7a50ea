"""The command `animate-rt animate` with arithmetic engines, and inputs for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from animate_rt.__main__ import main

from .fixed_cost import open_animator, write_inputs

NUM_POSES = 6


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """bundle/, reference.png and pose/ of 6 pictures."""
    (tmp_path / "inputs").mkdir()
    return write_inputs(tmp_path / "inputs", NUM_POSES)


@pytest.fixture
def animate(inputs: Path, tmp_path: Path, monkeypatch: Any) -> Callable[..., int]:
    """`animate(output, *options)`: the command's exit status, run in this process with arithmetic engines."""
    monkeypatch.setattr("animate_rt.runtime.shots.commands.Animator.load", open_animator)

    def call(output: str, *options: str) -> int:
        named = ["--reference", str(inputs / "reference.png"), "--pose", str(inputs / "pose")]
        return main(
            [
                "animate",
                str(inputs / "bundle"),
                *named,
                "--output",
                str(tmp_path / output),
                "--steps",
                "2",
                *options,
            ]
        )

    return call


def names(folder: Path) -> list[str]:
    """The names in a folder, without the inputs' folder."""
    return sorted(path.name for path in folder.iterdir() if path.name != "inputs")
