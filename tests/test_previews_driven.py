"""Contact sheet and overlay of a driving video: the frames from which the poses were made, and the sound."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from animate_rt.runtime.media.contact_sheet import GAP
from animate_rt.runtime.media.frame_range import FrameRange
from animate_rt.runtime.media.picture import fit
from animate_rt.runtime.poses.driving import Driving, keypoints_of, open_poses
from animate_rt.runtime.poses.formats.writing import write_keypoints
from animate_rt.runtime.poses.sources import driving_pictures
from animate_rt.runtime.shots.checks import check
from animate_rt.runtime.shots.making import make
from animate_rt.runtime.shots.shot import Shot, is_done
from PIL import Image

from . import shot_command
from .fixed_cost import HEIGHT, WIDTH, example, open_animator
from .people import person
from .square_networks import GREY, picture
from .square_networks import pose_bundle as squares
from .test_previews import Pixels, away, frames_of

inputs = shot_command.inputs
RATE, LENGTH = 25, 16


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return squares(tmp_path_factory.mktemp("networks"))


def left(number: float) -> int:
    """Where the square is in a frame of the driving video."""
    return round(80 + 24 * number)


@pytest.fixture(scope="module")
def dance(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of a red square that moves to the right, with a tone."""
    path = tmp_path_factory.mktemp("dance") / "dance.mp4"
    with av.open(path, "w") as container:
        video: Any = container.add_stream("libx264", RATE, {"crf": "4"})
        video.width, video.height, video.pix_fmt = 640, 480, "yuv444p"
        audio: Any = container.add_stream("aac", rate=48_000, layout="mono")
        for i in range(LENGTH):
            frame = av.VideoFrame.from_image(picture((left(i), 200, 24)))
            frame.pts, frame.time_base = i, Fraction(1, RATE)
            container.mux(video.encode(frame.reformat(format="yuv444p")))
        for start in range(0, 30 * 1024, 1024):
            tone = np.sin(np.arange(start, start + 1024) / 20).astype(np.float32)[None]
            samples = av.AudioFrame.from_ndarray(tone, "fltp", "mono")
            samples.sample_rate, samples.pts, samples.time_base = 48_000, start, Fraction(1, 48_000)
            container.mux(audio.encode(samples))
        container.mux(video.encode())
        container.mux(audio.encode())
    return path


def driven(inputs: Path, output: Path, dance: Path, models: Path, **given: Any) -> Shot:
    driving = Driving(align="none", smooth="none", models=models)
    return replace(example(inputs, output, steps=1, driving=driving, **given), pose=dance)


def place_of_red(frame: Pixels) -> float:
    """The mean x of red pixels."""
    colours = frame.astype(int)
    _, x = np.nonzero((colours[..., 0] > 150) & (colours[..., 1] < 80) & (colours[..., 2] < 80))
    return float(x.mean())


