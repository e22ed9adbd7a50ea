"""Files of others in the folder of a result: never deleted, and those of file managers do not count."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from animate_rt.__main__ import main
from animate_rt.errors import OutputError
from animate_rt.runtime.media.writer import open_writer
from animate_rt.runtime.shots.making import make
from animate_rt.runtime.shots.output import is_mount_point
from animate_rt.runtime.shots.resume import PartialClip
from animate_rt.runtime.shots.shot import Shot, clear_leftovers, is_done

from . import shot_command
from .fixed_cost import example, open_animator, write_inputs
from .forks import fork
from .job_lists import job
from .shot_command import names
from .stopped_shots import make_until

inputs, animate = shot_command.inputs, shot_command.animate

SYSTEM_FILES = [
    ".DS_Store",
    "._00000.png",
    "Thumbs.db",
    "desktop.ini",
    ".directory",
    "ehthumbs.db",
    "Desktop.ini",
]
FOLDERS = ["@eaDir", ".git"]


def leave_system_files(folder: Path) -> None:
    for name in SYSTEM_FILES:
        (folder / name).write_bytes(b"\0\5\26\7")
    for name in FOLDERS:
        (folder / name).mkdir()
        (folder / name / "00000.png").write_bytes(b"thumbnail")


def pngs(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.glob("[0-9]*.png") if path.is_file()]
    return {path.name: path.read_bytes() for path in files}


def assert_nothing_lost(folder: Path) -> None:
    for name in SYSTEM_FILES:
        assert (folder / name).read_bytes() == b"\0\5\26\7"
    for name in FOLDERS:
        assert (folder / name / "00000.png").read_bytes() == b"thumbnail"


# System files


def test_system_files_in_a_result_do_not_count(
    animate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert animate("frames") == 0
    before = pngs(tmp_path / "frames")
    leave_system_files(tmp_path / "frames")
    capsys.readouterr()
    assert animate("frames") == 0
    assert "is already done" in capsys.readouterr().err
    assert animate("frames", "--force") == 0
    assert pngs(tmp_path / "frames") == before
    assert animate("frames", "--seed", "7", "--frames", "3") == 0
    assert len(pngs(tmp_path / "frames")) == 3
    assert_nothing_lost(tmp_path / "frames")
    assert names(tmp_path) == ["frames", "frames.json"]


def test_system_files_do_not_stop_a_list(tmp_path: Path) -> None:
    write_inputs(tmp_path, 3, ["reference0.png", "reference.png"])
    shot = example(tmp_path, tmp_path / "unused.mp4", steps=1)
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text(json.dumps(job("a", format="png")) + "\n" + json.dumps(job("b")) + "\n")
    out = tmp_path / "out"
    assert main(["openjd", str(jobs), "--output", str(out)]) == 0
    with open_animator(shot.bundle) as animator:
        make(example(tmp_path, out / "a" / "#####.png", steps=1), animator)
    leave_system_files(out / "a")
    assert main(["openjd", str(jobs), "--output", str(out)]) == 0


def test_a_folder_with_only_system_files_is_empty(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    leave_system_files(tmp_path / "frames")
    with open_writer(tmp_path / "frames", 64, 64, Fraction(24)) as writer:
        writer.write(np.zeros((64, 64, 3), np.uint8))
    assert list(pngs(tmp_path / "frames")) == ["00000.png"]
    assert_nothing_lost(tmp_path / "frames")


# Somebody's files


def put(path: Path) -> None:
    path.write_bytes(b"precious")


def put_in_a_folder(path: Path) -> None:
    path.mkdir()
    (path / "notes").write_bytes(b"precious")


def put_a_link(path: Path) -> None:
    path.symlink_to("/nowhere")


@pytest.mark.parametrize("stranger", ["notes.txt", "00099.png", "hero.0001.png", "00000.PNG"])
@pytest.mark.parametrize("putting", [put, put_in_a_folder, put_a_link])
@pytest.mark.parametrize("when", ["at the first look", "at the second look", "while it is made"])
def test_a_file_that_appears_meanwhile_is_kept(
    inputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stranger: str,
    putting: Callable[[Path], None],
    when: str,
) -> None:
    with open_animator(inputs / "bundle") as animator:
        make(example(inputs, tmp_path / "frames", steps=1), animator)
        before = pngs(tmp_path / "frames")
        shot = example(inputs, tmp_path / "frames", steps=2)
        number, real = 0, type(shot.output)._check_folder

        def check(output: Any, folder: Path) -> None:
            nonlocal number
            number += 1
            wanted = {"at the first look": 1, "at the second look": 2}
            if wanted.get(when) == number:
                putting(folder / stranger)
            real(output, folder)

        monkeypatch.setattr(type(shot.output), "_check_folder", check)
        shown = []

        def progress(_progress: object) -> None:
            if when == "while it is made" and not shown:
                putting(tmp_path / "frames" / stranger)
            shown.append(1)

        with pytest.raises(OutputError, match="does not belong to an earlier result"):
            make(shot, animator, progress=progress)
        monkeypatch.undo()
        found = tmp_path / "frames" / stranger
        assert found.is_symlink() or found.is_dir() or found.read_bytes() == b"precious"
        assert {
            name: content for name, content in pngs(tmp_path / "frames").items() if name != stranger
        } == before
        # Frames are kept, and published when the file has gone.
        found.rename(tmp_path / "kept")
        assert make(shot, animator).num_kept == 6
    assert is_done(shot, shot.digest())
    assert names(tmp_path) == ["frames", "frames.json", "kept"]


def three_shots(inputs: Path, tmp_path: Path) -> list[Shot]:
    """Shots of 6, 4 and 5 frames with the same output."""
    frames = tmp_path / "frames"
    return [example(inputs, frames, steps=1, seed=int(number), frames=number) for number in "645"]


def test_a_process_killed_while_it_publishes_loses_no_file(inputs: Path, tmp_path: Path) -> None:
    """Killed at every change of the file system from then on; the same shot or another one follows."""
    first, second, third = three_shots(inputs, tmp_path)
    expected = {}
    for shot in (second, third):
        assert make_until(shot, 10**9)
        expected[shot.frames] = pngs(tmp_path / "frames")
    kill_at, status = 0, -signal.SIGKILL
    while status:
        for following in (second, third):
            shutil.rmtree(tmp_path / "frames", ignore_errors=True)
            assert make_until(first, 10**9)
            leave_system_files(tmp_path / "frames")
            status = killed_while_publishing(second, kill_at)
            assert make_until(following, 10**9)
            assert is_done(following, following.digest())
            assert pngs(tmp_path / "frames") == expected[following.frames], kill_at
            assert_nothing_lost(tmp_path / "frames")
            assert names(tmp_path) == ["frames", "frames.json"]
        kill_at += 1
    assert kill_at > 20


def test_a_file_that_appears_before_a_kill_is_kept(inputs: Path, tmp_path: Path) -> None:
    first, second, third = three_shots(inputs, tmp_path)
    kill_at, status = 0, -signal.SIGKILL
    while status:
        for following in (second, third):
            shutil.rmtree(tmp_path / "frames", ignore_errors=True)
            assert make_until(first, 10**9)
            status = killed_while_publishing(second, kill_at, stranger="notes.txt")
            refusals = 0
            while not is_done(following, following.digest()):
                try:
                    assert make_until(following, 10**9)
                except OutputError:
                    (tmp_path / "frames" / "notes.txt").rename(tmp_path / "kept")
                    refusals += 1
                    assert refusals == 1
            clear_leftovers(following, following.digest())
            if status and not refusals:
                (tmp_path / "frames" / "notes.txt").rename(tmp_path / "kept")
            assert not status or (tmp_path / "kept").read_bytes() == b"precious"
            assert set(names(tmp_path)) <= {"frames", "frames.json", "kept"}
        kill_at += 1
    assert kill_at > 20


def killed_while_publishing(shot: Shot, kill_at: int, stranger: str = "") -> int:
    """Make a shot in a process that is killed before change `kill_at` of the file system while it publishes.

    With `stranger`, a file of that name is put into the folder of the older result immediately before.
    """
    if process := fork():
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    changes, publishing, real = 0, False, PartialClip.recover

    def recover(partial: PartialClip) -> None:
        nonlocal publishing
        publishing = True
        real(partial)

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal changes, publishing
        write = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if publishing and (write or event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link")):
            if changes == kill_at:
                publishing = False
                folder = shot.output.path
                if replaced := [*folder.parent.glob(".*/replaced")]:
                    folder = replaced[0]
                if stranger:
                    (folder / stranger).write_bytes(b"precious")
                os.kill(os.getpid(), signal.SIGKILL)
            changes += 1

    status = 1
    try:
        PartialClip.recover = recover  # type: ignore[method-assign]
        sys.addaudithook(note)
        status = not make_until(shot, 10**9)
    finally:
        os._exit(status)


# Links


def test_links_in_a_partial_clip_are_not_followed(inputs: Path, tmp_path: Path) -> None:
    shot = example(inputs, tmp_path / "frames", steps=1)
    partial = PartialClip(shot.output, shot.digest(), inputs=shot.read_inputs().state())
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "00000.png").write_bytes(b"precious")
    for place in ("", "frames", "result", "replaced"):
        if place:
            partial.path.mkdir()
        (partial.path / place).symlink_to(tmp_path / "precious")
        assert make_until(shot, 10**9)
        shot.output.mark_stale()
        assert (tmp_path / "precious" / "00000.png").read_bytes() == b"precious"
        assert os.listdir(tmp_path / "precious") == ["00000.png"]


def test_leftovers_that_are_links_are_removed_and_not_followed(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "00000.png").write_bytes(b"precious")
    for name in (".frames.0123abcd.partial", ".frames.json.0123abcd.partial"):
        (tmp_path / name).symlink_to(tmp_path / "precious")
    assert make_until(example(inputs, tmp_path / "frames", steps=1), 10**9)
    assert os.listdir(tmp_path / "precious") == ["00000.png"]
    assert names(tmp_path) == ["frames", "frames.json", "precious"]


def test_a_folder_that_is_mounted_is_refused_at_once(inputs: Path, tmp_path: Path) -> None:
    """It cannot be renamed. A folder of the same file system can be mounted, too."""
    folder = tmp_path / "mounted \\ frames"
    folder.mkdir()
    (tmp_path / "elsewhere").mkdir()
    assert not is_mount_point(folder)
    if subprocess.run(["mount", "--bind", tmp_path / "elsewhere", folder], check=False).returncode:
        pytest.skip("this user cannot mount")
    try:
        assert not os.path.ismount(folder)
        with pytest.raises(OutputError, match="is a mount point"):
            example(inputs, folder)
        make_until(example(inputs, folder / "frames", steps=1), 10**9)
    finally:
        subprocess.run(["umount", folder], check=True)
    assert pngs(tmp_path / "elsewhere" / "frames")
