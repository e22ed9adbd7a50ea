"""The command line: two commands from a checkpoint to a video, and one line and an exit status per error."""

from __future__ import annotations

import os
import re
import resource
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
from animate_rt import demo
from animate_rt.__main__ import main, parser
from animate_rt.benchmarks.instruments.accuracy import compare_frames
from animate_rt.benchmarks.puppets.world.scene import Scene
from animate_rt.runtime.marks.detection import detect
from animate_rt.runtime.marks.metadata import GENERATED
from animate_rt.runtime.media.picture import read_picture
from animate_rt.runtime.media.pose_sequence import open_pose
from PIL import Image

from .slow import SLOW

PROGRESS = re.compile(r"(load|export|compile|seal|pose|denoise|decode)\b.* \d\d:\d\d")

Run = Callable[..., "Outcome"]


class Outcome:
    """Exit status and output of a command that ran in this process."""

    def __init__(self, status: int, out: str, err: str):
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str | Path) -> Outcome:
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as error:  # argparse
            status = int(error.code or 0)
        return Outcome(status, *capsys.readouterr())

    return call


@pytest.fixture
def animate(run: Run, small: Any, small_bundle: Path) -> Run:
    def call(output: Path, *options: str | Path, **changed: str | Path) -> Outcome:
        values = {"reference": small.reference, "pose": small.pose, "steps": "1"} | changed
        named = [part for name, value in values.items() for part in (option(name), value)]
        return run("animate", small_bundle, "--output", output, *named, *options)

    return call


def command(bundle: Path, case: Any, output: Path, *options: str) -> list[str]:
    arguments = ["animate", bundle, "--reference", case.reference, "--pose", case.pose, "--output", output]
    return [sys.executable, "-m", "animate_rt", *map(str, arguments), *options]


def test_animate_writes_an_mp4(animate: Run, tmp_path: Path) -> None:
    done = animate(tmp_path / "out.mp4", "--fps", "30000/1001")
    assert done.status == 0
    assert all(PROGRESS.match(line) for line in done.err.splitlines())
    assert "denoise   100%" in done.err
    assert done.out.strip() == str(tmp_path / "out.mp4")
    with av.open(tmp_path / "out.mp4") as container:
        stream = container.streams.video[0]
        assert stream.average_rate == Fraction(30000, 1001)
        assert (stream.width, stream.height) == (64, 96)
        assert sum(1 for _ in container.decode(stream)) == 10


def test_pngs_and_the_frame_rate_of_a_pose_video(animate: Run, tmp_path: Path) -> None:
    """Without --fps, an mp4 has the frame rate of its pose video."""
    assert animate(tmp_path / "pose.mp4", "--fps", "12").status == 0
    assert animate(tmp_path / "frames", pose=tmp_path / "pose.mp4", frames="3").status == 0
    assert [path.name for path in sorted((tmp_path / "frames").iterdir())] == [
        f"0000{i}.png" for i in range(3)
    ]
    assert animate(tmp_path / "again.mp4", pose=tmp_path / "pose.mp4").status == 0
    with av.open(tmp_path / "again.mp4") as container:
        assert container.streams.video[0].average_rate == 12


def test_the_recorded_clip_through_both_commands(run: Run, bundle: Path, case: Any, tmp_path: Path) -> None:
    """`build` made the bundle (conftest.py); `animate` makes the recorded frames from the recorded inputs."""
    options = [part for name, value in case.animate_options.items() for part in (option(name), value)]
    inputs = ["--reference", case.reference, "--pose", case.pose]
    assert (
        run("animate", bundle, *inputs, *options, "--no-watermark", "--output", tmp_path / "frames").status
        == 0
    )
    frames = np.stack([np.asarray(Image.open(path)) for path in sorted((tmp_path / "frames").iterdir())])
    truth = case.io["video"][0].transpose(1, 2, 3, 0)
    assert -10 * np.log10(np.mean((frames / 255 - truth) ** 2)) >= 58


def option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def test_inspect_describes_a_bundle(run: Run, small_bundle: Path) -> None:
    done = run("inspect", small_bundle)
    assert done.status == 0
    for part in ("64x96 pixels, window of 6 frames", "openvino", "fp32", "denoising_unet", "key_*"):
        assert part in done.out


def test_inspect_plans_memory_before_anything_is_loaded(run: Run, small_bundle: Path) -> None:
    done = run("inspect", small_bundle, "--frames", "100", "--steps", "4")
    assert done.status == 0
    for part in ("memory of a clip of 100 frames in 4 steps", "one reference", "(100 frames)", "free: "):
        assert part in done.out
    refused(run("inspect", small_bundle, "--frames", "0"), 64, "at least 1 frame")
    done = run("inspect", small_bundle, "--steps", "999,499")
    assert "25 steps, guidance scale 3.5, unless a clip sets others" in done.out
    assert "in 2 steps" in done.out