def test_an_overlay_of_a_driving_video_shows_the_frames_of_the_poses_with_sound(
    inputs: Path, tmp_path: Path, dance: Path, models: Path
) -> None:
    sheet, overlay = tmp_path / "sheet.png", tmp_path / "o.mp4"
    shot = driven(inputs, tmp_path / "out.mp4", dance, models, frames="4-9", contact_sheet=sheet)
    shot = replace(shot, overlay=overlay)
    check(shot, open_animator(shot.bundle).bundle)
    seen = []
    with open_animator(shot.bundle) as animator:
        make(shot, animator, progress=lambda progress: seen.append(progress))
        assert is_done(shot, shot.digest(animator.bundle))
        poses = open_poses(dance, smooth="none", models=models, frames=9)
    assert [tuple(each) for each in seen if each.stage == "overlay"] == [
        ("overlay", i + 1, 6) for i in range(6)
    ]
    panel = 2 * round(640 / 480 * HEIGHT / 2)
    skeletons = [fit(pose, WIDTH, HEIGHT) for pose in poses][3:]
    results = frames_of(tmp_path / "out.mp4")
    for i, frame in enumerate(frames_of(overlay)):
        assert frame.shape == (HEIGHT, panel + 2 * WIDTH, 3)
        assert place_of_red(frame[:, :panel]) == pytest.approx(
            (left(3 + i) + 12) / 640 * panel - 0.5, abs=1.2
        )
        assert away(frame[:, panel : panel + WIDTH], skeletons[i]) < 8
        assert away(frame[:, panel + WIDTH :], results[i]) < 8
    assert i == 5
    ends = []
    for path in (overlay, tmp_path / "out.mp4"):
        with av.open(path) as container:
            sound = container.streams.audio[0]
            ends.append(float(sound.duration * sound.time_base))
            assert container.streams.video[0].average_rate == RATE
    assert ends[0] == ends[1] == pytest.approx(6 / RATE, abs=1 / RATE)
    first = np.asarray(Image.open(sheet))[GAP : GAP + HEIGHT, WIDTH + 2 * GAP : 2 * WIDTH + 2 * GAP]
    assert place_of_red(first) == pytest.approx((left(3) + 12) / 640 * WIDTH - 0.5, abs=1)
    assert away(first[HEIGHT // 2, :4], np.full((4, 3), GREY, np.uint8)) < 4


def test_pictures_have_no_sound_and_neither_has_their_overlay(
    inputs: Path, tmp_path: Path, dance: Path, models: Path
) -> None:
    shot = driven(inputs, tmp_path / "frames", dance, models, frames="2", overlay=tmp_path / "o.mp4")
    with open_animator(shot.bundle) as animator:
        make(shot, animator)
    with av.open(tmp_path / "o.mp4") as container:
        assert not container.streams.audio
        assert container.streams.video[0].frames == 2


def test_an_animated_picture_drives_a_video_without_sound(inputs: Path, tmp_path: Path, models: Path) -> None:
    first, *others = [picture((left(i), 200, 24)) for i in range(3)]
    first.save(tmp_path / "dance.webp", save_all=True, append_images=others, duration=40, lossless=True)
    shot = driven(inputs, tmp_path / "out.mp4", tmp_path / "dance.webp", models, overlay=tmp_path / "o.mp4")
    with open_animator(shot.bundle) as animator:
        make(shot, animator)
    for name in ("out.mp4", "o.mp4"):
        with av.open(tmp_path / name) as container:
            assert (container.streams.video[0].frames, len(container.streams.audio)) == (3, 0)


def test_keypoints_have_no_driving_frames(inputs: Path, tmp_path: Path) -> None:
    write_keypoints(tmp_path / "walk.npz", person("walk", frames=3))
    shot = example(inputs, tmp_path / "out.mp4", steps=1, driving=Driving(align="none"))
    shot = replace(shot, pose=tmp_path / "walk.npz", overlay=tmp_path / "o.mp4")
    with open_animator(shot.bundle) as animator:
        make(shot, animator)
    assert [frame.shape for frame in frames_of(tmp_path / "o.mp4")] == [(HEIGHT, 2 * WIDTH, 3)] * 3


@pytest.mark.parametrize("rate", [None, 10, 25, 50, Fraction(30000, 1001)])
@pytest.mark.parametrize(("start", "stop"), [(0, None), (3, None), (2, 5)])
def test_there_is_a_driving_frame_for_every_pose(
    dance: Path, models: Path, rate: Any, start: int, stop: int | None
) -> None:
    frames = FrameRange(start=start, stop=stop, frame_rate=rate and Fraction(rate))
    found = keypoints_of(dance, Driving(align="none", models=models), frames)
    pictures = driving_pictures(dance, frames)
    assert pictures is not None
    shown = [place_of_red(np.asarray(each)) for each in pictures]
    step = RATE / float(rate or RATE)
    expected = [left(min((start + i) * step, LENGTH - 1)) + 11.5 for i in range(len(found))]
    assert len(shown) == len(found)
    assert np.abs(np.array(shown) - expected).max() <= 0.6 * (left(1) - left(0))
