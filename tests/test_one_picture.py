"""One picture: an output like x.png, of one pose that is drawn, found in a picture, or given as keypoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from animate_rt.__main__ import main
from animate_rt.errors import ConfigError, InputError, OutputError
from animate_rt.runtime.marks.marks import MarkOptions
from animate_rt.runtime.media.animated_picture import is_still
from animate_rt.runtime.poses.driving import open_poses
from animate_rt.runtime.poses.formats.reading import read_keypoints
from animate_rt.runtime.poses.formats.writing import write_keypoints
from animate_rt.runtime.shots.making import make
from animate_rt.runtime.shots.output import Output
from animate_rt.runtime.shots.shot import is_done
from PIL import Image

from . import shot_command
from .fixed_cost import HEIGHT, WIDTH, example, open_animator
from .people import person
from .shot_command import names
from .square_networks import picture
from .square_networks import pose_bundle as squares

UNMARKED = MarkOptions(watermark=False)

inputs, animate = shot_command.inputs, shot_command.animate


@pytest.fixture
def command(inputs: Path, tmp_path: Path, monkeypatch: Any) -> Callable[..., int]:
    """`command(*options)`: the exit status of `animate` with arithmetic engines, to x.png."""
    monkeypatch.setattr("animate_rt.runtime.shots.commands.Animator.load", open_animator)
    fixed = ["animate", str(inputs / "bundle"), "--reference", str(inputs / "reference.png")]
    fixed += ["--output", str(tmp_path / "x.png"), "--steps", "2", "--no-watermark"]
    return lambda *options: main([*fixed, *map(str, options)])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return squares(tmp_path_factory.mktemp("networks"))


def pixels(path: Path) -> Any:
    return np.asarray(Image.open(path))


def test_a_drawn_skeleton_gives_one_picture(
    command: Callable[..., int], inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is the picture that a folder of one frame has."""
    pose = inputs / "pose" / "000.png"
    assert command("--pose", pose) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'x.png'}\n"
    assert names(tmp_path) == ["x.png", "x.png.json"]
    with open_animator(inputs / "bundle") as animator:
        make(example(inputs, tmp_path / "folder", steps=2, frames="1", marks=UNMARKED), animator)
        (expected,) = animator.animate(inputs / "reference.png", [pose], steps=2)
    assert np.array_equal(pixels(tmp_path / "x.png"), expected)
    assert (tmp_path / "x.png").read_bytes() == (tmp_path / "folder" / "00000.png").read_bytes()
    assert command("--pose", pose) == 0
    assert "is already done" in capsys.readouterr().err
    (tmp_path / "x.png").write_bytes(b"")
    assert command("--pose", pose) == 0
    assert np.array_equal(pixels(tmp_path / "x.png"), expected)


def test_one_of_several_poses_is_chosen_by_its_number(
    command: Callable[..., int], inputs: Path, tmp_path: Path
) -> None:
    assert command("--pose", inputs / "pose", "--frames", "3-3") == 0
    with open_animator(inputs / "bundle") as animator:
        (expected,) = animator.animate(inputs / "reference.png", [inputs / "pose" / "002.png"], steps=2)
    assert np.array_equal(pixels(tmp_path / "x.png"), expected)


def test_a_picture_of_16_bits_with_a_contact_sheet_and_an_overlay(
    command: Callable[..., int], inputs: Path, tmp_path: Path
) -> None:
    sheet, overlay, pose = tmp_path / "sheet.png", tmp_path / "o.mp4", inputs / "pose" / "000.png"
    assert command("--pose", pose, "--bits", 16, "--contact-sheet", sheet, "--overlay", overlay) == 0
    with av.open(tmp_path / "x.png") as container:
        (frame,) = container.decode(video=0)
    assert frame.format.name == "rgb48be"
    assert pixels(sheet).shape == (2 * HEIGHT + 12, 2 * WIDTH + 12, 3)
    with av.open(overlay) as container:
        assert container.streams.video[0].frames == 1
    assert names(tmp_path) == ["o.mp4", "sheet.png", "x.png", "x.png.json"]


def several(folder: Path) -> dict[str, list[str]]:
    """Sources of more than one pose frame."""
    write_keypoints(folder / "walk.json", person("walk", frames=4))
    with av.open(folder / "walk.mp4", "w") as container:
        stream: Any = container.add_stream("mpeg4", 25)
        stream.width = stream.height = 64
        for i in range(50):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), i, np.uint8))
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode())
    return {
        "directory": ["--pose", str(folder / "inputs" / "pose")],
        "range": ["--pose", str(folder / "inputs" / "pose"), "--frames", "2-3"],
        "video": ["--pose", str(folder / "walk.mp4")],
        "keypoints": ["--driving", str(folder / "walk.json"), "--align", "none"],
        "driving": ["--driving", str(folder / "walk.mp4"), "--align", "none"],
    }


