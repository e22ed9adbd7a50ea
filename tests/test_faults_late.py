"""What can be known before a bundle is loaded is said before it is loaded, in one line."""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from animate_rt.errors import ConfigError, InputError
from animate_rt.runtime.farm.worker import Worker
from animate_rt.runtime.media.frame_rate import frame_rate
from animate_rt.runtime.media.writer import open_writer
from animate_rt.runtime.shots.output import Output
from animate_rt.runtime.shots.pose_files import open_frames
from PIL import Image

from . import shot_command
from .fixed_cost import HEIGHT, WIDTH, WINDOW, example
from .shot_command import NUM_POSES, names

inputs, animate = shot_command.inputs, shot_command.animate


@pytest.fixture
def refused(animate: Callable[..., int], tmp_path: Path, monkeypatch: Any, capsys: Any) -> Callable[..., str]:
    """`refused(status, *options)`: the only line of a command that must end before it loads a bundle."""

    def load(_bundle: Path) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr("animate_rt.runtime.shots.commands.Animator.load", load)

    def call(status: int, *options: str, output: str = "out.mp4") -> str:
        before = sorted(tmp_path.rglob("*"))
        assert animate(output, *options) == status
        (line,) = capsys.readouterr().err.splitlines()
        assert sorted(tmp_path.rglob("*")) == before
        return str(line)

    return call


def write_noise(path: Path, frames: int = NUM_POSES, **changed: Any) -> str:
    noise = np.zeros((1, 4, frames, HEIGHT // 8, WIDTH // 8), changed.get("dtype", np.float32))
    np.save(path, noise + changed.get("plus", 0))
    return str(path)


OPTIONS = [
    (["--seed", "-1"], 64, "seed: expected"),
    (["--steps", "0"], 64, "steps: expected"),
    (["--steps", "5,4,9"], 64, "steps: expected"),
    (["--steps", "1001"], 64, "steps: expected"),
    (["--guidance-scale", "nan"], 64, "guidance_scale: expected"),
    (["--guidance-interval", "0.5", "0.1"], 64, "guidance_interval: expected"),
    (["--overlap", str(WINDOW)], 64, f"overlap: expected 0 to {WINDOW - 1}"),
    (["--order", "time-skewed"], 64, "open windows"),
    (["--frames", "0"], 64, "frames: expected"),
    (["--frames", "1-99"], 65, "expected pose frames 1-99, found 6"),
    (["--first-number", str(10**12)], 64, "first number: expected"),
    (["--contact-sheet", "{}/gone/sheet.png"], 73, "there is no directory"),
    (["--contact-sheet", "{}/inputs"], 73, "is not a file"),
    (["--contact-sheet", "{}/out.mp4"], 64, "another file than the output"),
    (["--contact-sheet", "{}/out.mp4.json"], 64, "another file than the output"),
]


@pytest.mark.parametrize(("options", "status", "part"), OPTIONS)
def test_options(
    refused: Callable[..., str], tmp_path: Path, options: list[str], status: int, part: str
) -> None:
    assert part in refused(status, *(option.format(tmp_path) for option in options))


def test_outputs(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    assert "another file" in refused(
        64, "--contact-sheet", str(tmp_path / "frames" / "sheet.png"), output="frames"
    )
    assert "choose a shorter one" in refused(73, output=f"{'x' * 240}.mp4")
    assert "choose a shorter one" in refused(73, output=f"frames/{'#' * 300}.png")
    assert "not hidden" in refused(64, output="frames/.####.png")
    with pytest.raises(ConfigError, match="expected the name of an mp4"):
        Output.at("")  # as of a variable that is not set
    os.mkfifo(tmp_path / "pipe.mp4")
    assert "is not a file" in refused(73, output="pipe.mp4")


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 2500, "x" * 10_000])
def test_names_that_no_file_can_have(refused: Callable[..., str], inputs: Path, name: str) -> None:
    for option in ("--reference", "--pose", "--initial-noise"):
        assert len(refused(65, option, str(inputs / name))) < 2500
    assert len(refused(73, output=f"{name}out.mp4")) < 2500
    assert len(refused(73, "--contact-sheet", str(inputs / f"{name}out.png"))) < 2500


def test_folders_that_cannot_be_written(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: Any
) -> None:
    """As on a read-only file system: for root there are no others."""
    (tmp_path / "sealed").mkdir()
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "sealed" and real(path, mode))
    for output in ("sealed/out.mp4", "sealed/frames"):
        assert "sealed is not writable" in refused(73, output=output)
    assert "sealed is not writable" in refused(73, "--contact-sheet", str(tmp_path / "sealed" / "sheet.png"))


def test_noise(refused: Callable[..., str], inputs: Path) -> None:
    noise = inputs / "noise.npy"
    found = f"found {NUM_POSES + 1} for {NUM_POSES} poses"
    assert found in refused(65, "--initial-noise", write_noise(noise, NUM_POSES + 1))
    assert "found 5 for more than 5" in refused(65, "--initial-noise", write_noise(noise, NUM_POSES - 1))
    assert "found 6 for 3 poses" in refused(65, "--frames", "3", "--initial-noise", write_noise(noise))
    assert "floating point" in refused(65, "--initial-noise", write_noise(noise, dtype=np.int8))
    assert "finite" in refused(65, "--initial-noise", write_noise(noise, plus=np.nan))
    assert "found nothing there" in refused(66, "--initial-noise", str(inputs / "none.npy"))


