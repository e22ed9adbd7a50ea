"""Nothing is recorded as something it is not: other bundles, changed inputs, others' snapshots and frames."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from animate_rt.engines.bundle import MANIFEST, open_bundle, seal
from animate_rt.errors import InputChanged
from animate_rt.runtime.clip.progress import Progress
from animate_rt.runtime.shots.making import make
from animate_rt.runtime.shots.resume import PartialClip
from animate_rt.runtime.shots.shot import is_done
from PIL import Image

from .fixed_cost import HEIGHT, WIDTH, example, open_animator, write_inputs
from .stopped_shots import files, make_until, result, truth

NUM_POSES = 7


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """bundle/, reference.png, other.png and pose/ of 7 pictures, and other/ of as many."""
    (tmp_path / "inputs").mkdir()
    write_inputs(tmp_path / "inputs", NUM_POSES, ["reference.png", "other.png"])
    shutil.copytree(tmp_path / "inputs" / "pose", tmp_path / "inputs" / "other")
    for path in (tmp_path / "inputs" / "other").iterdir():
        Image.open(path).transpose(Image.Transpose.ROTATE_180).save(path)
    return tmp_path / "inputs"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


# Bundles


def build_again(bundle: Path) -> None:
    """Replace a bundle by another one, as a new build does."""
    manifest = open_bundle(bundle).manifest
    (bundle / MANIFEST).unlink()
    seal(bundle, replace(manifest, weights={"denoising_unet.pth": "0" * 64}))


@pytest.mark.parametrize("name", ["out.mp4", "frames"])
def test_a_result_is_recorded_with_the_bundle_that_made_it(inputs: Path, folder: Path, name: str) -> None:
    shot = example(inputs, folder / name, steps=1)
    with open_animator(shot.bundle) as animator:
        old = shot.digest()
        build_again(shot.bundle)
        make(shot, animator)
    assert is_done(shot, old)
    assert shot.digest() != old
    assert not is_done(shot, shot.digest())
    with open_animator(shot.bundle) as animator:
        make(shot, animator)
    assert is_done(shot, shot.digest())


def test_a_bundle_built_between_the_first_look_and_loading(
    inputs: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from animate_rt.__main__ import main

    def load(bundle: Path) -> Any:
        build_again(bundle)
        return open_animator(bundle)

    monkeypatch.setattr("animate_rt.runtime.shots.commands.Animator.load", load)
    named = ["--reference", str(inputs / "reference.png"), "--pose", str(inputs / "pose")]
    command = ["animate", str(inputs / "bundle"), *named, "--steps", "1", "--output", str(folder / "o.mp4")]
    assert main(command) == 0
    shot = example(inputs, folder / "o.mp4", steps=1)
    assert is_done(shot, shot.digest())


# Inputs that change while they are read


def rewrite(path: Path, source: Path) -> None:
    path.write_bytes(source.read_bytes())


def swap(path: Path, source: Path) -> None:
    shutil.copy2(source, path.with_name("new"))
    path.with_name("new").replace(path)


def rewrite_with_the_same_time(path: Path, source: Path) -> None:
    status = path.stat()
    rewrite(path, source)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def change_and_change_back(path: Path, source: Path) -> None:
    before = path.read_bytes()
    rewrite(path, source)
    path.write_bytes(before)


def put_aside_for_a_while(path: Path, source: Path) -> None:
    aside = path.rename(path.with_name("aside"))
    shutil.copy2(source, path)
    aside.replace(path)


def add(path: Path, source: Path) -> None:
    shutil.copy(source, path.with_name("zzz.png"))


Change = Callable[[Path, Path], None]
CHANGES: list[Change] = [
    rewrite,
    swap,
    rewrite_with_the_same_time,
    change_and_change_back,
    put_aside_for_a_while,
]
CHANGED = [
    *(("reference.png", change) for change in CHANGES),
    *(("pose/005.png", change) for change in [*CHANGES, add]),
    *(("noise.npy", change) for change in CHANGES),
]


@pytest.mark.parametrize("name", ["out.mp4", "frames"])
@pytest.mark.parametrize(("changed", "change"), CHANGED)
def test_a_clip_whose_input_changed_is_not_published(
    inputs: Path, folder: Path, name: str, changed: str, change: Change
) -> None:
    for seed, noise in enumerate(("noise.npy", "other.npy")):
        shape = (1, 4, NUM_POSES, HEIGHT // 8, WIDTH // 8)
        np.save(inputs / noise, np.random.default_rng(seed).standard_normal(shape, np.float32))
    given = {"initial_noise": inputs / "noise.npy"} if changed == "noise.npy" else {}
    shot = example(inputs, folder / name, steps=2, **given)
    other = inputs / changed.replace("reference", "other").replace("noise", "other").replace("pose", "other")

    def disturb(progress: Progress) -> None:
        if progress.stage == "denoise" and progress.done == 1:
            change(inputs / changed, other)

    with open_animator(shot.bundle) as animator:
        with pytest.raises(InputChanged, match="changed while") as caught:
            make(shot, animator, progress=disturb)
        assert caught.value.retryable
        assert "\n" not in str(caught.value)
        assert list(folder.iterdir()) == []
        make(shot, animator)
    assert is_done(shot, shot.digest())
    assert files(shot) == truth(shot, folder.parent / "truth")


def test_a_killed_clip_whose_input_changed_and_changed_back_is_not_resumed(
    inputs: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The killed process may have read the other picture."""
    monkeypatch.setattr(PartialClip, "due", lambda _partial: True)
    shot = example(inputs, folder / "frames", steps=2, windows="open")
    assert not make_until(shot, 14)
    change_and_change_back(inputs / "pose" / "003.png", inputs / "other" / "003.png")
    with open_animator(shot.bundle) as animator:
        assert make(shot, animator).num_kept == 0
    assert files(shot) == truth(shot, folder.parent / "truth")


