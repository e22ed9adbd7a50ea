"""One shot as a farm's task: what it tells, how it ends, and what it leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from animate_rt.__main__ import main
from animate_rt.errors import ConfigError, InputError, OutputError
from animate_rt.runtime.clip.progress import Progress
from animate_rt.runtime.shots.output import Output
from animate_rt.runtime.shots.shot import frame_range, is_done, make, open_frames
from animate_rt.runtime.shots.status import OverallProgress, StatusLines
from PIL import Image

from . import fixed_cost
from .fixed_cost import HEIGHT, WIDTH, example, open_animator, write_inputs

NUM_POSES = 6


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """bundle/, reference.png and pose/ of 6 pictures."""
    (tmp_path / "inputs").mkdir()
    return write_inputs(tmp_path / "inputs", NUM_POSES)


@pytest.fixture
def animate(inputs: Path, tmp_path: Path, monkeypatch: Any) -> Callable[..., int]:
    """`animate-rt animate`, in this process, with engines of arithmetic."""
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
    return sorted(path.name for path in folder.iterdir() if path.name != "inputs")


@pytest.mark.parametrize(
    ("output", "options", "expected"),
    [
        ("frames", [], ["00000.png", "00001.png"]),
        ("frames", ["--first-number", "1001"], ["01001.png", "01002.png"]),
        ("frames/hero.####.png", ["--first-number", "99"], ["hero.0099.png", "hero.0100.png"]),
        ("frames.v2/#.PNG", ["--first-number", "9"], ["10.PNG", "9.PNG"]),
    ],
)
def test_numbering(
    animate: Callable[..., int], tmp_path: Path, output: str, options: list[str], expected: list[str]
) -> None:
    assert animate(output, "--frames", "2", *options) == 0
    folder = output.split("/")[0]
    assert names(tmp_path / folder) == expected
    assert names(tmp_path) == [folder, f"{folder}.json"]


def test_16_bits_are_the_same_frames(animate: Callable[..., int], tmp_path: Path) -> None:
    for bits in ("8", "16"):
        sheet = str(tmp_path / f"{bits}.sheet.png")
        assert animate(f"of{bits}", "--bits", bits, "--contact-sheet", sheet) == 0
    for i in range(NUM_POSES):
        with av.open(tmp_path / "of16" / f"{i:05}.png") as container:
            (frame,) = container.decode(video=0)
        of8 = np.asarray(Image.open(tmp_path / "of8" / f"{i:05}.png"))
        assert np.array_equal(frame.to_ndarray(format="rgb48le"), of8.astype(np.uint16) * 257)
    assert (tmp_path / "8.sheet.png").read_bytes() == (tmp_path / "16.sheet.png").read_bytes()
    assert animate("out.mp4", "--bits", "16") == 64


@pytest.mark.parametrize(
    ("frames", "expected"), [(None, (0, None)), ("48", (0, 48)), ("25-72", (24, 72)), ("7-7", (6, 7))]
)
def test_frame_ranges(frames: str | None, expected: tuple[int, int | None]) -> None:
    assert frame_range(frames) == expected


@pytest.mark.parametrize("frames", ["0", "-3", "3-", "5-4", "0-4", "1-2-3", "1,2", "x", "", "1e3"])
def test_frame_ranges_that_are_none(frames: str) -> None:
    with pytest.raises(ConfigError, match="frames: expected at least 1"):
        frame_range(frames)


def test_a_range_is_those_pose_frames(inputs: Path) -> None:
    whole = [np.asarray(picture) for picture in open_frames(inputs / "pose", None)]
    part = [np.asarray(picture) for picture in open_frames(inputs / "pose", "3-5")]
    assert np.array_equal(whole[2:5], part)
    assert open_frames(inputs / "pose", "3-5").num_frames == 3
    assert len(list(open_frames(inputs / "pose", "50"))) == NUM_POSES
    with pytest.raises(InputError, match="expected pose frames 3-9, found 6"):
        list(open_frames(inputs / "pose", "3-9"))


def test_everything_that_decides_the_result_is_in_the_digest(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digest(**options: Any) -> str:
        return example(inputs, tmp_path / options.pop("output", "out.mp4"), **options).digest()

    before = digest()
    assert digest() == before
    changes: list[dict[str, Any]] = [
        {"steps": 3},
        {"guidance_scale": 1.0},
        {"seed": 1},
        {"windows": "open"},
        {"overlap": 1},
        {"frames": "3"},
        {"fps": Fraction(25)},
        {"output": "frames"},
        {"output": "frames/#.png"},
    ]
    digests = {before, *(digest(**change) for change in changes)}
    with monkeypatch.context() as patch:
        patch.setattr("animate_rt.runtime.shots.shot.metadata.version", lambda _package: "another")
        digests.add(digest())
    assert len(digests) == len(changes) + 2
    assert digest(contact_sheet=tmp_path / "sheet.png") == before
    picture = Image.open(inputs / "pose" / "003.png").transpose(Image.Transpose.ROTATE_180)
    picture.save(inputs / "pose" / "003.png")
    assert digest() not in digests
    changed = digest()
    (inputs / "pose" / "notes.txt").touch()  # is no picture
    assert digest() == changed
    (inputs / "pose" / "009.png").write_bytes((inputs / "pose" / "000.png").read_bytes())
    assert digest() not in {*digests, changed}


@pytest.mark.parametrize("output", ["out.mp4", "frames"])
def test_done_is_what_is_there(inputs: Path, tmp_path: Path, output: str) -> None:
    shot = example(inputs, tmp_path / output, steps=2)
    digest = shot.digest()
    assert not is_done(shot, digest)
    with open_animator(shot.bundle) as animator:
        make(shot, animator, digest)
    assert is_done(shot, digest)
    assert not is_done(shot, example(inputs, tmp_path / output, steps=3).digest())
    path = shot.output.path if shot.output.video else shot.output.path / "00001.png"
    content = path.read_bytes()
    for damaged in (b"", content[:-1], content[:-1] + b"x"):
        path.write_bytes(damaged)
        assert not is_done(shot, digest)
    path.write_bytes(content)
    assert is_done(shot, digest)
    shot.output.sidecar.write_text("{")
    assert not is_done(shot, digest)


def test_a_directory_of_an_earlier_result_is_replaced_and_no_other(inputs: Path, tmp_path: Path) -> None:
    for steps in (2, 3):
        shot = example(inputs, tmp_path / "frames", steps=steps)
        with open_animator(shot.bundle) as animator:
            make(shot, animator, shot.digest())
        assert is_done(shot, shot.digest())
    assert names(tmp_path) == ["frames", "frames.json"]
    (tmp_path / "frames" / "notes.txt").touch()
    with pytest.raises(OutputError, match=r"notes\.txt is not of an earlier result"):
        Output.at(str(tmp_path / "frames"))


def test_a_contact_sheet(animate: Callable[..., int], tmp_path: Path) -> None:
    assert animate("out.mp4", "--contact-sheet", str(tmp_path / "sheet.png")) == 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (7 * WIDTH + 8 * 4, 2 * HEIGHT + 3 * 4)


def test_a_contact_sheet_of_what_is_done(animate: Callable[..., int], tmp_path: Path) -> None:
    assert animate("out.mp4") == 0
    assert animate("out.mp4", "--contact-sheet", str(tmp_path / "sheet.png")) == 0
    assert names(tmp_path) == ["out.mp4", "out.mp4.json", "sheet.png"]


def test_out_of_memory_may_pass(
    animate: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    opened = partial(fixed_cost.open_troubled_animator, folder=tmp_path)
    monkeypatch.setattr("animate_rt.runtime.shots.commands.Animator.load", opened)
    tired = ["out.mp4", "--seed", str(fixed_cost.TIRED_SEED), "--progress", "none"]
    assert animate(*tired) == 75
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "animate_error code=out_of_memory retryable=1 status=75 shot=out"
    assert animate(*tired) == 0


def test_a_reader_that_goes_away_and_streams_that_are_not_there(inputs: Path, tmp_path: Path) -> None:
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


def test_lines_of_json(animate: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert animate("out.mp4", "--progress", "json", "--name", "s010") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["shot"] for line in lines} == {"s010"}
    assert [lines[0]["event"], lines[1]["event"], lines[-1]["event"]] == ["begin", "progress", "end"]
    assert (lines[-1]["frames"], lines[-1]["already_done"]) == (NUM_POSES, False)
    assert animate("out.mp4", "--progress", "json") == 0
    (last,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert last["already_done"]


def test_lines_of_open_job_description(
    animate: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr("animate_rt.runtime.shots.status.LINE_S", 0.0)
    monkeypatch.setenv("OPENJD_SESSION_WORKING_DIR", "/tmp")  # so auto is openjd
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


def test_lines_for_people_have_a_name(
    animate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert animate("out.mp4", "--name", "s010") == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 2
    assert all("  s010  " in line for line in lines)


def test_no_lines(animate: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert animate("out.mp4", "--progress", "none") == 0
    assert capsys.readouterr() == (f"{tmp_path / 'out.mp4'}\n", "")


def test_progress_never_falls() -> None:
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


def test_a_line_per_second_and_none_that_could_be_taken_for_another(capsys: Any) -> None:
    lines = StatusLines("openjd", "s010\nopenjd_env: A=B", sys.stdout)
    for done in range(1000):
        lines.progress(Progress("denoise", done, 1000))
    lines.fail("two\nlines", "input", retryable=False)
    out = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in out] == ["openjd_progress", "openjd_status", "openjd_fail"]


STATUSES = [
    ({"--pose": "none.mp4"}, 66, "input_missing", 0),
    ({"--reference": "pose.txt"}, 65, "input", 0),
    ({"--pose": "/dev/zero"}, 65, "input", 0),  # would never end
    ({"--output": "/proc"}, 73, "output", 0),  # a mount point
    ({"--frames": "0"}, 64, "config", 0),
    ({"--output": "none/out.mp4"}, 73, "output", 0),
    ({"bundle": "none"}, 66, "input_missing", 0),
    ({}, 69, "device", 0),  # a bundle whose engines are not there
]


@pytest.mark.parametrize(("changed", "status", "code", "retryable"), STATUSES)
def test_statuses(
    inputs: Path, tmp_path: Path, changed: dict[str, str], status: int, code: str, retryable: int
) -> None:
    """Of the real command, with a line at the end that a farm can match."""
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
    told, last = done.stderr.splitlines()
    assert told.startswith("animate-rt: ")
    assert last == f"animate_error code={code} retryable={retryable} status={status} shot=s"
    assert names(tmp_path) == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_it_keeps_what_it_has_and_goes_on_from_there(
    inputs: Path, tmp_path: Path, number: int, status: int
) -> None:
    script = (
        "import sys; from functools import partial; from animate_rt.tests.fixed_cost import open_animator;"
        "from animate_rt.runtime.shots import commands; from animate_rt.__main__ import main;"
        "commands.Animator.load = partial(open_animator, cost_s=float(sys.argv.pop()));"
        "sys.exit(main(sys.argv[1:]))"
    )

    def start(cost_s: str) -> subprocess.Popen[str]:
        options = [
            "--reference",
            "reference.png",
            "--pose",
            "pose",
            "--output",
            "../out.mp4",
            "--progress",
            "json",
        ]
        arguments = ["animate", "bundle", *options, "--windows", "open", cost_s]
        return subprocess.Popen(
            [sys.executable, "-c", script, *arguments], cwd=inputs, stdout=subprocess.PIPE, text=True
        )

    process = start("0.05")
    while not any(tmp_path.glob(".*/snapshot.npz")):
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.5)
    began = time.monotonic()
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == status
    assert time.monotonic() - began < 5
    fail = json.loads(out.splitlines()[-1])
    assert (fail["event"], fail["code"], fail["retryable"]) == ("fail", "stopped", True)
    (kept,) = names(tmp_path)
    assert kept.endswith(".partial")
    out, _ = start("0").communicate(timeout=30)
    progress = [json.loads(line) for line in out.splitlines()]
    assert progress[-1]["event"] == "end"
    denoise = [line["percent"] for line in progress if line["event"] == "progress"]
    assert denoise
    assert names(tmp_path) == ["out.mp4", "out.mp4.json"]


def test_names_that_the_locale_cannot_spell(inputs: Path, tmp_path: Path) -> None:
    """ASCII alone, forced: no home, no terminal, nothing writable but the output's folder."""
    folder = tmp_path / "bühne"
    folder.mkdir()
    (inputs / "größe.png").write_bytes((inputs / "reference.png").read_bytes())
    read_only = tmp_path / "read only"
    read_only.mkdir(mode=0o555)
    script = (
        "import sys; from animate_rt.tests.fixed_cost import open_animator;"
        "from animate_rt.runtime.shots import commands; from animate_rt.__main__ import main;"
        "commands.Animator.load = open_animator; sys.exit(main(sys.argv[1:]))"
    )
    named = ["--reference", str(inputs / "größe.png"), "--pose", str(inputs / "pose")]
    for form in ("auto", "json"):
        output = ["--output", str(folder / f"ä{form}.mp4"), "--contact-sheet", str(folder / f"ö{form}.png")]
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                script,
                "animate",
                str(inputs / "bundle"),
                *named,
                *output,
                "--progress",
                form,
            ],
            env={
                "PATH": os.environ["PATH"],
                "LC_ALL": "POSIX",
                "PYTHONCOERCECLOCALE": "0",
                "PYTHONUTF8": "0",
            },
            cwd=read_only,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert names(folder) == [
        "äauto.mp4",
        "äauto.mp4.json",
        "äjson.mp4",
        "äjson.mp4.json",
        "öauto.png",
        "öjson.png",
    ]
    assert list(read_only.iterdir()) == []