def test_pictures_of_poses(refused: Callable[..., str], inputs: Path) -> None:
    """Each is named, whichever it is."""
    picture = inputs / "pose" / "005.png"
    Image.new("I;16", (WIDTH, HEIGHT)).save(picture)
    assert "005.png" in refused(65)
    Image.new("RGB", (4, 4)).save(picture)
    assert "005.png" in refused(65)
    picture.write_bytes(b"no picture")
    assert "005.png" in refused(65)
    picture.unlink()
    os.mkfifo(picture)
    assert "005.png" in refused(65)
    picture.unlink()
    picture.symlink_to("nowhere")
    assert "005.png" in refused(66)


def test_a_folder_with_the_name_of_a_picture_is_no_frame(animate: Callable[..., int], inputs: Path) -> None:
    (inputs / "pose" / "old.png").mkdir()
    assert animate("out.mp4") == 0


def write_video(path: Path, frames: int, rate: Fraction = Fraction(24)) -> str:
    with open_writer(path, WIDTH, HEIGHT, rate) as writer:
        for value in range(frames):
            writer.write(np.full((HEIGHT, WIDTH, 3), value, np.uint8))
    return str(path)


def test_pose_videos(refused: Callable[..., str], inputs: Path) -> None:
    video = write_video(inputs / "pose.mp4", 9)
    assert "expected pose frames 3-12, found 9" in refused(65, "--pose", video, "--frames", "3-12")
    noise = write_noise(inputs / "noise.npy", 12)
    assert "found 12 for 9 poses" in refused(65, "--pose", video, "--initial-noise", noise)
    with pytest.raises(InputError):
        list(open_frames(inputs / "pose.mp4", "3-12"))


def test_a_good_shot_passes_every_check(animate: Callable[..., int], inputs: Path, tmp_path: Path) -> None:
    noise = write_noise(inputs / "noise.npy", 4)
    video = write_video(inputs / "pose.mp4", 9)
    sheet = ["--contact-sheet", str(tmp_path / "sheet.png")]
    assert animate("out.mp4", "--frames", "3-6", "--initial-noise", noise, *sheet) == 0
    assert animate("frames", "--frames", "4", "--pose", video, "--initial-noise", noise) == 0
    assert names(tmp_path) == ["frames", "frames.json", "out.mp4", "out.mp4.json", "sheet.png"]


# Frame rates

NTSC = {
    **dict.fromkeys(
        ["23.976", "23.98", "23.97", "23.9760", "23.976024", "24000/1001"], Fraction(24000, 1001)
    ),
    **dict.fromkeys(["29.97", "29.970", "29.97003", "29.9700299"], Fraction(30000, 1001)),
    **dict.fromkeys(["59.94", "59.940", "59.9400599400599"], Fraction(60000, 1001)),
    **dict.fromkeys(["47.95", "47.952"], Fraction(48000, 1001)),
    **dict.fromkeys(["119.88"], Fraction(120000, 1001)),
    **dict.fromkeys(["14.985", "14.99"], Fraction(15000, 1001)),
    **dict.fromkeys(["11.988", "11.99"], Fraction(12000, 1001)),
    **dict.fromkeys(["239.76"], Fraction(240000, 1001)),
    "24": Fraction(24),
    "24.00": Fraction(24),
    "24.0": Fraction(24),
    "30.00": Fraction(30),
    "12.5": Fraction(25, 2),
    "12.50": Fraction(25, 2),
    "25.00": Fraction(25),
    "29.9": Fraction(299, 10),
    "24.01": Fraction(2401, 100),
    "23.99": Fraction(2399, 100),
    "2997/100": Fraction(2997, 100),
}


@pytest.mark.parametrize(("text", "expected"), NTSC.items())
def test_decimals_that_mean_ntsc_rates(text: str, expected: Fraction) -> None:
    assert frame_rate(text) == expected


def test_every_shortened_ntsc_rate_is_recognized() -> None:
    for rate in (24, 30, 48, 60, 120):
        exact = Fraction(rate * 1000, 1001)
        for decimals in range(2, 12):
            text = f"{float(exact):.{decimals}f}"
            assert frame_rate(text) == exact, text
            assert frame_rate(f"{float(rate):.{decimals}f}") == rate


def test_the_frame_rate_of_a_result(animate: Callable[..., int], tmp_path: Path) -> None:
    import av

    assert animate("out.mp4", "--fps", "23.976") == 0
    with av.open(tmp_path / "out.mp4") as container:
        assert container.streams.video[0].base_rate == Fraction(24000, 1001)


def test_a_worker_of_a_farm_checks_before_it_loads(inputs: Path, tmp_path: Path) -> None:
    def load(_bundle: Path) -> Any:
        raise AssertionError("loaded")

    shot = example(inputs, tmp_path / "out.mp4", frames="3-9")
    result = Worker(load).make(shot)
    assert (result.code, result.retryable) == ("input", False)
    assert "expected pose frames 3-9, found 6" in result.error