@pytest.mark.parametrize("kind", ["directory", "range", "video", "keypoints", "driving"])
def test_more_than_one_pose_is_one_line(
    command: Callable[..., int], tmp_path: Path, models: Path, capsys: Any, kind: str
) -> None:
    options = several(tmp_path)[kind]
    before = names(tmp_path)
    if kind == "driving":
        options += ["--models", str(models)]
    assert command(*options) == 64
    assert capsys.readouterr().err.splitlines() == [
        f"animate-rt: {tmp_path / 'x.png'}: expected one pose frame for one picture, found more; choose one, "
        "as --frames 7-7 does, or give the name of an mp4 or a directory"
    ]
    assert names(tmp_path) == before


def test_an_unchecked_shot_of_several_poses_leaves_nothing(inputs: Path, tmp_path: Path) -> None:
    """`make` finds it too, before any frame is computed."""
    stages, shot = [], example(inputs, tmp_path / "x.png", steps=2)
    with (
        open_animator(inputs / "bundle") as animator,
        pytest.raises(ConfigError, match="expected one pose frame for one picture"),
    ):
        make(shot, animator, progress=lambda progress: stages.append((progress.stage, progress.done)))
    assert ("denoise", 1) not in stages
    assert names(tmp_path) == []


def test_keypoints_of_one_frame(command: Callable[..., int], inputs: Path, tmp_path: Path) -> None:
    write_keypoints(tmp_path / "pose.json", person("wave", frames=1))
    assert command("--driving", tmp_path / "pose.json", "--align", "none") == 0
    with open_animator(inputs / "bundle") as animator:
        poses = open_poses(tmp_path / "pose.json")
        (expected,) = animator.animate(inputs / "reference.png", poses, steps=2)
    assert np.array_equal(pixels(tmp_path / "x.png"), expected)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_person_in_a_picture(
    command: Callable[..., int], inputs: Path, tmp_path: Path, models: Path, suffix: str
) -> None:
    photo = tmp_path / f"photo{suffix}"
    picture((300, 200, 24)).save(photo, quality=95)
    driving = ["--driving", photo, "--align", "none", "--models", models]
    assert command(*driving, "--contact-sheet", tmp_path / "sheet.png") == 0
    poses = list(open_poses(photo, models=models))
    assert len(poses) == 1
    assert np.asarray(poses[0]).any()
    with open_animator(inputs / "bundle") as animator:
        (expected,) = animator.animate(inputs / "reference.png", poses, steps=2)
    assert np.array_equal(pixels(tmp_path / "x.png"), expected)
    assert pixels(tmp_path / "sheet.png").shape[0] == 3 * HEIGHT + 16
    assert names(tmp_path) == [photo.name, "sheet.png", "x.png", "x.png.json"]


def test_the_references_own_pose(inputs: Path, tmp_path: Path, models: Path, monkeypatch: Any) -> None:
    """Fitted to itself, the skeleton is that of the picture."""
    monkeypatch.setattr("animate_rt.runtime.shots.commands.Animator.load", open_animator)
    hero = tmp_path / "hero.png"
    picture((300, 200, 24)).save(hero)
    command = ["animate", str(inputs / "bundle"), "--reference", str(hero), "--driving", str(hero)]
    command += ["--models", str(models), "--output", str(tmp_path / "x.png"), "--steps", "2"]
    assert main([*command, "--no-watermark"]) == 0
    (own,) = open_poses(hero, models=models)
    (fitted,) = open_poses(hero, reference=hero, models=models)
    assert np.mean(np.asarray(own) != np.asarray(fitted)) < 0.001
    with open_animator(inputs / "bundle") as animator:
        (expected,) = animator.animate(hero, [fitted], steps=2)
    assert np.array_equal(pixels(tmp_path / "x.png"), expected)


def test_a_picture_for_a_video_is_one_line(
    animate: Callable[..., int], inputs: Path, tmp_path: Path, models: Path, capsys: Any
) -> None:
    picture((300, 200, 24)).save(tmp_path / "photo.png")
    for output in ("out.mp4", "frames"):
        assert animate(output, "--pose", str(inputs / "pose" / "000.png")) == 65
        (line,) = capsys.readouterr().err.splitlines()
        assert "found the single picture" in line
        assert "give its directory, or an output like out.png for one picture" in line
    command = ["animate", str(inputs / "bundle"), "--reference", str(inputs / "reference.png")]
    command += ["--driving", str(tmp_path / "photo.png"), "--models", str(models), "--align", "none"]
    assert main([*command, "--output", str(tmp_path / "out.mp4")]) == 65
    assert "an output like out.png for one picture" in capsys.readouterr().err
    assert names(tmp_path) == ["photo.png"]


