"""A shot that was stopped resumes, and its result is bit for bit that of an uninterrupted run."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from animate_rt.errors import InputError, InputMissing
from animate_rt.runtime.clip.snapshot import Snapshot
from animate_rt.runtime.shots.making import make
from animate_rt.runtime.shots.output import Output
from animate_rt.runtime.shots.previews import Finished
from animate_rt.runtime.shots.resume import SNAPSHOT, PartialClip
from animate_rt.runtime.shots.shot import is_done

from . import stopped_shots
from .fixed_cost import example, open_animator
from .stopped_shots import NUM_POSES, Stopped, make_until, result, start

inputs = stopped_shots.inputs

SHAPES = [
    {"windows": "uniform"},
    {"windows": "open", "order": "step-major"},
    {"windows": "open", "order": "time-skewed"},
    {"windows": "open", "order": "time-skewed", "guidance_scale": 1.0},
    {"windows": "uniform", "steps": 5, "solver": "unipc"},
    {"windows": "open", "order": "time-skewed", "steps": 5, "solver": "dpm++2m"},
]


@pytest.mark.parametrize("options", SHAPES)
@pytest.mark.parametrize("name", ["out.mp4", "frames"])
def test_shots_stopped_again_and_again_give_the_same_files(
    inputs: Path, tmp_path: Path, options: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PartialClip, "due", lambda _kept: True)  # a snapshot after every task
    (tmp_path / "undisturbed").mkdir()
    (tmp_path / "stopped").mkdir()
    options = {"steps": 3} | options
    assert make_until(example(inputs, tmp_path / "undisturbed" / name, **options), 10**9)
    shot = example(inputs, tmp_path / "stopped" / name, **options)
    num_stops = 0
    # Reading the poses takes 14 calls, and no snapshot is taken while frames finish out of order.
    while not make_until(shot, (16, 17, 30)[num_stops % 3]):
        assert not shot.output.path.exists()
        num_stops += 1
        assert num_stops < 100
    assert num_stops >= 3
    assert result(tmp_path / "stopped") == result(tmp_path / "undisturbed")
    assert is_done(shot, shot.digest())


def test_a_resumed_shot_repeats_no_finished_task_or_frame(
    inputs: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(PartialClip, "due", lambda _kept: True)
    shot = example(inputs, tmp_path / "frames", steps=3, windows="open", order="time-skewed")
    seen = []

    def stop(progress: Any) -> None:
        if progress.stage == "decode" and progress.done == 7:
            raise Stopped

    with open_animator(shot.bundle) as animator:
        with pytest.raises(Stopped):
            make(shot, animator, progress=stop)
        made = make(shot, animator, progress=seen.append)
    assert (made.num_frames, made.num_kept) == (NUM_POSES, 6)
    decode = [progress.done for progress in seen if progress.stage == "decode"]
    denoise = [progress.done for progress in seen if progress.stage == "denoise"]
    assert decode == list(range(6, NUM_POSES + 1))
    assert denoise[0] > 0
    assert denoise == list(range(denoise[0], seen[-1].total and denoise[-1] + 1))


@pytest.mark.parametrize("damage", ["snapshot", "frame", "both", "cut"])
def test_damaged_frames_and_snapshots_are_made_again(
    inputs: Path, tmp_path: Path, damage: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr(PartialClip, "due", lambda _kept: True)
    (tmp_path / "undisturbed").mkdir()
    (tmp_path / "damaged").mkdir()
    options: dict[str, Any] = {"steps": 3, "windows": "open", "order": "time-skewed"}
    assert make_until(example(inputs, tmp_path / "undisturbed" / "frames", **options), 10**9)
    shot = example(inputs, tmp_path / "damaged" / "frames", **options)
    assert not make_until(shot, 40)
    (kept,) = (tmp_path / "damaged").iterdir()
    frames = sorted((kept / "frames").iterdir())
    assert len(frames) > 2
    if damage in ("snapshot", "both"):
        content = bytearray((kept / SNAPSHOT).read_bytes())
        content[len(content) // 2] ^= 1
        (kept / SNAPSHOT).write_bytes(content)
    if damage in ("frame", "both"):
        content = bytearray(frames[1].read_bytes())
        content[len(content) // 2] ^= 1
        frames[1].write_bytes(content)
    if damage == "cut":
        frames[1].write_bytes(frames[1].read_bytes()[:-20])
        frames[2].write_bytes(b"")
    assert make_until(shot, 10**9)
    assert result(tmp_path / "damaged") == result(tmp_path / "undisturbed")


def test_other_options_discard_the_partial_files(inputs: Path, tmp_path: Path) -> None:
    assert not make_until(example(inputs, tmp_path / "out.mp4", steps=3), 18)
    assert [path.suffix for path in tmp_path.iterdir()] == [".partial"]
    assert make_until(example(inputs, tmp_path / "out.mp4", steps=2), 10**9)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mp4", "out.mp4.json"]


def test_bad_inputs_leave_no_files(inputs: Path, tmp_path: Path) -> None:
    shot = example(inputs, tmp_path / "out.mp4", steps=3, frames="5-50")
    with open_animator(shot.bundle) as animator, pytest.raises(InputError, match="found 11"):
        make(shot, animator)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_input_keeps_the_partial_files(inputs: Path, tmp_path: Path) -> None:
    shutil.copy(inputs / "reference.png", tmp_path / "reference.png")
    shot = replace(example(inputs, tmp_path / "out.mp4", steps=3), reference=tmp_path / "reference.png")
    assert not make_until(shot, 18)
    before = result(tmp_path)
    (tmp_path / "reference.png").unlink()
    with open_animator(shot.bundle) as animator, pytest.raises(InputMissing):
        make(shot, animator)
    assert result(tmp_path) == {name: file for name, file in before.items() if name != "reference.png"}


def test_a_stopped_force_run_resumes_without_force(inputs: Path, tmp_path: Path) -> None:
    for name in ("out.mp4", "frames"):
        shot = example(inputs, tmp_path / name, steps=3)
        assert make_until(shot, 10**9)
        assert not make_until(shot, 18, force=True)
        assert shot.output.path.exists()
        assert not is_done(shot, shot.digest())
        assert make_until(example(inputs, tmp_path / name, steps=3), 10**9)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "frames",
        "frames.json",
        "out.mp4",
        "out.mp4.json",
    ]


@pytest.mark.parametrize("name", ["out.mp4", "frames"])
def test_a_process_that_finishes_second_leaves_the_result_alone(
    inputs: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process publishes the same shot after this one has made its last frame."""
    shot = example(inputs, tmp_path / name, steps=3)
    shot = replace(shot, contact_sheet=tmp_path / "sheet.png")
    real, before = Finished.contact_sheet, dict[str, bytes]()

    def contact_sheet(clip: Finished) -> Any:
        monkeypatch.setattr(Finished, "contact_sheet", real)
        assert make_until(shot, 10**9)
        before.update(result(tmp_path))
        return real(clip)

    monkeypatch.setattr(Finished, "contact_sheet", contact_sheet)
    assert make_until(shot, 10**9)
    assert result(tmp_path) == before
    assert {"sheet.png", f"{name}.json"} < before.keys()


