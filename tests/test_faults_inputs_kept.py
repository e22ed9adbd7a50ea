"""Nothing that is read is ever replaced or deleted by what is written, by whatever name or link."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from animate_rt.__main__ import main
from animate_rt.engines.bundle import read_bundle
from animate_rt.errors import OutputError
from animate_rt.runtime.shots.checks import check
from animate_rt.runtime.shots.making import make
from animate_rt.runtime.shots.output import Output
from animate_rt.runtime.shots.shot import Shot, clear_leftovers

from . import shot_command
from .fixed_cost import example, open_animator, write_inputs
from .job_lists import job

inputs, animate = shot_command.inputs, shot_command.animate

REFUSED = "expected an output that is no input"


def contents(folder: Path) -> dict[str, bytes]:
    """The contents of every file in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_refused(shot: Shot, folder: Path) -> None:
    """Neither a check nor an attempt nor a clean-up changes a file."""
    before = contents(folder)
    with pytest.raises(OutputError, match=REFUSED) as caught:
        shot.check_conflicts()
    assert "\n" not in str(caught.value)
    with pytest.raises(OutputError, match=REFUSED):
        clear_leftovers(shot, "0" * 64)
    with pytest.raises(OutputError, match=REFUSED):
        check(shot, read_bundle(folder / "inputs" / "bundle"))
    with open_animator(folder / "inputs" / "bundle") as animator, pytest.raises(OutputError, match=REFUSED):
        make(shot, animator, force=True)
    assert contents(folder) == before


def itself(path: Path, _target: Path) -> Path:
    return path


def another_spelling(path: Path, _target: Path) -> Path:
    return path.parent / ".." / path.parent.name / path.name


def link(path: Path, target: Path) -> Path:
    target.symlink_to(path)
    return target


def hard_link(path: Path, target: Path) -> Path:
    target.hardlink_to(path)
    return target


def linked_folder(path: Path, target: Path) -> Path:
    target.with_name("folder").symlink_to(path.parent)
    return target.with_name("folder") / path.name


NAMINGS = [itself, another_spelling, link, hard_link, linked_folder]
NAMES = {"output": "written.mp4", "sidecar": "written.mp4.json", "contact sheet": "written.png"}
READ = ["reference", "pose", "initial_noise", "frame of pose", "file of bundle"]
CASES = [
    (read, written, naming)
    for read in READ
    for written in NAMES
    for naming in NAMINGS
    # A frame or a file of a bundle cannot have the name of every output, but a link to it can.
    if naming in (link, hard_link)
    or read in READ[:3]
    or (read, written) == ("frame of pose", "contact sheet")
]


@pytest.mark.parametrize(("read", "written", "naming"), CASES)
def test_no_input_is_written(
    inputs: Path, tmp_path: Path, read: str, written: str, naming: Callable[[Path, Path], Path]
) -> None:
    name, shot = NAMES[written], example(inputs, tmp_path / "unused.mp4")
    if read == "frame of pose":
        file = (inputs / "pose" / "003.png").rename(inputs / "pose" / "written.png")
    elif read == "file of bundle":
        file = inputs / "bundle" / "manifest.json"
    else:
        file = shutil.copy(inputs / "reference.png", inputs / name)
        shot = replace(shot, **{read: file})
    (tmp_path / "out").mkdir()
    target = naming(file, tmp_path / "out" / name)
    if written == "contact sheet":
        shot = replace(shot, contact_sheet=target)
    else:
        shot = replace(shot, output=Output(target.with_name("written.mp4"), video=True))
    assert_refused(shot, tmp_path)


# Where the input lies in a folder that is replaced or removed.
PLACES = {
    "pose": ".",
    "reference": "00000.png",
    "initial_noise": "more/and more/noise.npy",
    "bundle": "inner",
}