def test_a_picture_is_an_output_like_others(inputs: Path, tmp_path: Path) -> None:
    output = Output.at(str(tmp_path / "x.png"))
    assert (output.path, output.video, output.picture) == (tmp_path / "x.png", False, True)
    with pytest.raises(ConfigError, match=r"choose a name ending in \.mp4, in \.png for one picture, or one"):
        Output.at(str(tmp_path / "x.jpg"))
    for name in (".png", "x.png/"):
        with pytest.raises(ConfigError, match="expected a name like"):
            Output.at(f"{tmp_path}/{name}")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OutputError, match="is not a file: choose another name for the picture"):
        Output.at(str(tmp_path / "folder.png"))
    shot = replace(example(inputs, tmp_path / "x.png"), output=Output.at(str(inputs / "reference.png")))
    with pytest.raises(OutputError, match="expected an output that is no input, but it is the reference"):
        shot.check_conflicts()
    shot = replace(shot, output=Output.at(str(inputs / "pose" / "x.png")))
    with pytest.raises(OutputError, match="would be a frame of the pose sequence"):
        shot.check_conflicts()


def test_a_picture_that_was_stopped_resumes(inputs: Path, tmp_path: Path) -> None:
    shot = example(inputs, tmp_path / "x.png", steps=3, frames="1", marks=UNMARKED)

    def stop(progress: Any) -> None:
        if progress.stage == "denoise" and progress.done == 2:
            raise SystemExit(130)

    with open_animator(inputs / "bundle") as animator:
        with pytest.raises(SystemExit):
            make(shot, animator, progress=stop)
        (partial,) = [path for path in tmp_path.iterdir() if path.name.endswith(".partial") and path.is_dir()]
        assert (partial / "snapshot.npz").is_file()
        stages = []
        make(shot, animator, progress=lambda progress: stages.append((progress.stage, progress.done)))
        assert ("denoise", 0) not in stages
        assert is_done(shot, shot.digest(animator.bundle))
        (expected,) = animator.animate(inputs / "reference.png", [inputs / "pose" / "000.png"], steps=3)
    assert np.array_equal(pixels(tmp_path / "x.png"), expected)
    assert names(tmp_path) == ["x.png", "x.png.json"]
    assert json.loads((tmp_path / "x.png.json").read_text())["frames"] == 1


def test_the_command_pose_of_a_picture(tmp_path: Path, models: Path, capsys: Any) -> None:
    photo, several = tmp_path / "photo.png", tmp_path / "walk.npz"
    picture((300, 200, 24)).save(photo)
    write_keypoints(several, person("walk", frames=3))
    command = ["pose", str(photo), "--models", str(models), "--output"]
    assert main([*command, str(tmp_path / "pose.json")]) == 0
    assert main([*command, str(tmp_path / "pose.png")]) == 0
    assert main([*command, str(tmp_path / "pose.mp4")]) == 0
    (expected,) = open_poses(photo, models=models)
    assert np.array_equal(pixels(tmp_path / "pose.png"), np.asarray(expected))
    assert len(read_keypoints(tmp_path / "pose.json")) == 1
    capsys.readouterr()
    assert main(["pose", str(several), "--output", str(tmp_path / "several.png")]) == 64
    assert "choose one, as --start 1.5 --duration 0.01 does" in capsys.readouterr().err
    one = ["--start", "0.04", "--duration", "0.01", "--output", str(tmp_path / "second.png")]
    assert main(["pose", str(several), "--smooth", "none", *one]) == 0
    second = list(open_poses(several, smooth="none"))[1]
    assert np.array_equal(pixels(tmp_path / "second.png"), np.asarray(second))


def test_stills_are_told_from_animations(tmp_path: Path) -> None:
    still, other = picture((300, 200, 24)), picture((100, 200, 24))
    for name in ("a.png", "a.jpg", "a.webp", "a.tif", "a.bmp", "a.avif"):
        still.save(tmp_path / name)
        assert is_still(tmp_path / name)
        assert is_still(str(tmp_path / name))
    for name in ("b.webp", "b.tif", "b.png"):
        still.save(tmp_path / name, save_all=True, append_images=[other])
        assert not is_still(tmp_path / name)
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "damaged.png").write_bytes((tmp_path / "a.png").read_bytes()[:20])
    for source in (
        tmp_path,
        tmp_path / "text.png",
        tmp_path / "damaged.png",
        tmp_path / "none",
        [still],
        still,
    ):
        assert not is_still(source)
    with pytest.raises(InputError):
        list(open_poses(tmp_path / "damaged.png", smooth="none"))
