"""Contact sheet and overlay: driving frame, pose and result beside each other, and part of what is done."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from animate_rt.errors import ConfigError, OutputError
from animate_rt.runtime.farm.gallery import write_gallery
from animate_rt.runtime.farm.report import FarmReport, ShotReport
from animate_rt.runtime.media.contact_sheet import GAP
from animate_rt.runtime.media.picture import contain
from animate_rt.runtime.shots.job_list import read_jobs
from animate_rt.runtime.shots.making import make
from animate_rt.runtime.shots.previews import Finished
from animate_rt.runtime.shots.shot import is_done
from numpy.typing import NDArray
from PIL import Image

from . import shot_command
from .fixed_cost import HEIGHT, WIDTH, example, open_animator
from .shot_command import NUM_POSES, names

inputs, animate = shot_command.inputs, shot_command.animate
Pixels = NDArray[np.uint8]


def plain(value: int, width: int = 8, height: int = 8) -> Image.Image:
    return Image.new("RGB", (width, height), (value, value, value))


def finished(**given: Any) -> Finished:
    """A clip of two frames of 200 and 201, whose poses are 100 and 101."""
    options: dict[str, Any] = {
        "reference": lambda: plain(7),
        "driving": None,
        "poses": [plain(100), plain(101)],
        "frame": lambda i: np.full((8, 8, 3), 200 + i, np.uint8),
        "num_frames": 2,
        "width": 8,
        "height": 8,
    }
    return Finished(**options | given)


def test_an_overlay_of_drawn_poses_shows_pose_and_result() -> None:
    for i, frame in enumerate(finished().overlay()):
        assert frame.shape == (8, 16, 3)
        assert (frame[:, :8] == 100 + i).all()
        assert (frame[:, 8:] == 200 + i).all()
    assert i == 1


def test_an_overlay_begins_with_the_driving_frame() -> None:
    driving = [plain(50, 24, 16), plain(51, 24, 16)]
    for i, frame in enumerate(finished(driving=driving).overlay()):
        assert frame.shape == (8, 12 + 16, 3)
        assert (frame[:, :12] == 50 + i).all()
        assert (frame[:, 12:20] == 100 + i).all()
        assert (frame[:, 20:] == 200 + i).all()
    assert i == 1


def test_an_overlay_reads_one_frame_after_the_other() -> None:
    read: list[int] = []

    def frame(index: int) -> Pixels:
        read.append(index)
        return np.zeros((8, 8, 3), np.uint8)

    poses = (plain(100 + i % 100) for i in range(10**9))
    overlay = finished(poses=poses, driving=(plain(50) for _ in range(10**9)), frame=frame, num_frames=10**9)
    for i, _ in zip(range(5), overlay.overlay(), strict=False):
        assert read == list(range(i + 1))


@pytest.mark.parametrize(
    ("size", "width"), [((16, 16), 8), ((24, 16), 12), ((25, 16), 12), ((4000, 16), 16), ((16, 4000), 4)]
)
def test_driving_frames_keep_their_aspect_ratio_within_limits(size: tuple[int, int], width: int) -> None:
    frame = next(finished(driving=[plain(255, *size)]).overlay())
    assert frame.shape[1] == width + 16
    assert frame[:, :width].any()


def test_the_last_driving_frame_is_shown_where_there_are_too_few() -> None:
    *_, last = finished(driving=[plain(50)]).overlay()
    assert (last[:, :8] == 50).all()


def test_contained_pictures_are_whole_and_in_the_middle() -> None:
    wide = contain(plain(255, 20, 10), 8, 8)
    assert (wide[2:6] == 255).all()
    assert not wide[:2].any()
    assert not wide[6:].any()
    assert (contain(plain(9, 3, 3), 8, 8) == 9).all()


def test_a_contact_sheet_has_a_row_of_driving_frames() -> None:
    sheet = finished(driving=[plain(50, 16, 8), plain(51, 16, 8)]).contact_sheet()
    step = 8 + GAP
    assert sheet.shape == (3 * step + GAP, 3 * step + GAP, 3)
    for i in range(2):
        column = GAP + step * (1 + i)
        rows = [sheet[GAP + step * row : GAP + step * row + 8, column : column + 8] for row in range(3)]
        assert (rows[0][2:6] == 50 + i).all()
        assert not rows[0][:2].any()
        assert (rows[1] == 100 + i).all()
        assert (rows[2] == 200 + i).all()
    assert (sheet[GAP + 2 * step, GAP] == 7).all()
    assert finished().contact_sheet().shape[0] == 2 * step + GAP


# Files


def frames_of(path: Path) -> list[Pixels]:
    with av.open(path) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def away(found: Pixels, expected: Pixels) -> float:
    """The mean difference in brightness: an mp4 has a quarter of the colours."""
    luma = np.array([0.2126, 0.7152, 0.0722])
    return float(np.abs(found @ luma - expected @ luma).mean())


def test_an_overlay_is_part_of_what_is_done(inputs: Path, tmp_path: Path) -> None:
    path = tmp_path / "overlay.mp4"
    shot = example(inputs, tmp_path / "frames", steps=2, overlay=path)
    with open_animator(shot.bundle) as animator:
        make(replace(shot, overlay=None), animator)
        assert not is_done(shot, shot.digest())  # it is missing
        make(shot, animator)
        content = path.read_bytes()
        assert is_done(shot, shot.digest())
        overlay = frames_of(path)
        assert [frame.shape for frame in overlay] == [(HEIGHT, 2 * WIDTH, 3)] * NUM_POSES
        for i, frame in enumerate(overlay):
            panels = frame[:, :WIDTH], frame[:, WIDTH:]
            pose = np.asarray(Image.open(inputs / "pose" / f"{i:03}.png"))
            result = np.asarray(Image.open(tmp_path / "frames" / f"{i:05}.png"))
            assert away(panels[0], pose) < 8 < 20 < away(panels[0], result)
            assert away(panels[1], result) < 8
        make(example(inputs, tmp_path / "frames", steps=1, overlay=path), animator)
        assert not is_done(shot, shot.digest())
        make(replace(shot, overlay=None), animator)
        assert not is_done(shot, shot.digest())  # it is of the other result
        make(shot, animator)
    assert path.read_bytes() == content
    for changed in (content[:-1], b""):
        path.write_bytes(changed)
        assert not is_done(shot, shot.digest())
    assert names(tmp_path) == ["frames", "frames.json", "overlay.mp4"]


def test_the_command_writes_an_overlay_once(
    animate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--overlay", str(tmp_path / "o.mp4"), "--contact-sheet", str(tmp_path / "sheet.png")]
    assert animate("out.mp4", *options) == 0
    assert names(tmp_path) == ["o.mp4", "out.mp4", "out.mp4.json", "sheet.png"]
    capsys.readouterr()
    assert animate("out.mp4", *options) == 0
    assert "is already done" in capsys.readouterr().err
    (tmp_path / "o.mp4").unlink()
    assert animate("out.mp4", *options) == 0
    assert "is already done" not in capsys.readouterr().err
    assert (tmp_path / "o.mp4").is_file()


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        ("o.gif", 64, "overlay: expected a name ending in .mp4, found o.gif"),
        ("out.mp4", 64, "overlay: expected another file than the output"),
        ("sheet.mp4", 64, "overlay: expected another file than the output"),
        ("gone/o.mp4", 73, "there is no directory"),
        ("folder.mp4", 73, "is not a file: choose another name for the overlay"),
        ("inputs/bundle/o.mp4", 73, "expected an output that is no input"),
    ],
)
def test_a_wrong_overlay_is_one_line(
    animate: Callable[..., int], tmp_path: Path, capsys: Any, name: str, status: int, message: str
) -> None:
    (tmp_path / "folder.mp4").mkdir()
    sheet = ["--contact-sheet", str(tmp_path / "sheet.mp4")]
    assert animate("out.mp4", "--overlay", str(tmp_path / name), *sheet) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert names(tmp_path) == ["folder.mp4"]


def test_an_overlay_may_not_replace_an_input(inputs: Path, tmp_path: Path) -> None:
    video = tmp_path / "poses.mp4"
    video.write_bytes((inputs / "reference.png").read_bytes())
    (tmp_path / "link.mp4").hardlink_to(video)
    shot = replace(example(inputs, tmp_path / "out.mp4", overlay=tmp_path / "link.mp4"), pose=video)
    with pytest.raises(OutputError, match="expected an output that is no input, but it is the pose sequence"):
        shot.check_conflicts()
    with pytest.raises(ConfigError, match=r"expected a name ending in \.mp4"):
        replace(shot, overlay=tmp_path / "overlay")


def test_the_page_of_a_farm_links_to_overlays(inputs: Path, tmp_path: Path) -> None:
    shots = [example(inputs, tmp_path / f"{name}.mp4", overlay=tmp_path / f"{name}.o.mp4") for name in "ab"]
    (tmp_path / "a.o.mp4").touch()
    report = FarmReport([ShotReport(name, "done", num_frames=6) for name in "ab"])
    write_gallery(tmp_path / "index.html", shots, report)
    page = (tmp_path / "index.html").read_text()
    assert page.count(">overlay</a>") == 1
    assert '6 frames, <a href="a.o.mp4">overlay</a></h2>' in page


def test_job_lists_ask_for_overlays(inputs: Path, tmp_path: Path) -> None:
    base = {"bundle": f"{inputs}/bundle", "reference": f"{inputs}/reference.png", "pose": f"{inputs}/pose"}
    lines = [
        base | {"name": "a", "overlay": True},
        base | {"name": "b", "overlay": False},
        base | {"name": "a.overlay"},
        base | {"name": "b.overlay"},
        base | {"name": "c", "overlay": "yes"},
    ]
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text("\n".join(map(json.dumps, lines)))
    shots, errors = read_jobs(jobs, tmp_path)
    assert [shot.name for shot in shots] == ["a", "b", "b.overlay"]
    assert [shot.overlay for shot in shots] == [tmp_path / "a.overlay.mp4", None, None]
    assert [error.partition(" ")[2] for error in errors] == [
        "name: expected a unique name, whatever its case, found a.overlay: a.overlay.mp4 is used by line 1",
        "overlay: expected bool, found yes",
    ]