def refused(done: Outcome, status: int, *parts: str) -> None:
    """Check that the command failed with a one-line error, preceded by nothing but progress lines."""
    assert done.status == status, done.err
    *progress, message = done.err.splitlines()
    assert all(PROGRESS.match(line) for line in progress), done.err
    assert message.startswith("animate-rt: ")
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("options", "status", "part"),
    [
        ({"steps": "0"}, 64, "steps: expected 1 to 100000 steps"),
        ({"steps": "1001"}, 64, "steps: expected 1 to 1000, found 1001"),
        ({"steps": "249,999"}, 64, "steps: expected 1 to 100000 steps, or descending timesteps"),
        ({"overlap": "6"}, 64, "overlap: expected 0 to 5"),
        ({"overlap": "60"}, 64, "overlap: expected 0 to 5"),
        ({"guidance_scale": "nan"}, 64, "guidance_scale: expected 1"),
        ({"seed": "-5"}, 64, "seed: expected"),
        ({"frames": "0"}, 64, "frames: expected"),
        ({"reference": "none.png"}, 66, "none.png"),
        ({"pose": "none.mp4"}, 66, "none.mp4"),
        ({"initial_noise": "none.npy"}, 66, "none.npy"),
    ],
)
def test_animate_with_bad_options(animate: Run, tmp_path: Path, options: Any, status: int, part: str) -> None:
    refused(animate(tmp_path / "out.mp4", **options), status, part)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("role", ["reference", "pose"])
@pytest.mark.parametrize("content", [b"", b"hello, this is a text\n" * 50, b"\x89PNG\r\n\x1a\n\0\0"])
@pytest.mark.parametrize("suffix", [".png", ".mp4", ".txt"])
def test_inputs_that_are_neither_pictures_nor_videos(
    animate: Run, tmp_path: Path, role: str, content: bytes, suffix: str
) -> None:
    bad = tmp_path / f"bad{suffix}"
    bad.write_bytes(content)
    refused(animate(tmp_path / "out", **{role: bad}), 65, bad.name)
    assert list(tmp_path.iterdir()) == [bad]


def test_an_empty_pose_directory(animate: Run, tmp_path: Path) -> None:
    (tmp_path / "pose").mkdir()
    refused(animate(tmp_path / "out.mp4", pose=tmp_path / "pose"), 65, "pose")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_noise_that_is_not_finite(animate: Run, tmp_path: Path, value: float) -> None:
    noise = np.zeros((1, 4, 10, 12, 8), np.float32)
    noise[0, 0, 3, 2, 1] = value
    np.save(tmp_path / "noise.npy", noise)
    refused(animate(tmp_path / "out.mp4", initial_noise=tmp_path / "noise.npy"), 65, "finite")


def test_noise_of_another_shape(animate: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "noise.npy", np.zeros((1, 4, 9, 12, 8), np.float32))
    done = animate(tmp_path / "out.mp4", initial_noise=tmp_path / "noise.npy")
    refused(done, 65, "as many frames as poses", "found 9 for more than 9")
    assert [path.name for path in tmp_path.iterdir()] == ["noise.npy"]


def test_a_picture_of_a_few_pixels(animate: Run, tmp_path: Path) -> None:
    Image.new("RGB", (5, 3)).save(tmp_path / "tiny.png")
    refused(animate(tmp_path / "out.mp4", reference=tmp_path / "tiny.png"), 65, "5x3")


@pytest.mark.parametrize(
    ("size", "part"),
    [
        (["--width", "63", "--height", "96", "--window", "6"], "width: expected a multiple of 8"),
        (["--width", "64", "--height", "-8", "--window", "6"], "height: expected a multiple of 8"),
        (["--width", "8", "--height", "8", "--window", "6"], "of at least 64, found 8"),
        (["--width", "64", "--height", "96", "--window", "0"], "window: expected 1 to 32"),
        (["--width", "64", "--height", "96", "--window", "33"], "window: expected 1 to 32"),
        (
            ["--width", "64", "--height", "96", "--window", "6", "--precision", "fp16"],
            "precision: expected one of fp32, bf16, int8 with backend openvino",
        ),
    ],
)
def test_build_with_bad_options(run: Run, small: Any, tmp_path: Path, size: list[str], part: str) -> None:
    refused(run("build", small.checkpoint, tmp_path / "bundle", *size), 64, part)
    assert list(tmp_path.iterdir()) == []


def test_build_from_a_missing_or_empty_checkpoint(run: Run, tmp_path: Path) -> None:
    size = ["--width", "64", "--height", "96", "--window", "6"]
    refused(run("build", tmp_path / "none", tmp_path / "bundle", *size), 66, "none")
    refused(run("build", tmp_path, tmp_path / "bundle", *size), 65, "denoising_unet")