def test_a_saved_snapshot_is_read_back(tmp_path: Path) -> None:
    segments = {3: [np.ones((2, 4, 1, 1), np.float32)], 5: [np.zeros((1, 4, 1, 1), np.float32)] * 2}

    def take() -> Snapshot:
        time.sleep(0.05)
        return Snapshot(7, 1, segments)

    with PartialClip(Output.at(str(tmp_path / "out.mp4")), "0" * 64) as kept:
        for _ in kept.write(iter([np.zeros((8, 8, 3), np.uint8)]), (8, 8, 3)):
            kept.save(take)
            assert kept.cost_s > 0.05  # the measured cost includes taking the snapshot
    with PartialClip(Output.at(str(tmp_path / "out.mp4")), "0" * 64) as kept:
        assert (kept.start.num_tasks, kept.start.first_frame, kept.num_frames) == (7, 1, 1)
        assert [len(arrays) for arrays in kept.start.segments.values()] == [1, 2]
        assert np.array_equal(kept.start.segments[3][0], segments[3][0])


def test_two_processes_with_the_same_shot_make_it_once(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "undisturbed").mkdir()
    (tmp_path / "both").mkdir()
    for name in ("out.mp4", "frames"):
        assert make_until(example(inputs, tmp_path / "undisturbed" / name, steps=8), 10**9)
        commands = [start(inputs, tmp_path / "both" / name, "uniform", 8, 0.01) for _ in range(2)]
        assert [process.wait(60) for process in commands] == [0, 0]
    assert result(tmp_path / "both") == result(tmp_path / "undisturbed")
