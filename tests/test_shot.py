"""One shot: its options, its output files, its digest, and how it resumes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from animate_rt.errors import ConfigError, InputError, OutputError
from animate_rt.runtime.shots.frame_range import frame_range
from animate_rt.runtime.shots.making import make
from animate_rt.runtime.shots.output import Output
from animate_rt.runtime.shots.pose_files import open_frames
from animate_rt.runtime.shots.shot import is_done
from PIL import Image

from . import shot_command
from .fixed_cost import HEIGHT, WIDTH, example, open_animator
from .shot_command import NUM_POSES, names

inputs, animate = shot_command.inputs, shot_command.animate


@pytest.mark.parametrize(
    ("output", "options", "expected"),
    [
        ("frames", [], ["00000.png", "00001.png"]),
        ("frames", ["--first-number", "1001"], ["01001.png", "01002.png"]),
        ("frames/hero.####.png", ["--first-number", "99"], ["hero.0099.png", "hero.0100.png"]),
        ("frames.v2/#.PNG", ["--first-number", "9"], ["10.PNG", "9.PNG"]),
    ],
)
def test_names_of_numbered_frames(
    animate: Callable[..., int], tmp_path: Path, output: str, options: list[str], expected: list[str]
) -> None:
    assert animate(output, "--frames", "2", *options) == 0
    folder = output.split("/")[0]
    assert names(tmp_path / folder) == expected
    assert names(tmp_path) == [folder, f"{folder}.json"]


def test_16_bit_pngs_hold_the_8_bit_values_times_257(animate: Callable[..., int], tmp_path: Path) -> None:
    for bits in ("8", "16"):
        sheet = str(tmp_path / f"{bits}.sheet.png")
        # The watermark would be another one, as the request is.
        assert animate(f"of{bits}", "--bits", bits, "--contact-sheet", sheet, "--no-watermark") == 0
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
def test_frame_ranges_are_parsed(frames: str | None, expected: tuple[int, int | None]) -> None:
    assert frame_range(frames) == expected


@pytest.mark.parametrize("frames", ["0", "-3", "3-", "5-4", "0-4", "1-2-3", "1,2", "x", "", "1e3"])
def test_invalid_frame_ranges_are_refused(frames: str) -> None:
    with pytest.raises(ConfigError, match="frames: expected at least 1"):
        frame_range(frames)


def test_a_frame_range_selects_pose_frames(inputs: Path) -> None:
    whole = [np.asarray(picture) for picture in open_frames(inputs / "pose", None)]
    part = [np.asarray(picture) for picture in open_frames(inputs / "pose", "3-5")]
    assert np.array_equal(whole[2:5], part)
    assert open_frames(inputs / "pose", "3-5").num_frames == 3
    assert len(list(open_frames(inputs / "pose", "50"))) == NUM_POSES
    with pytest.raises(InputError, match="expected pose frames 3-9, found 6"):
        list(open_frames(inputs / "pose", "3-9"))


def test_the_digest_covers_everything_that_changes_the_result(
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
    versions = ("numpy.__version__", "PIL.__version__", "av.__version__", "openvino.__version__")
    for version in ("animate_rt.runtime.shots.versions.OWN", *versions):
        with monkeypatch.context() as patch:
            patch.setattr(version, "another")
            digests.add(digest())
    assert len(digests) == len(changes) + 6
    assert digest(contact_sheet=tmp_path / "sheet.png") == before
    picture = Image.open(inputs / "pose" / "003.png").transpose(Image.Transpose.ROTATE_180)
    picture.save(inputs / "pose" / "003.png")
    assert digest() not in digests
    changed = digest()
    (inputs / "pose" / "notes.txt").touch()  # not a picture
    assert digest() == changed
    (inputs / "pose" / "009.png").write_bytes((inputs / "pose" / "000.png").read_bytes())
    assert digest() not in {*digests, changed}


@pytest.mark.parametrize("output", ["out.mp4", "frames"])
def test_a_shot_is_done_only_if_its_files_match_the_sidecar(
    inputs: Path, tmp_path: Path, output: str
) -> None:
    shot = example(inputs, tmp_path / output, steps=2)
    digest = shot.digest()
    assert not is_done(shot, digest)
    with open_animator(shot.bundle) as animator:
        make(shot, animator)
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


def test_only_a_directory_of_an_earlier_result_is_replaced(inputs: Path, tmp_path: Path) -> None:
    for steps in (2, 3):
        shot = example(inputs, tmp_path / "frames", steps=steps)
        with open_animator(shot.bundle) as animator:
            make(shot, animator)
        assert is_done(shot, shot.digest())
    assert names(tmp_path) == ["frames", "frames.json"]
    (tmp_path / "frames" / "notes.txt").touch()
    with pytest.raises(OutputError, match=r"notes\.txt does not belong to an earlier"):
        Output.at(str(tmp_path / "frames"))


def test_a_contact_sheet(animate: Callable[..., int], tmp_path: Path) -> None:
    assert animate("out.mp4", "--contact-sheet", str(tmp_path / "sheet.png")) == 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (7 * WIDTH + 8 * 4, 2 * HEIGHT + 3 * 4)


def test_a_contact_sheet_can_be_added_to_a_finished_shot(animate: Callable[..., int], tmp_path: Path) -> None:
    assert animate("out.mp4") == 0
    assert animate("out.mp4", "--contact-sheet", str(tmp_path / "sheet.png")) == 0
    assert names(tmp_path) == ["out.mp4", "out.mp4.json", "sheet.png"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_shot_keeps_its_progress_and_resumes(
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


def test_file_names_that_the_locale_cannot_encode(inputs: Path, tmp_path: Path) -> None:
    """Paths with umlauts in an ASCII locale, without HOME or terminal, in a read-only working directory."""
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
    for progress in ("auto", "json"):
        output = [
            "--output",
            str(folder / f"ä{progress}.mp4"),
            "--contact-sheet",
            str(folder / f"ö{progress}.png"),
        ]
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
                progress,
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
