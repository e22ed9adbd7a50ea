"""A bundle whose files are written to after it was loaded: no frame made with them is kept or published."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from animate_rt import Animator, BundleCorrupt
from animate_rt.engines.bundle import MANIFEST, open_bundle, seal
from animate_rt.engines.cpu import openvino
from animate_rt.errors import InputChanged
from animate_rt.runtime.clip.options import ClipOptions
from animate_rt.runtime.clip.progress import Progress
from animate_rt.runtime.farm.worker import Attempt, Worker
from animate_rt.runtime.shots.loaded_bundle import check_unchanged
from animate_rt.runtime.shots.making import make
from animate_rt.runtime.shots.output import Output
from animate_rt.runtime.shots.resume import PartialClip
from animate_rt.runtime.shots.shot import Shot, is_done

from .conftest import Case
from .fixed_cost import example, open_animator, write_inputs
from .stopped_shots import Stopped, files, result, truth

NUM_POSES = 7
CONTENT = bytes(range(64))


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """bundle/, whose weights.bin has 64 bytes, reference.png and pose/ of 7 pictures."""
    folder = tmp_path / "inputs"
    folder.mkdir()
    bundle = write_inputs(folder, NUM_POSES) / "bundle"
    manifest = open_bundle(bundle).manifest
    weights(bundle).write_bytes(CONTENT)
    (bundle / MANIFEST).unlink()
    seal(bundle, manifest)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def weights(bundle: Path) -> Path:
    return bundle / "graphs" / "weights.bin"


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"other")


def overwrite_with_the_same_time(path: Path) -> None:
    status = path.stat()
    overwrite(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def overwrite_and_restore(path: Path) -> None:
    overwrite(path)
    path.write_bytes(CONTENT)


def cut(path: Path) -> None:
    os.truncate(path, 10)


CHANGES = [overwrite, overwrite_with_the_same_time, overwrite_and_restore, cut]


def disturbing(change: Callable[[Path], object], bundle: Path, at: int = 1) -> Callable[[Progress], None]:
    """A progress callback that changes the weights before a denoising task."""

    def disturb(progress: Progress) -> None:
        if progress.stage == "denoise" and progress.done == at:
            change(weights(bundle))

    return disturb


@pytest.mark.parametrize("name", ["out.mp4", "frames"])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("when", ["before", "during"])
def test_a_clip_of_weights_that_were_written_to_is_not_published(
    inputs: Path, folder: Path, name: str, change: Callable[[Path], object], when: str
) -> None:
    shot = example(inputs, folder / name, steps=2)
    with open_animator(shot.bundle) as animator:
        disturb = disturbing(change, shot.bundle)
        if when == "before":
            disturb(Progress("denoise", 1, None))
        with pytest.raises(
            InputChanged, match=r"weights\.bin: expected a file of the bundle that stays"
        ) as e:
            make(shot, animator, progress=disturb)
        assert e.value.retryable
        with pytest.raises(InputChanged):  # references of these weights may be in its cache
            make(shot, animator)
    assert list(folder.iterdir()) == []
    if change is not overwrite_and_restore:
        with pytest.raises(BundleCorrupt, match=r"weights\.bin"):
            open_animator(shot.bundle)
        weights(shot.bundle).write_bytes(CONTENT)
    with open_animator(shot.bundle) as animator:
        make(shot, animator)
    assert is_done(shot, shot.digest())


def replace(path: Path) -> None:
    path.with_name("new").write_bytes(b"other")
    path.with_name("new").replace(path)


def link(path: Path) -> None:
    path.with_name("backup").hardlink_to(path)


@pytest.mark.parametrize("change", [replace, link, Path.unlink])
def test_weights_that_keep_their_content_for_the_engines_change_nothing(
    inputs: Path, folder: Path, change: Callable[[Path], object]
) -> None:
    """A file that has another name now, or a link more, is still the one that the engines read."""
    shot = example(inputs, folder / "frames", steps=2)
    with open_animator(shot.bundle) as animator:
        make(shot, animator, progress=disturbing(change, shot.bundle))
    assert is_done(shot, shot.digest())
    weights(shot.bundle).unlink(missing_ok=True)
    weights(shot.bundle).write_bytes(CONTENT)
    assert files(shot) == truth(shot, folder.parent / "truth")


def test_a_killed_process_keeps_no_frame_of_other_weights(
    inputs: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are restored after the kill: the next process resumes from the frames made before."""
    monkeypatch.setattr(PartialClip, "due", lambda _partial: True)
    shot = example(inputs, folder / "frames", steps=2, windows="open")

    def progress(step: Progress) -> None:
        if step.stage == "decode" and step.done == 3:
            overwrite(weights(shot.bundle))

    def killed(_partial: PartialClip, _entry: Path) -> None:  # where files would be removed
        raise Stopped

    with open_animator(shot.bundle) as animator, monkeypatch.context() as patch:
        patch.setattr(PartialClip, "_remove", killed)
        with pytest.raises(Stopped):
            make(shot, animator, progress=progress)
    assert len(list(folder.glob(".*/frames/*"))) <= 3
    weights(shot.bundle).write_bytes(CONTENT)
    with open_animator(shot.bundle) as animator:
        assert 1 <= make(shot, animator).num_kept <= 3
    assert files(shot) == truth(shot, folder.parent / "truth")


