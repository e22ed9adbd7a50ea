"""Driving videos as people have them: turned, of variable rate, silent, with others, with cuts, and long."""

from __future__ import annotations

import resource
import struct
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from animate_rt.errors import InputError
from animate_rt.runtime.poses.driving import Driving, DrivingReport, keypoints_of, open_poses
from animate_rt.runtime.poses.extraction.extract import Report
from animate_rt.runtime.shots.making import make
from PIL import Image

from . import shot_command
from .fixed_cost import HEIGHT, WIDTH, example, open_animator
from .square_networks import picture, places
from .square_networks import pose_bundle as squares

inputs = shot_command.inputs
RATE = 25
NECK_PLACES = (5, 6)  # the shoulders, of which the neck is the middle
Square = tuple[int, int, int]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return squares(tmp_path_factory.mktemp("networks"))


def video(path: Path, frames: list[Image.Image], times: list[int] | None = None) -> Path:
    """A video without sound. `times` are in 1/100 s; by default there are 25 frames per second."""
    with av.open(path, "w") as container:
        stream: Any = container.add_stream("libx264", RATE if times is None else 100, {"crf": "4"})
        stream.width, stream.height, stream.pix_fmt = *frames[0].size, "yuv444p"
        for i, shown in enumerate(frames):
            frame = av.VideoFrame.from_image(shown).reformat(format="yuv444p")
            frame.pts, frame.time_base = (
                (i, Fraction(1, RATE)) if times is None else (times[i], Fraction(1, 100))
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def turned(path: Path, degrees: int) -> Path:
    """Write into a video's header how it is turned for display, as phones do."""
    cos, sin = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    matrix = struct.pack(">9i", cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30)
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 44
    data[start : start + len(matrix)] = matrix
    path.write_bytes(data)
    return path


def found(source: Any, models: Path, report: Report | None = None, **given: Any) -> Any:
    return keypoints_of(source, Driving(align="none", smooth="none", models=models, **given), report=report)


def neck(square: Square) -> Any:
    return places(square)[list(NECK_PLACES)].mean(axis=0)


def assert_is(pose: Any, square: Square, tolerance: float = 2.0) -> None:
    assert np.hypot(*(pose[1, :2] - neck(square))) <= tolerance


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_a_turned_video_shows_people_upright(models: Path, tmp_path: Path, degrees: int) -> None:
    upright = [picture((200 + 10 * i, 200, 24)) for i in range(4)]
    stored = [frame.rotate(degrees, expand=True) for frame in upright]
    keypoints = found(turned(video(tmp_path / "phone.mp4", stored), degrees), models)
    assert (keypoints.width, keypoints.height) == (640, 480)
    for i, pose in enumerate(keypoints.frames):
        assert_is(pose, (200 + 10 * i, 200, 24))


def test_a_video_of_variable_rate_is_followed_in_time(models: Path, tmp_path: Path) -> None:
    """Someone who moves steadily does so in the clip too, wherever the camera took its frames."""
    times = [0, 4, 8, 12, 16, 28, 32, 36, 40, 52, 56, 60]
    frames = [picture((100 + 4 * time, 200, 24)) for time in times]
    path = video(tmp_path / "phone.mp4", frames, times)
    keypoints = found(path, models)
    seconds = np.arange(len(keypoints)) / float(keypoints.frame_rate)
    expected = np.array([neck((100, 200, 24))[0]]) + 400 * seconds
    # At the frame rate of the clip, a frame is at most one interval of the camera late.
    assert np.abs(keypoints.frames[:, 1, 0] - expected).max() <= 400 * 0.12
    assert len(keypoints) == pytest.approx(0.64 * float(keypoints.frame_rate), abs=2)


def test_a_silent_video_gives_a_silent_clip(inputs: Path, models: Path, tmp_path: Path) -> None:
    path = video(tmp_path / "silent.mp4", [picture((200 + 4 * i, 200, 24)) for i in range(6)])
    driving = Driving(align="none", smooth="none", models=models)
    shot = replace(example(inputs, tmp_path / "out.mp4", steps=1, driving=driving), pose=path)
    with open_animator(inputs / "bundle") as animator:
        assert make(shot, animator).num_frames == 6
    with av.open(tmp_path / "out.mp4") as container:
        assert not container.streams.audio
        assert container.streams.video[0].frames == 6


def test_the_largest_of_two_people_drives_unless_another_is_chosen(models: Path, tmp_path: Path) -> None:
    large, small = [(100 + 4 * i, 200, 30) for i in range(6)], [(450 - 4 * i, 220, 18) for i in range(6)]
    frames = [picture(*both) for both in zip(small, large, strict=True)]
    path = video(tmp_path / "pair.mp4", frames)
    choices: list[tuple[Any, list[Square]]] = [(0, large), (1, small), ((459.0, 229.0), small)]
    for person, squares_of in choices:
        for pose, square in zip(found(path, models, person=person).frames, squares_of, strict=True):
            assert_is(pose, square)
    assert not found(path, models, person=5).scores.any()


@pytest.mark.parametrize("other", [(), ((480, 220, 18),)])
def test_a_person_who_is_hidden_for_a_while(models: Path, tmp_path: Path, other: tuple[Square, ...]) -> None:
    """Five frames are interpolated. After more of them, somebody else is not taken without a word."""
    squares_of: list[Square] = [(100 + 4 * i, 200, 30) for i in range(24)]
    hidden = {*range(5, 10), *range(15, 24)}
    frames = [
        picture(*other) if i in hidden else picture(square, *other) for i, square in enumerate(squares_of)
    ]
    report = DrivingReport(Report())
    keypoints = found(video(tmp_path / "hidden.mp4", frames), models, report.extraction)
    for pose, square in zip(keypoints.frames[:15], squares_of, strict=False):
        assert_is(pose, square, 4)
    assert not keypoints.scores[15:20].any()
    lines = "\n".join(report.lines())
    assert "lost in frames 6-10" in lines
    assert "missing in frames 16-2" in lines
    assert ("chosen anew" in lines) == keypoints.scores[15:].any() == bool(other)


def test_a_cut_to_an_empty_scene_ends_the_skeletons(models: Path, tmp_path: Path) -> None:
    frames = [picture((200, 200, 24))] * 4 + [picture()] * 8
    report = DrivingReport(Report())
    keypoints = found(video(tmp_path / "cut.mp4", frames), models, report.extraction)
    assert [bool(pose[:, 2].any()) for pose in keypoints.frames] == [True] * 4 + [False] * 8
    assert "missing in frames 5-12" in "\n".join(report.lines())


def test_a_cut_to_somebody_else_is_reported(models: Path, tmp_path: Path) -> None:
    frames = [picture((100, 200, 24))] * 4 + [picture((500, 220, 18))] * 12
    report = DrivingReport(Report())
    keypoints = found(video(tmp_path / "cut.mp4", frames), models, report.extraction)
    assert_is(keypoints.frames[-1], (500, 220, 18))
    assert "chosen anew" in "\n".join(report.lines())


def test_nobody_at_all_is_one_line(inputs: Path, models: Path, tmp_path: Path) -> None:
    path = video(tmp_path / "empty.mp4", [picture()] * 4)
    driving = Driving(align="none", models=models)
    shot = replace(example(inputs, tmp_path / "out.mp4", steps=1, driving=driving), pose=path)
    with (
        open_animator(inputs / "bundle") as animator,
        pytest.raises(InputError, match="expected a person in the driving video, found nobody"),
    ):
        make(shot, animator)


def dancing(number: int) -> Image.Image:
    return picture((40 + number % 60, 50, 10), size=(160, 120))


def stream(inputs: Path, models: Path, num_frames: int) -> tuple[int, int, int]:
    """Animate a stream of pictures. Returns the frames made, how many pictures had been read when the first
    one left, and by how many bytes memory grew after a tenth of them."""
    read = 0

    def pictures() -> Iterator[Image.Image]:
        nonlocal read
        for number in range(num_frames):
            read += 1
            yield dancing(number)

    poses = open_poses(pictures(), smooth="forward", models=models)
    made = first = warm = 0
    reference = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    with open_animator(inputs / "bundle") as animator:
        for _ in animator.animate(reference, poses, steps=1, overlap=1, windows="open"):
            made += 1
            first = first or read
            if made == num_frames // 10:
                warm = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return made, first, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - warm)


def test_a_stream_is_animated_while_it_is_read(inputs: Path, models: Path) -> None:
    made, first, _ = stream(inputs, models, 120)
    assert made == 120
    assert first < 30


@pytest.mark.slow
def test_two_thousand_frames_take_no_more_memory(
    inputs: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, first, growth = stream(inputs, models, 2000)
    with capsys.disabled():
        print(f"\nfirst frame after {first} of 2000 pictures, memory grew by {growth / 1e6:.1f} MB")
    assert made == 2000
    assert first < 30
    assert growth < 20e6
