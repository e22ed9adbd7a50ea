"""Driving: videos and keypoint files as pose sequences, in the library, in `pose` and in shots."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import animate_rt
import av
import numpy as np
import pytest
from animate_rt import Marks, Payload
from animate_rt.__main__ import main
from animate_rt.errors import ConfigError, InputError
from animate_rt.runtime.media.frame_range import FrameRange
from animate_rt.runtime.media.timecode import Time
from animate_rt.runtime.poses import sources
from animate_rt.runtime.poses.alignment import align
from animate_rt.runtime.poses.drawing import draw
from animate_rt.runtime.poses.driving import Driving, keypoints_of, open_poses
from animate_rt.runtime.poses.extraction.extract import extract
from animate_rt.runtime.poses.formats.reading import read_keypoints
from animate_rt.runtime.poses.formats.writing import write_keypoints
from animate_rt.runtime.poses.interpolation import at_rate
from animate_rt.runtime.poses.keypoints import Keypoints
from animate_rt.runtime.poses.smoothing import smooth
from animate_rt.runtime.shots.job_list import read_jobs
from animate_rt.runtime.shots.making import make
from PIL import Image

from . import shot_command
from .fixed_cost import example, open_animator
from .people import frame, person

inputs, animate = shot_command.inputs, shot_command.animate
RATE = 25


@pytest.fixture
def walker(tmp_path: Path) -> Path:
    path = tmp_path / "walker.npz"
    write_keypoints(path, person("walk", heading=90, frames=12, speed=40))
    return path


def pictures(poses: Any) -> list[Any]:
    return [np.asarray(picture) for picture in poses]


def test_keypoints_are_smoothed_and_drawn(walker: Path) -> None:
    expected = smooth(read_keypoints(walker))
    poses = open_poses(walker)
    assert (poses.num_frames, poses.frame_rate, poses.style) == (12, RATE, "dwpose")
    for picture, pose in zip(pictures(poses), expected, strict=True):
        assert np.array_equal(picture, draw(pose, 512, 512, "dwpose"))


def test_keypoints_are_aligned_to_the_reference(walker: Path, tmp_path: Path) -> None:
    hero = person("wave", frames=1, stature=200, feet=(150, 380), size=(400, 400))
    write_keypoints(tmp_path / "hero.npz", hero)
    reference = Image.new("RGB", (400, 400))
    poses = open_poses(
        walker, reference=reference, reference_keypoints=tmp_path / "hero.npz", smooth="none", frames=3
    )
    expected = align(frames_of(read_keypoints(walker), 3), hero, "bones")
    assert (expected.width, expected.height) == (400, 400)
    for picture, pose in zip(pictures(poses), expected, strict=True):
        assert np.array_equal(picture, draw(pose, 400, 400, "dwpose"))


def test_keypoints_of_a_program_are_drawn_as_those_of_a_file(walker: Path, tmp_path: Path) -> None:
    hero = person("wave", frames=1, stature=200, feet=(150, 380), size=(400, 400))
    animate_rt.write_keypoints(tmp_path / "hero.npz", hero)
    given: dict[str, Any] = {"reference": Image.new("RGB", (400, 400)), "frames": 3, "pose_fps": 30}
    poses = animate_rt.open_poses(walker, reference_keypoints=tmp_path / "hero.npz", **given)
    walk = animate_rt.read_keypoints(walker)
    same = animate_rt.open_poses(walk, reference_keypoints=hero, **given)
    assert isinstance(walk, animate_rt.Keypoints)
    assert isinstance(same, animate_rt.PoseSequence)
    assert (same.num_frames, same.frame_rate) == (poses.num_frames, poses.frame_rate) == (3, 30)
    assert np.array_equal(pictures(same), pictures(poses))
    with pytest.raises(InputError, match="the source has no frame 1"):
        animate_rt.open_poses(frames_of(walk, 0))


def frames_of(keypoints: Keypoints, count: int) -> Keypoints:
    return replace(keypoints, frames=keypoints.frames[:count])


def test_reference_keypoints_of_a_larger_picture(walker: Path, tmp_path: Path) -> None:
    """A file states its own size; the picture may have been scaled since."""
    for name, size, stature in (("large", 800, 400), ("small", 400, 200)):
        hero = person("wave", frames=1, stature=stature, feet=(size // 2, size - 40), size=(size, size))
        write_keypoints(tmp_path / f"{name}.npz", hero)
    small = frame(read_keypoints(tmp_path / "small.npz"))
    found = [
        pictures(
            open_poses(
                walker,
                reference=Image.new("RGB", (400, 400)),
                reference_keypoints=tmp_path / f"{name}.npz",
                align="scale",
                frames=1,
            )
        )[0].shape
        for name in ("large", "small")
    ]
    assert found[0] == found[1]
    assert (small.width, small.height) == (400, 400)


@pytest.mark.parametrize("rate", [Fraction(50), Fraction(10), Fraction(30000, 1001), Fraction(25)])
def test_keypoints_at_another_rate_lie_between_their_neighbours(rate: Fraction) -> None:
    length = 20
    frames = np.zeros((length, 128, 3))
    frames[..., 0] = np.arange(length)[:, None]
    frames[..., 2] = 1
    found = at_rate(Keypoints(frames, 512, 512, Fraction(RATE)), rate)
    step = RATE / float(rate)
    expected = np.minimum(np.arange(len(found)) * step, length - 1)
    assert found.frame_rate == rate
    assert len(found) == pytest.approx(length / step, abs=1)
    assert np.allclose(found.frames[:, 5, 0], expected)


def test_missing_points_are_not_interpolated() -> None:
    frames = np.zeros((2, 128, 3))
    frames[0, 3] = [10, 20, 0.8]
    found = at_rate(Keypoints(frames, 512, 512, Fraction(RATE)), Fraction(100))
    assert found.frames[:, 3].tolist() == [[10, 20, 0.8]] * 2 + [[0, 0, 0]] * (len(found) - 2)


def test_a_range_of_a_resampled_file_is_part_of_the_whole(walker: Path) -> None:
    driving = Driving(align="none")
    whole = keypoints_of(walker, driving, FrameRange(frame_rate=Fraction(30)))
    part = keypoints_of(walker, driving, FrameRange(start=3, stop=8, frame_rate=Fraction(30)))
    assert np.allclose(part.frames, whole.frames[3:8])
    timed = keypoints_of(walker, driving, FrameRange(begin=Time.parse("0.2"), duration=Time.parse("0.12")))
    assert np.array_equal(timed.frames, read_keypoints(walker).frames[5:8])
    with pytest.raises(InputError, match="has no frame 101"):
        keypoints_of(walker, driving, FrameRange(start=100))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"align": "arms"}, "align: expected one of none, scale, bones"),
        ({"align": "bones"}, "expected the reference picture"),
        ({"smooth": "twice"}, "smooth: expected one of"),
        ({"person": -1}, "person: expected"),
        ({"style": "cubist"}, "pose style: expected dwpose or musepose"),
        ({"frames": 0}, "frames: expected a whole number"),
        ({"pose_fps": "fast"}, "pose_fps: expected"),
    ],
)
def test_wrong_options_are_one_line(walker: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_poses(walker, **given)


def test_skeletons_of_another_style_are_refused(inputs: Path, walker: Path) -> None:
    with (
        open_animator(inputs / "bundle") as animator,
        pytest.raises(ConfigError, match="expected skeletons in the bundle's style dwpose"),
    ):
        animator.animate(inputs / "reference.png", open_poses(walker, style="musepose"))


def test_the_command_pose(walker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--smooth", "none"]
    assert main(["pose", str(walker), "--output", str(tmp_path / "copy.npz"), *options]) == 0
    assert np.array_equal(read_keypoints(tmp_path / "copy.npz").frames, read_keypoints(walker).frames)
    assert main(["pose", str(walker), "--output", str(tmp_path / "poses"), *options]) == 0
    names = sorted(path.name for path in (tmp_path / "poses").iterdir())
    assert names == [f"{i:05}.png" for i in range(12)]
    for name, expected in zip(names, open_poses(walker, smooth="none"), strict=True):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "poses" / name)), np.asarray(expected))
    assert main(["pose", str(walker), "--output", str(tmp_path / "poses.mp4"), "--duration", "0.2"]) == 0
    with av.open(tmp_path / "poses.mp4") as container:
        assert container.streams.video[0].frames == 5
    capsys.readouterr()
    assert main(["pose", str(walker), "--output", str(tmp_path / "x.mp4"), "--align", "bones"]) == 64
    assert capsys.readouterr().err.splitlines() == [
        "animate-rt: align bones: expected --reference, found none; add it"
    ]


def test_a_shot_is_driven_by_keypoints(inputs: Path, walker: Path, tmp_path: Path) -> None:
    """It has the frames that the library makes from the same options, with the marks of the shot."""
    hero = tmp_path / "hero.npz"
    write_keypoints(hero, person("wave", frames=1, stature=40, feet=(32, 60), size=(64, 64)))
    driving = Driving(reference_keypoints=hero)
    shot = example(inputs, tmp_path / "frames", steps=2, frames="8", driving=driving)
    shot = replace(shot, pose=walker)
    with open_animator(inputs / "bundle") as animator:
        assert make(shot, animator).num_frames == 8
        poses = open_poses(walker, reference=inputs / "reference.png", reference_keypoints=hero, frames=8)
        mark = Marks(Payload.of(shot.digest(animator.bundle))).marker(64, 64)
        expected = list(map(mark, animator.animate(inputs / "reference.png", poses, steps=2)))
    found = [np.asarray(Image.open(tmp_path / "frames" / f"{i:05}.png")) for i in range(8)]
    assert np.array_equal(np.stack(found), np.stack(expected))


def test_the_command_animate_is_driven_by_keypoints(
    inputs: Path, walker: Path, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("animate_rt.runtime.shots.commands.Animator.load", open_animator)
    hero = tmp_path / "hero.npz"
    write_keypoints(hero, person("wave", frames=1, stature=40, feet=(32, 60), size=(64, 64)))
    command = ["animate", str(inputs / "bundle"), "--reference", str(inputs / "reference.png")]
    output = ["--output", str(tmp_path / "out.mp4"), "--steps", "2"]
    driven = [*command, "--driving", str(walker), "--reference-keypoints", str(hero), *output]
    assert main([*driven, "--start", "0.08", "--duration", "0.32"]) == 0
    with av.open(tmp_path / "out.mp4") as container:
        assert container.streams.video[0].frames == 8
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []
    capsys.readouterr()
    assert main([*driven, "--start", "0.08", "--duration", "0.32"]) == 0
    assert "is already done" in capsys.readouterr().err
    assert main([*command, "--pose", str(inputs / "pose"), *output, "--align", "scale"]) == 64
    assert "--align: expected --driving, found poses that are drawn already" in capsys.readouterr().err


def test_job_lists_name_what_drives_a_shot(inputs: Path, walker: Path, tmp_path: Path) -> None:
    assert inputs.parent == tmp_path
    hero = tmp_path / "hero.npz"
    write_keypoints(hero, person("wave", frames=1, stature=40, feet=(32, 60), size=(64, 64)))
    base = {"bundle": "inputs/bundle", "reference": "inputs/reference.png"}
    driven = {"keypoints": "walker.npz", "reference_keypoints": "hero.npz", "person": [10, 20]}
    lines = [
        base | driven | {"name": "good", "align": "scale", "start": 0.08, "duration": "0.32", "audio": False},
        base | {"name": "two", "pose": "inputs/pose", "driving": "walker.npz"},
        base | {"name": "none"},
        base | {"name": "drawn", "pose": "inputs/pose", "align": "bones"},
        base | {"name": "person", "driving": "walker.npz", "person": ["a", "b"]},
        base | {"name": "align", "driving": "walker.npz", "align": "arms"},
        base | {"name": "start", "driving": "walker.npz", "start": "soon"},
        base | {"name": "missing", "driving": "nothing.mp4"},
    ]
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text("\n".join(map(json.dumps, lines)))
    (shot,), errors = read_jobs(jobs, tmp_path)
    assert shot.driving == Driving(align="scale", person=(10, 20), reference_keypoints=hero)
    assert (shot.pose, shot.range().at(Fraction(RATE)).start, shot.audio) == (walker, 2, False)
    for error, expected in zip(
        errors,
        [
            "expected one of pose, driving, keypoints, guidance, found pose and driving",
            "expected one of pose, driving, keypoints, guidance, found none",
            "align: expected driving or keypoints, found pose",
            "person: expected a point x,y in pixels",
            "align: expected one of none, scale, bones",
            "expected seconds like 12.5",
            "driving: expected a video of a person, found no",
        ],
        strict=True,
    ):
        assert expected in error


def test_a_person_in_a_video_drives_a_shot(
    inputs: Path, tmp_path: Path, mediapipe_models: Path, astronaut: Any, monkeypatch: Any
) -> None:
    """From a photo and a video to an mp4 with its sound; a killed run's keypoints are used again."""
    astronaut.save(tmp_path / "hero.png")
    video = moving(astronaut, tmp_path / "dance.mp4")
    shot = example(inputs, tmp_path / "out.mp4", steps=2, driving=Driving(models=mediapipe_models))
    shot = replace(shot, pose=video, reference=tmp_path / "hero.png")
    stages = []

    def stop(progress: Any) -> None:
        stages.append(progress.stage)
        if progress.stage == "denoise":
            raise SystemExit(130)

    with open_animator(inputs / "bundle") as animator:
        with pytest.raises(SystemExit):
            make(shot, animator, progress=stop)
        assert stages[0] == "extract"
        extracted = []

        def counted(*arguments: Any, **options: Any) -> Any:
            extracted.append(arguments)
            return extract(*arguments, **options)

        monkeypatch.setattr(sources, "extract", counted)
        assert make(shot, animator).num_frames == 10
    assert len(extracted) == 1  # the reference; the video's keypoints were kept
    with av.open(tmp_path / "out.mp4") as container:
        sound, frames = container.streams.audio[0], container.streams.video[0]
        lengths = [float(stream.duration * stream.time_base) for stream in (sound, frames)]
    assert lengths[0] == pytest.approx(lengths[1], abs=1 / RATE)


