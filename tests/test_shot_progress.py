"""What the command for one shot prints: progress, errors and exit statuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from animate_rt.runtime.clip.progress import Progress
from animate_rt.runtime.shots.status import OverallProgress, StatusLines

from . import fixed_cost, shot_command
from .shot_command import NUM_POSES, names

inputs, animate = shot_command.inputs, shot_command.animate


def test_out_of_memory_is_retryable(
    animate: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    opened = partial(fixed_cost.open_troubled_animator, folder=tmp_path)
    monkeypatch.setattr("animate_rt.runtime.shots.commands.Animator.load", opened)
    tired = ["out.mp4", "--seed", str(fixed_cost.TIRED_SEED), "--progress", "none"]
    assert animate(*tired) == 75
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "animate_error code=out_of_memory retryable=1 status=75 shot=out"
    assert animate(*tired) == 0


def test_a_closed_pipe_and_closed_standard_streams(inputs: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from animate_rt.tests.fixed_cost import open_animator;"
        "from animate_rt.runtime.shots import commands; from animate_rt.__main__ import main;"
        "commands.Animator.load = open_animator; sys.exit(main(sys.argv[1:]))"
    )
    command = f"{sys.executable} -c '{script}' animate bundle --reference reference.png --pose pose --steps 1"

    def status(rest: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {command} {rest}"],
            cwd=inputs,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr

    found, err = status("--output ../gone.mp4 --progress json | true")
    assert found == 74, err
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "animate_error code=io retryable=1 status=74 shot=gone"
    assert status("--output ../out.mp4 2>&-") == (0, "")
    assert status("--output ../again.mp4 >&-")[0] == 0
    assert {"out.mp4", "again.mp4"} < set(names(tmp_path))


def test_progress_as_lines_of_json(animate: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert animate("out.mp4", "--progress", "json", "--name", "s010") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["shot"] for line in lines} == {"s010"}
    assert [lines[0]["event"], lines[1]["event"], lines[-1]["event"]] == ["begin", "progress", "end"]
    assert (lines[-1]["frames"], lines[-1]["already_done"]) == (NUM_POSES, False)
    assert animate("out.mp4", "--progress", "json") == 0
    (last,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert last["already_done"]


def test_progress_as_lines_of_open_job_description(
    animate: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr("animate_rt.runtime.shots.status.LINE_S", 0.0)
    monkeypatch.setenv("OPENJD_SESSION_WORKING_DIR", "/tmp")  # so that format auto means openjd
    assert animate("out.mp4") == 0
    lines = capsys.readouterr().out.splitlines()
    percents = [float(line.split()[1]) for line in lines if line.startswith("openjd_progress: ")]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert len(set(percents)) > 5
    assert any(line.startswith("openjd_status: out: decode 3/6") for line in lines)
    assert animate("out.mp4", "--frames", "7-9") == 65
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1].startswith("openjd_fail: out: ")
    assert captured.err.splitlines()[-1] == "animate_error code=input retryable=0 status=65 shot=out"


def test_progress_lines_for_people_name_the_shot(
    animate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert animate("out.mp4", "--name", "s010") == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 2
    assert all("  s010  " in line for line in lines)


def test_progress_none_prints_only_the_result(
    animate: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert animate("out.mp4", "--progress", "none") == 0
    assert capsys.readouterr() == (f"{tmp_path / 'out.mp4'}\n", "")


def test_overall_progress_never_falls() -> None:
    overall, shares = OverallProgress(), []
    for stage, done, total in (
        ("denoise", 5, 10),
        ("denoise", 3, 10),
        ("denoise", 5, 10),
        ("pose", 1, 9),
        ("decode", 1, 2),
        ("decode", 2, None),
    ):
        overall.add(Progress(stage, done, total))
        shares.append(overall.share)
    assert shares == pytest.approx([0.45, 0.45, 0.45, 0.45, 0.5, 0.5])
    assert overall.num_frames == 2


def test_status_lines_are_limited_per_second_and_free_of_line_breaks(capsys: Any) -> None:
    lines = StatusLines("openjd", "s010\nopenjd_env: A=B", sys.stdout)
    for done in range(1000):
        lines.progress(Progress("denoise", done, 1000))
    lines.fail("two\nlines", "input", retryable=False)
    out = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in out] == ["openjd_progress", "openjd_status", "openjd_fail"]


STATUSES = [
    ({"--pose": "none.mp4"}, 66, "input_missing", 0),
    ({"--reference": "pose.txt"}, 65, "input", 0),
    ({"--pose": "/dev/zero"}, 65, "input", 0),  # would be read forever
    ({"--output": "/proc"}, 73, "output", 0),  # a mount point
    ({"--frames": "0"}, 64, "config", 0),
    ({"--output": "none/out.mp4"}, 73, "output", 0),
    ({"bundle": "none"}, 66, "input_missing", 0),
    ({}, 65, "bundle_corrupt", 0),  # its engines are empty files
]


@pytest.mark.parametrize(("changed", "status", "code", "retryable"), STATUSES)
def test_exit_statuses_and_their_last_line(
    inputs: Path, tmp_path: Path, changed: dict[str, str], status: int, code: str, retryable: int
) -> None:
    """The real command ends with its exit status and a line that a farm manager can match."""
    (inputs / "pose.txt").write_text("no picture")
    named = {
        "--reference": "reference.png",
        "--pose": "pose",
        "--output": "../out.mp4",
        "--seed": "1",
    } | changed
    bundle = named.pop("bundle", "bundle")
    arguments = [part for pair in named.items() for part in pair]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "animate_rt",
            "animate",
            bundle,
            *arguments,
            "--progress",
            "none",
            "--name",
            "s",
        ],
        cwd=inputs,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    message, last = done.stderr.splitlines()
    assert message.startswith("animate-rt: ")
    assert last == f"animate_error code={code} retryable={retryable} status={status} shot=s"
    assert names(tmp_path) == []
