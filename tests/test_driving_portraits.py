"""Driving videos of a real person, with MediaPipe's models, through the commands that people run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from animate_rt.__main__ import main
from animate_rt.runtime.media.timecode import Time
from animate_rt.runtime.poses import driving
from animate_rt.runtime.poses.extraction.mediapipe import MediaPipe
from animate_rt.runtime.poses.formats.reading import read_keypoints
from animate_rt.runtime.poses.gaps import MAX_LOST
from animate_rt.runtime.poses.keypoints import NOSE
from PIL import Image, ImageOps

from . import shot_command
from .fixed_cost import open_animator
from .test_faults_videos import TURNS, with_display_matrix
from .test_pose_extraction import MARKED

inputs = shot_command.inputs
RATE = 25
SIZE = (640, 256)
NEAR = 8  # pixels
GREY, WHITE = (90, 90, 90), (250, 250, 250)
QUARTERS = Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270
UNDONE = dict(zip(QUARTERS, reversed(QUARTERS), strict=True))  # the other transposes undo themselves
Portrait = tuple[Any, int]  # a square picture, and where its left side is


def scene(*portraits: Portrait, background: tuple[int, int, int] = GREY) -> Image.Image:
    """Portraits that stand on the lower edge of the picture."""
    shown = Image.new("RGB", SIZE, background)
    for portrait, x in portraits:
        shown.paste(portrait, (x, SIZE[1] - portrait.height))
    return shown


def nose(portrait: Portrait, *, mirrored: bool = False) -> tuple[float, float]:
    """Where the nose of a portrait is in its scene."""
    picture, left = portrait
    x, y = (value / 512 * picture.height for value in MARKED[NOSE])
    return left + (picture.width - x if mirrored else x), SIZE[1] - picture.height + y


def film(path: Path, frames: list[Image.Image], *, tone: bool = False) -> Path:
    """Write a video, with a tone for as long as it lasts if it has a `tone`."""
    with av.open(path, "w") as container:
        video: Any = container.add_stream("libx264", RATE)
        video.width, video.height, video.pix_fmt = *frames[0].size, "yuv420p"
        audio: Any = container.add_stream("aac", rate=48_000, layout="mono") if tone else None
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_image(frame).reformat(format="yuv420p")))
        container.mux(video.encode())
        for start in range(0, len(frames) * 48_000 // RATE if tone else 0, 1024):
            wave = np.sin(np.arange(start, start + 1024) / 20).astype(np.float32)[None]
            samples = av.AudioFrame.from_ndarray(wave, "fltp", "mono")
            samples.sample_rate, samples.pts, samples.time_base = 48_000, start, Fraction(1, 48_000)
            container.mux(audio.encode(samples))
        if audio:
            container.mux(audio.encode())
    return path


@pytest.fixture(scope="module")
def large(astronaut: Any) -> Any:
    return astronaut.resize((256, 256), Image.Resampling.LANCZOS)


@pytest.fixture(scope="module")
def small(astronaut: Any) -> Any:
    """A smaller mirror image."""
    return ImageOps.mirror(astronaut).resize((180, 180), Image.Resampling.LANCZOS)


Pose = Callable[..., tuple[Any, list[str]]]


@pytest.fixture(scope="module")
def loaded(mediapipe_models: Path) -> Iterator[MediaPipe]:
    models = MediaPipe(mediapipe_models)
    yield models
    models.close()


@pytest.fixture
def pose(
    tmp_path: Path,
    mediapipe_models: Path,
    loaded: MediaPipe,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Pose:
    """`pose(video, *options)`: the noses that the command finds, (frames, 2), and what it says."""

    # Loading them takes a second.
    shared = SimpleNamespace(detect=loaded.detect, estimate=loaded.estimate, close=lambda: None)
    monkeypatch.setattr(driving, "open_models", lambda _folder: shared)

    def run(video: Path, *options: str) -> tuple[Any, list[str]]:
        output = tmp_path / "found.npz"
        capsys.readouterr()
        command = ["pose", str(video), "--output", str(output), "--models", str(mediapipe_models)]
        assert main([*command, "--smooth", "none", *options]) == 0
        lines = capsys.readouterr().err.splitlines()
        return read_keypoints(output).points[:, NOSE], [line for line in lines if "person" in line]

    return run


def away(found: Any, expected: Any) -> float:
    return float(np.hypot(*(np.asarray(found) - np.asarray(expected)).T).max())


@pytest.mark.parametrize("matrix", TURNS)
def test_a_video_that_its_header_turns_or_mirrors(
    pose: Pose, tmp_path: Path, large: Any, matrix: tuple[int, ...]
) -> None:
    """Phones store frames as the sensor sees them, and front cameras mirror them."""
    turn = TURNS[matrix]
    places = [(large, 100 + 8 * i) for i in range(2)]
    frames = [scene(place) for place in places]
    if turn is not None:
        frames = [frame.transpose(UNDONE.get(turn, turn)) for frame in frames]
    film(tmp_path / "stored.mp4", frames)
    found, lines = pose(with_display_matrix(tmp_path / "stored.mp4", matrix))
    assert away(found, [nose(place) for place in places]) < NEAR
    assert lines == []


def test_a_person_who_leaves_twice(pose: Pose, tmp_path: Path, large: Any) -> None:
    """For as long as is interpolated, and for one frame more."""
    first, second = 4 + np.arange(MAX_LOST), 13 + np.arange(MAX_LOST + 1)
    last = int(second[-1])
    places = [(large, 60 + 4 * i) for i in range(last + 4)]
    away_in = {*first.tolist(), *second.tolist()}
    frames = [scene() if i in away_in else scene(place) for i, place in enumerate(places)]
    found, lines = pose(film(tmp_path / "dance.mp4", frames))
    expected = [(0, 0) if i in second else nose(place) for i, place in enumerate(places)]
    assert away(found, expected) < NEAR
    assert [line.partition(": ")[2] for line in lines] == [
        f"the person is missing in frames {second[0] + 1}-{last + 1}; they have no skeleton",
        f"the person was lost in frames {first[0] + 1}-{first[-1] + 1}, which are interpolated",
        f"a person was chosen anew in frames {last + 2}; look at them",
    ]


def test_a_cut_to_another_scene_and_person(pose: Pose, tmp_path: Path, large: Any, small: Any) -> None:
    before, after = [(large, 20 + 4 * i) for i in range(5)], [(small, 400 - 4 * i) for i in range(5)]
    frames = [*map(scene, before), *(scene(place, background=WHITE) for place in after)]
    found, lines = pose(film(tmp_path / "cut.mp4", frames))
    expected = [*map(nose, before), *(nose(place, mirrored=True) for place in after)]
    assert away(found, expected) < NEAR
    assert [line.partition(": ")[2] for line in lines] == [
        "a person was chosen anew in frames 6; look at them"
    ]


def test_one_of_two_people_is_chosen_by_number_or_by_a_point(
    pose: Pose, tmp_path: Path, large: Any, small: Any
) -> None:
    bigs, smalls = [(large, 20 + 3 * i) for i in range(6)], [(small, 430) for _ in range(6)]
    path = film(tmp_path / "two.mp4", [scene(*both) for both in zip(bigs, smalls, strict=True)])
    x, y = nose(smalls[0], mirrored=True)
    for options, expected in (
        ((), [nose(big) for big in bigs]),
        (("--person", f"{x:.0f},{y + 40:.0f}"), [(x, y)] * 6),
        (("--person", "1"), [(x, y)] * 6),
    ):
        found, lines = pose(path, *options)
        there = found.any(axis=1)
        assert away(found[there], np.array(expected)[there]) < NEAR
        # The detector may see the smaller one a few frames late, and then says so.
        assert there[3:].all()
        assert bool(lines) == (not there.all())


def test_a_part_of_the_video_at_another_rate(pose: Pose, tmp_path: Path, large: Any) -> None:
    places = [(large, 40 + 6 * i) for i in range(12)]
    path = film(tmp_path / "dance.mp4", [scene(place) for place in places])
    found, _ = pose(path, "--start", "0.16", "--duration", "0.24", "--pose-fps", "50")
    expected = np.array([nose(places[4])]) + [(3 * i, 0) for i in range(Time.parse("0.24").at(Fraction(50)))]
    assert away(found, expected) < NEAR


def test_the_command_animate_from_a_photo_and_a_phones_video(
    inputs: Path,
    tmp_path: Path,
    mediapipe_models: Path,
    astronaut: Any,
    large: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The video is stored lying on its side and has sound; the result has all frames, sheet and sound."""
    monkeypatch.setattr("animate_rt.runtime.shots.commands.Animator.load", open_animator)
    astronaut.save(tmp_path / "hero.png")
    frames = [scene((large, 100 + 8 * i)).rotate(90, expand=True) for i in range(8)]
    film(tmp_path / "stored.mp4", frames, tone=True)
    video = with_display_matrix(tmp_path / "stored.mp4", (0, 1, -1, 0))
    command = ["animate", str(inputs / "bundle"), "--reference", str(tmp_path / "hero.png")]
    options = ["--models", str(mediapipe_models), "--contact-sheet", str(tmp_path / "sheet.png")]
    output = ["--output", str(tmp_path / "out.mp4"), "--steps", "2"]
    assert main([*command, "--driving", str(video), *options, *output]) == 0
    assert "Traceback" not in capsys.readouterr().err
    with av.open(tmp_path / "out.mp4") as container:
        sound, made = container.streams.audio[0], container.streams.video[0]
        assert made.frames == 8
        lengths = [float(stream.duration * stream.time_base) for stream in (sound, made)]
    assert lengths[0] == pytest.approx(lengths[1], abs=1 / RATE)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.std() > 10
