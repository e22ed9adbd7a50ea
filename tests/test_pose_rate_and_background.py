"""`--pose-fps` and `--background` from the command line to the frames, and notices about inputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from animate_rt import ClipOptions
from animate_rt.errors import ConfigError
from animate_rt.runtime.shots.job_list import read_jobs
from PIL import Image

from . import shot_command
from .fixed_cost import open_animator
from .written_frames import decode

inputs, animate = shot_command.inputs, shot_command.animate


def rate_and_length(path: Path) -> tuple[Fraction | None, int]:
    with av.open(path) as container:
        stream = container.streams.video[0]
        return stream.average_rate, stream.frames


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], (24, 6)),
        (["--pose-fps", "12"], (12, 3)),
        (["--pose-fps", "8", "--frames", "2"], (8, 2)),
        (["--pose-fps", "12", "--frames", "2-3"], (12, 2)),
        (["--pose-fps", "12", "--fps", "30"], (30, 3)),
        (["--pose-fps", "48"], (48, 12)),
        (["--pose-fps", "23.976"], (Fraction(24000, 1001), 6)),
    ],
)
def test_pose_fps(animate: Callable[..., int], tmp_path: Path, options: list[str], expected: Any) -> None:
    assert animate("out.mp4", *options) == 0
    assert rate_and_length(tmp_path / "out.mp4") == expected


def test_every_second_pose_gives_the_clip_of_those_poses(inputs: Path) -> None:
    poses = sorted((inputs / "pose").iterdir())
    with open_animator(inputs / "bundle") as animator:
        for source in (inputs / "pose", poses, iter(poses)):
            found = list(animator.animate(inputs / "reference.png", source, steps=2, pose_fps=12))
            wanted = list(animator.animate(inputs / "reference.png", poses[::2], steps=2))
            assert np.array_equal(found, wanted)


@pytest.mark.parametrize("value", ["0", "x", "1e9", "-3"])
def test_refuses_other_rates(animate: Callable[..., int], capsys: Any, value: str) -> None:
    with pytest.raises(SystemExit) as caught:
        animate("out.mp4", f"--pose-fps={value}")
    assert caught.value.code == 2
    assert "expected frames per second like 25" in capsys.readouterr().err


@pytest.fixture
def transparent_reference(inputs: Path) -> Path:
    """A reference whose right half is transparent green."""
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[:, :32] = (255, 0, 0, 255)
    pixels[:, 32:] = (0, 255, 0, 0)
    Image.fromarray(pixels).save(inputs / "reference.png")
    return inputs / "reference.png"


def test_background_decides_frames_digest_and_sheet(
    animate: Callable[..., int], transparent_reference: Path, tmp_path: Path, capsys: Any
) -> None:
    sheets = {}
    for colour in (None, "white", "black"):
        options = ["--no-watermark"] + ([] if colour is None else ["--background", colour])
        sheet = tmp_path / f"{colour}.png"
        assert animate(f"{colour}.mp4", "--contact-sheet", str(sheet), *options) == 0
        sheets[colour] = np.asarray(Image.open(sheet))
    assert not np.array_equal(sheets["white"], sheets["black"])
    clips = [decode(tmp_path / f"{colour}.mp4") for colour in sheets]
    for index, clip in enumerate(clips):
        assert not any(np.array_equal(clip, other) for other in clips[index + 1 :])
    # The colours stored under the transparent pixels are shown by default.
    Image.open(transparent_reference).convert("RGB").save(transparent_reference)
    assert animate("opaque.mp4", "--no-watermark") == 0
    assert np.array_equal(decode(tmp_path / "opaque.mp4"), clips[0])
    capsys.readouterr()
    assert animate("white.mp4", "--no-watermark", "--background", "white") == 0  # the reference has changed
    assert "already done" not in capsys.readouterr().err


def test_names_of_the_same_colour_are_the_same_option(animate: Callable[..., int], capsys: Any) -> None:
    assert animate("out.mp4", "--background", "white") == 0
    capsys.readouterr()
    assert animate("out.mp4", "--background", "#ffffff") == 0
    assert "already done" in capsys.readouterr().err
    assert ClipOptions(background="white") == ClipOptions(background=(255, 255, 255))


def test_refuses_other_backgrounds(animate: Callable[..., int], capsys: Any) -> None:
    assert animate("out.mp4", "--background", "whitish\x1b[31m") == 64
    (line,) = capsys.readouterr().err.splitlines()
    assert "background: expected a colour like white or #ffffff" in line
    assert line.isprintable()
    with pytest.raises(ConfigError, match="background"):
        ClipOptions(background=(1, 2, 300))


def test_the_help_states_the_defaults(animate: Callable[..., int], capsys: Any) -> None:
    with pytest.raises(SystemExit):
        animate("out.mp4", "--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "(default: the colours stored under them, as in the public code)" in text
    assert "(default: all frames at their rate)" in text


def test_job_lists_take_both(inputs: Path, tmp_path: Path) -> None:
    job = {"name": "a", "bundle": "bundle", "reference": "reference.png", "pose": "pose"}
    lines = [
        job | {"pose_fps": 12, "background": "white"},
        job | {"name": "b", "pose_fps": "30000/1001", "background": [255, 255, 255]},
        job | {"name": "c", "pose_fps": 29.97},
    ]
    path = inputs / "jobs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    shots, errors = read_jobs(path, tmp_path)
    assert not errors
    assert [shot.pose_fps for shot in shots] == [12, Fraction(30000, 1001), Fraction(30000, 1001)]
    assert [shot.options.background for shot in shots] == [(255, 255, 255), (255, 255, 255), None]
    path.write_text("".join(json.dumps(job | {key: []}) + "\n" for key in ("pose_fps", "background")))
    _, errors = read_jobs(path, tmp_path)
    assert ["pose_fps" in errors[0], "background" in errors[1]] == [True, True]


def test_notices_about_inputs_are_lines_on_standard_error(
    animate: Callable[..., int], inputs: Path, capsys: Any
) -> None:
    (inputs / "pose" / "003.png").unlink()
    assert animate("out.mp4", "--progress", "none") == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"animate-rt: {inputs / 'pose'}: 1 numbered pose frames seem to be missing, the most after number 2; "
        "the others are used without a pause"
    ]