def test_inspect_without_a_bundle(run: Run, tmp_path: Path) -> None:
    refused(run("inspect", tmp_path / "none"), 66, "animate-rt build")
    refused(run("inspect", tmp_path), 65, "manifest.json")


@pytest.mark.parametrize("output", ["out.webm", "none/out.mp4", "taken.mp4", "full"])
def test_outputs_that_cannot_be_written(animate: Run, tmp_path: Path, output: str) -> None:
    (tmp_path / "taken.mp4").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    before = sorted(tmp_path.rglob("*"))
    done = animate(tmp_path / output)
    assert done.status in (64, 73)
    refused(done, done.status, output.split("/")[-1].split(".")[-1])
    assert sorted(tmp_path.rglob("*")) == before


def test_a_bad_frame_rate_is_a_usage_error(animate: Run, tmp_path: Path) -> None:
    done = animate(tmp_path / "out.mp4", "--fps", "fast")
    assert done.status == 2
    assert "expected frames per second" in done.err


@pytest.mark.parametrize("output", ["out.mp4", pytest.param("frames", marks=SLOW)])
def test_a_full_disk(small: Any, small_bundle: Path, tmp_path: Path, output: str) -> None:
    """A limit on file sizes makes writes fail as on a full disk."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    done = subprocess.run(
        command(small_bundle, small, tmp_path / output, "--steps", "1"),
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
    )
    refused(Outcome(done.returncode, done.stdout, done.stderr), 73, output)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "status", "output"),
    [
        (signal.SIGKILL, -signal.SIGKILL, "out.mp4"),
        (signal.SIGTERM, 143, "frames"),
        (signal.SIGINT, 130, "out.mp4"),
        pytest.param(signal.SIGKILL, -signal.SIGKILL, "frames", marks=SLOW),
        pytest.param(signal.SIGTERM, 143, "out.mp4", marks=SLOW),
        pytest.param(signal.SIGINT, 130, "frames", marks=SLOW),
    ],
)
def test_a_stopped_run_leaves_only_files_to_resume_from(
    small: Any, small_bundle: Path, tmp_path: Path, number: int, status: int, output: str
) -> None:
    process = subprocess.Popen(
        command(small_bundle, small, tmp_path / output, "--steps", "1000"),
        stderr=subprocess.PIPE,
        text=True,
    )
    while not any(tmp_path.glob(".*/snapshot.npz")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in err) == (status, False), err
    assert not (tmp_path / output).exists()
    (kept,) = tmp_path.iterdir()
    assert kept.suffix == ".partial"
    assert any(kept.glob("*.tmp")) <= (number == signal.SIGKILL)


def test_it_runs_as_a_module_without_home_or_terminal(small: Any, small_bundle: Path, tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    done = subprocess.run(
        command(small_bundle, small, tmp_path / "out.mp4", "--steps", "1"),
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(900)
def test_the_demo(run: Run, tmp_path: Path) -> None:
    """Its character and poses were held out of training. Its frames are at least 3 dB closer to the true ones
    than copies of the reference are."""
    done = run("demo", "--output", tmp_path / "demo")
    assert done.status == 0
    assert done.out.splitlines()[-1].endswith("weights/puppets/README.md")
    files = [tmp_path / "demo" / name for name in ("demo.mp4", "contact-sheet.png")]
    assert all(str(path) in done.out for path in files)
    assert {detect(path).metadata.source_type for path in files} == {GENERATED}
    with av.open(tmp_path / "demo" / "demo.mp4") as container:
        made = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with Image.open(tmp_path / "demo" / "contact-sheet.png") as sheet:
        assert sheet.size == (7 * 128 + 8 * 4, 2 * 128 + 3 * 4)
    scene = Scene("held-out", 1007, 128)
    assert np.array_equal(read_picture(demo.INPUTS / "reference.png"), scene.reference())
    for i, pose in enumerate(open_pose(demo.INPUTS / "pose", None)):
        assert np.array_equal(pose, scene.pose(i))
    true = [scene.frame(i) for i in range(len(made))]
    assert len(true) == 24
    made_db, copied_db = (
        compare_frames(frames, true)["psnr_db"] for frames in (made, [scene.reference()] * len(true))
    )
    assert made_db > copied_db + 3


def test_build_without_torch_says_what_to_install(
    run: Run, small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `pip install .[cpu]`."""
    monkeypatch.setattr("animate_rt.console.find_spec", lambda name: name != "torch")
    size = ["--width", "64", "--height", "96", "--window", "6"]
    refused(run("build", small.checkpoint, tmp_path / "bundle", *size), 64, "found no torch", "pip install")


@pytest.mark.parametrize("command_name", ["build", "animate", "inspect", "demo"])
def test_every_option_has_a_help_text(run: Run, command_name: str) -> None:
    done = run(command_name, "--help")
    assert done.status == 0
    for action in parser()._subparsers._group_actions[0].choices[command_name]._actions:
        assert action.help