def test_hidden_and_system_files_among_the_poses_change_nothing(inputs: Path, folder: Path) -> None:
    shot = example(inputs, folder / "out.mp4", steps=1)
    before = shot.digest()
    for name in ("._005.png", ".hidden.png", ".DS_Store", "Thumbs.db", "desktop.ini", ".png"):
        (inputs / "pose" / name).write_bytes(b"\0\5\26\7")
    (inputs / "pose" / "@eaDir").mkdir()
    (inputs / "pose" / "@eaDir" / "005.png").write_bytes(b"thumbnail")
    assert shot.digest() == before
    with open_animator(shot.bundle) as animator:
        assert make(shot, animator).num_frames == NUM_POSES


# Contact sheets


def test_a_contact_sheet_of_another_result_does_not_count(inputs: Path, folder: Path) -> None:
    sheet = folder / "sheet.png"
    with open_animator(inputs / "bundle") as animator:
        one = example(inputs, folder / "out.mp4", steps=1, seed=1, contact_sheet=sheet)
        make(one, animator)
        assert is_done(one, one.digest())
        stale = sheet.read_bytes()
        make(example(inputs, folder / "out.mp4", steps=1, seed=2), animator)
        two = example(inputs, folder / "out.mp4", steps=1, seed=2, contact_sheet=sheet)
        assert not is_done(two, two.digest())
        make(two, animator)
        assert is_done(two, two.digest())
    assert sheet.read_bytes() != stale
    sheet.write_bytes(stale)
    assert not is_done(two, two.digest())
    assert result(folder).keys() == {"out.mp4", "out.mp4.json", "sheet.png"}


def test_is_done_only_looks(inputs: Path, folder: Path) -> None:
    shot = example(inputs, folder / "out.mp4", steps=1)
    assert make_until(shot, 10**9)
    leftover = folder / f".out.mp4.{'0' * 16}.partial"
    leftover.mkdir()
    assert is_done(shot, shot.digest())
    assert leftover.is_dir()