def test_a_worker_loads_the_bundle_again(inputs: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shots = [example(inputs, folder / f"{seed}.mp4", steps=1, seed=seed) for seed in range(4)]
    worker = Worker(open_animator)
    assert not worker.make(shots[0]).error
    first = worker.animator
    overwrite(weights(inputs / "bundle"))
    found = worker.make(shots[1])
    assert (found.code, found.retryable) == ("bundle_corrupt", False)
    weights(inputs / "bundle").write_bytes(CONTENT)
    assert not worker.make(shots[1]).error
    second = worker.animator
    assert second is not first
    link(weights(inputs / "bundle"))
    assert not worker.make(shots[2]).error
    assert worker.animator is second
    # While a shot is made, as its progress tells.
    monkeypatch.setattr(Attempt, "add", lambda _attempt, step: disturb(step))
    disturb = disturbing(overwrite_and_restore, inputs / "bundle")
    found = worker.make(shots[3])
    assert (found.code, found.retryable) == ("input_changed", True)
    monkeypatch.undo()
    assert not worker.make(shots[3]).error
    assert worker.animator is not second


def test_the_check_before_each_frame_is_cheap(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = open_bundle(inputs / "bundle")
    began = time.perf_counter()
    for _ in range(100):
        check_unchanged(bundle)
    each_us = 1e4 * (time.perf_counter() - began)
    with capsys.disabled():
        print(f"\nlooking at {len(bundle.hashed)} files of a bundle: {each_us:.0f} us")
    assert each_us < 5000


def test_weights_of_real_engines(
    small: Case, small_bundle: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO maps the weights: written to, they change the frames of the animator that has loaded them."""
    bundle = Path(shutil.copytree(small_bundle, folder.parent / "bundle"))
    monkeypatch.setattr(
        openvino, "compile_graph", openvino.compile_graph.original
    )  # not that of another file
    shot = Shot(
        name="real",
        bundle=bundle,
        reference=small.reference,
        pose=small.pose,
        output=Output.at(str(folder / "frames")),
        options=ClipOptions(steps=1, guidance_scale=1.0),
        frames="3",
    )
    with Animator.load(bundle) as animator:
        right = list(animator.animate(shot.reference, shot.pose, shot.options, frames=3))
        path = weights(bundle)
        with np.errstate(invalid="ignore"):  # some are no float16
            other = (np.float16(0.9) * np.fromfile(path, np.float16)).tobytes()
        with path.open("r+b") as file:
            file.write(other)
        wrong = list(animator.animate(shot.reference, shot.pose, shot.options, frames=3))
        assert not np.array_equal(right, wrong)
        with pytest.raises(InputChanged, match="written to"):
            make(shot, animator)
    assert result(folder) == {}