@pytest.mark.parametrize("folder", ["out", "link", ".out.0123abcd.partial", ".sheet.png.0123abcd.partial"])
@pytest.mark.parametrize("read", PLACES)
def test_no_folder_with_an_input_is_replaced_or_removed(
    inputs: Path, tmp_path: Path, read: str, folder: str
) -> None:
    """A folder of PNGs that holds an input, and leftovers, which are removed at the end."""
    given = tmp_path / ("out" if folder == "link" else folder) / PLACES[read]
    if read in ("pose", "bundle"):
        shutil.copytree(inputs / read, given)
    else:
        given.parent.mkdir(parents=True)
        shutil.copy(inputs / "reference.png", given)
    (tmp_path / "link").symlink_to(tmp_path / "out")
    output = Output(tmp_path / ("link" if folder == "link" else "out"), video=False)
    shot = replace(
        example(inputs, tmp_path / "unused.mp4"), output=output, contact_sheet=tmp_path / "sheet.png"
    )
    assert_refused(replace(shot, **{read: given}), tmp_path)


def test_nothing_is_written_into_a_bundle_or_among_pose_frames(inputs: Path, tmp_path: Path) -> None:
    shot = example(inputs, tmp_path / "out.mp4")
    for output in (
        Output(inputs / "bundle" / "out.mp4", video=True),
        Output(inputs / "bundle" / "graphs" / "frames", video=False),
    ):
        assert_refused(replace(shot, output=output), tmp_path)
    for sheet in (inputs / "pose" / "sheet.png", inputs / "bundle" / "sheet.png"):
        assert_refused(replace(shot, contact_sheet=sheet), tmp_path)
    # These are not read.
    replace(shot, output=Output(inputs / "pose" / "out.mp4", video=True)).check_conflicts()
    replace(shot, output=Output(inputs / "pose" / "frames", video=False)).check_conflicts()
    replace(shot, contact_sheet=inputs / "pose" / ".sheet.png").check_conflicts()


def test_the_command_refuses_before_anything_is_loaded(
    animate: Callable[..., int], inputs: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setattr("animate_rt.runtime.shots.commands.Animator.load", None)
    shutil.copy(inputs / "reference.png", tmp_path / "pose.mp4")
    before = contents(tmp_path)
    pose = ["--pose", str(tmp_path / "pose.mp4")]
    assert animate("pose.mp4", *pose) == 73
    assert animate("out.mp4", "--contact-sheet", str(inputs / "reference.png")) == 73
    for line in capsys.readouterr().err.splitlines():
        assert line.startswith("animate-rt: ")
        assert REFUSED in line
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("lines", "part"),
    [
        ([job("s010", pose="s010.mp4")], "s010.mp4: expected an output that is no input, but it is the pose"),
        (
            [job("s020"), job("s010", reference="s020.mp4")],
            ":1: {out}/s020.mp4: expected an output that is no",
        ),
        ([job("s020", reference="s020.sheet.png")], "s020.sheet.png: expected an output that is no input"),
        (
            [job("s010", overlay=True), job("s020", pose="s010.overlay.mp4")],
            "s010.overlay.mp4: expected an output that is no input, but it is the pose sequence",
        ),
        (
            [job("s020", pose=None, keypoints="s010.mp4", reference_keypoints="s020.sheet.png")],
            "s020.sheet.png: expected an output that is no input, but it is the keypoints of the reference",
        ),
        ([job("pose", format="png")], "pose is not empty"),
        ([job("bundle", format="png")], "bundle is not empty"),
        ([job("jobs.jsonl", format="png")], "jobs.jsonl exists and is not a directory"),
        (
            [job("jobs", pose="jobs.mp4.json")],
            "jobs.mp4.json exists and is no sidecar of an earlier result",
        ),
    ],
)
def test_no_shot_of_a_list_writes_what_a_shot_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lines: list[dict[str, Any]], part: str
) -> None:
    """The results lie beside the list, which is the default."""
    write_inputs(tmp_path, 3, ["reference0.png"])
    for name in ("s010.mp4", "s020.mp4", "s010.overlay.mp4", "s020.sheet.png", "jobs.mp4.json"):
        shutil.copy(tmp_path / "reference0.png", tmp_path / name)
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    before = contents(tmp_path)
    assert main(["farm", str(jobs), "--output", str(tmp_path)]) == 65
    assert part.format(out=tmp_path) in capsys.readouterr().err
    assert contents(tmp_path) == before
