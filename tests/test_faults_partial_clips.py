"""Snapshots and kept frames that are not of a clip are not used for it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from animate_rt.runtime.shots.making import make
from animate_rt.runtime.shots.resume import SNAPSHOT, PartialClip
from animate_rt.runtime.shots.shot import Shot, is_done
from PIL import Image

from .fixed_cost import HEIGHT, WIDTH, example, open_animator, write_inputs
from .slow import SLOW
from .stopped_shots import files, make_until, truth

NUM_POSES = 7
NUM_CALLS = 24  # of the progress callback, after which some frames are finished, and a snapshot is saved


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """bundle/, reference.png and pose/ of 7 pictures."""
    (tmp_path / "inputs").mkdir()
    return write_inputs(tmp_path / "inputs", NUM_POSES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def stop_midway(shot: Shot, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The partial clip of a shot that was stopped with some frames finished."""
    monkeypatch.setattr(PartialClip, "due", lambda _partial: True)
    assert not make_until(shot, NUM_CALLS)
    (partial,) = shot.output.path.parent.iterdir()
    assert len(list((partial / "frames").iterdir())) > 1
    assert (partial / SNAPSHOT).is_file()
    return partial


def forge(path: Path, **changed: Any) -> None:
    """Change arrays of a snapshot; None removes one."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files} | changed
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


def forgeries(path: Path) -> list[dict[str, Any]]:
    """Valid archives that are no snapshots of this clip."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    tasks, first_frame = arrays["position"]
    latents = next(name for name in arrays if name.startswith("0_"))
    shape, first = arrays[latents].shape, latents.partition("_")[2]
    positions = [(10**6, 0), (-5, 0), (tasks, first_frame + 10**6), (tasks, -1), (tasks + 1, first_frame)]
    positions += [(tasks - 1, first_frame), (2**62, 2**62), (0, 0)]
    wrong = [
        np.zeros(size, np.float32)
        for size in ((1, 2, 3), (*shape[:-1], 99), (99, *shape[1:]), (0, *shape[1:]))
    ]
    return [
        *({"position": np.array(position)} for position in positions),
        {"position": np.array([1.5, 0.0])},
        {"position": np.array([[1, 2]])},
        {"position": None},
        {"position": np.array(["a", "b"])},
        *({latents: array} for array in wrong),
        {latents: arrays[latents].astype(np.float64)},
        {latents: arrays[latents].astype(np.int8)},
        {latents: np.full(shape, np.nan, np.float32)},
        {latents: None},
        {f"1_{first}": None, f"0_{first}": None},
        {f"1_{first}": np.zeros((1, 1), np.float32)},
        {"0_99": arrays[latents]},
        {"0_-1": arrays[latents]},
        {"else": arrays[latents]},
        {"clip": np.array("0" * 64)},
        {"clip": None},
    ]


@pytest.mark.parametrize("name", ["out.mp4", "frames"])
def test_a_snapshot_that_is_not_of_this_clip_is_ignored(
    inputs: Path, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shot = example(inputs, folder / name, steps=3, windows="open", order="time-skewed")
    expected = truth(shot, folder.parent / "truth")
    partial = stop_midway(shot, monkeypatch)
    kept = folder.parent / "kept"
    shutil.copytree(partial, kept)
    monkeypatch.undo()
    for forgery in forgeries(partial / SNAPSHOT):
        shutil.copytree(kept, partial, dirs_exist_ok=True)
        forge(partial / SNAPSHOT, **forgery)
        assert make_until(shot, 10**9), forgery
        assert files(shot) == expected, forgery
        assert is_done(shot, shot.digest())
        shot.output.mark_stale()


@pytest.mark.parametrize("count", [60, pytest.param(200, marks=SLOW)])
def test_any_position_in_a_snapshot_gives_the_same_clip(
    inputs: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Random positions, and latents that are missing or of other segments."""
    chance = np.random.default_rng(0)
    shot = example(inputs, folder / "frames", steps=2, windows="open")
    expected = truth(shot, folder.parent / "truth")
    partial = stop_midway(shot, monkeypatch)
    kept = folder.parent / "kept"
    shutil.copytree(partial, kept)
    monkeypatch.undo()
    with open_animator(shot.bundle) as animator:
        for _ in range(count):
            shutil.copytree(kept, partial, dirs_exist_ok=True)
            with np.load(partial / SNAPSHOT) as archive:
                names = [name for name in archive.files if "_" in name and chance.random() < 0.3]
            forge(
                partial / SNAPSHOT,
                position=chance.integers(-3, [12, 9]),
                **dict.fromkeys(names),
            )
            make(shot, animator)
            assert files(shot) == expected
            shot.output.mark_stale()


def other_size(path: Path) -> None:
    Image.new("RGB", (16, 16)).save(path)


def deeper(path: Path) -> None:
    Image.new("I;16", (WIDTH, HEIGHT)).save(path)


def grey(path: Path) -> None:
    Image.new("L", (WIDTH, HEIGHT)).save(path)


def no_png(path: Path) -> None:
    Image.new("RGB", (WIDTH, HEIGHT)).save(path, format="JPEG")


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("name", ["out.mp4", "frames"])
@pytest.mark.parametrize("damage", [other_size, deeper, grey, no_png, a_pipe])
def test_a_kept_frame_that_is_not_of_this_clip_is_made_again(
    inputs: Path, folder: Path, name: str, damage: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    shot = example(inputs, folder / name, steps=3, windows="open", order="time-skewed")
    partial = stop_midway(shot, monkeypatch)
    damage(partial / "frames" / shot.output.frame_name(1))
    assert make_until(shot, 10**9)
    assert files(shot) == truth(shot, folder.parent / "truth")


@pytest.mark.parametrize("name", ["out.mp4", "frames"])
def test_frames_beyond_the_end_of_the_clip_are_not_published(
    inputs: Path, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shot = example(inputs, folder / name, steps=3, windows="open", order="time-skewed")
    partial = stop_midway(shot, monkeypatch)
    for index in range(20):
        Image.new("RGB", (WIDTH, HEIGHT)).save(partial / "frames" / shot.output.frame_name(index))
    (partial / "frames" / "notes.txt").touch()
    with open_animator(shot.bundle) as animator:
        assert make(shot, animator).num_frames == NUM_POSES
    assert files(shot) == truth(shot, folder.parent / "truth")