def moving(picture: Any, path: Path) -> Path:
    """A video of ten frames, with a tone, in which the picture moves a little."""
    with av.open(path, "w") as container:
        video: Any = container.add_stream("libx264", RATE)
        video.width, video.height, video.pix_fmt = 480, 480, "yuv420p"
        audio: Any = container.add_stream("aac", rate=48_000, layout="mono")
        for i in range(10):
            part = picture.crop((i, 8, i + 480, 488))
            shown = av.VideoFrame.from_image(part)
            shown.pts, shown.time_base = i, Fraction(1, RATE)
            container.mux(video.encode(shown.reformat(format="yuv420p")))
        for start in range(0, 19_456, 1024):
            tone = np.sin(np.arange(start, start + 1024) / 20).astype(np.float32)[None]
            samples = av.AudioFrame.from_ndarray(tone, "fltp", "mono")
            samples.sample_rate, samples.pts, samples.time_base = 48_000, start, Fraction(1, 48_000)
            container.mux(audio.encode(samples))
        container.mux(video.encode())
        container.mux(audio.encode())
    return path


def test_a_stream_of_pictures_is_extracted_while_it_is_read(mediapipe_models: Path, astronaut: Any) -> None:
    read = 0

    def endless() -> Any:
        nonlocal read
        while True:
            read += 1
            yield astronaut

    poses: Callable[..., Any] = open_poses
    drawn = iter(poses(endless(), smooth="forward", models=mediapipe_models))
    first = next(drawn)
    assert np.asarray(first).any()
    assert read <= 10


def test_nobody_in_the_video_is_one_line(
    inputs: Path, tmp_path: Path, mediapipe_models: Path, astronaut: Any
) -> None:
    astronaut.save(tmp_path / "hero.png")
    video = moving(Image.new("RGB", (512, 512), "white"), tmp_path / "empty.mp4")
    shot = example(inputs, tmp_path / "out.mp4", steps=2, driving=Driving(models=mediapipe_models))
    shot = replace(shot, pose=video, reference=tmp_path / "hero.png")
    with (
        open_animator(inputs / "bundle") as animator,
        pytest.raises(InputError, match="expected a person in the driving video, found nobody"),
    ):
        make(shot, animator)
    assert not [path.name for path in tmp_path.iterdir() if "partial" in path.name]
