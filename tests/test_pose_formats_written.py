"""Keypoints that are written: read back they are the same, and other tools can read them."""

from __future__ import annotations

import json
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from animate_rt.errors import ConfigError, InputError, OutputError
from animate_rt.runtime.poses.formats.reading import read_keypoints
from animate_rt.runtime.poses.formats.writing import write_keypoints
from animate_rt.runtime.poses.keypoints import BODY, FACE, LEFT_HAND, NUM_POINTS, Keypoints
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .keypoint_truth import HEIGHT, WIDTH, truth

NAMES = ("keypoints.json", "keypoints.npz", "folder")


def walk(frames: int = 3) -> Keypoints:
    return Keypoints(
        np.stack([truth(frame) for frame in range(frames)]), WIDTH, HEIGHT, Fraction(30000, 1001)
    )


def check_equal(found: Keypoints, expected: Keypoints) -> None:
    np.testing.assert_array_equal(found.frames, expected.frames)
    assert (found.width, found.height) == (expected.width, expected.height)
    assert found.frame_rate == expected.frame_rate


@st.composite
def sequences(draw: st.DrawFn) -> Keypoints:
    """Keypoints of any numbers, parts and rate. The first frame has all parts, well inside the picture."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    frames = rng.uniform(-200, 900, (draw(st.integers(1, 4)), NUM_POINTS, 3)) * draw(
        st.sampled_from([1, 1, 30])
    )
    frames[0] = rng.uniform(50, 400, (NUM_POINTS, 3))
    frames[..., 2] = rng.uniform(0, 1, frames.shape[:-1])
    for frame in frames[1:]:
        frame[rng.random(NUM_POINTS) < draw(st.sampled_from([0, 0.3, 0.9]))] = 0
        for part in LEFT_HAND, FACE:
            frame[part] *= draw(st.booleans())
        frame[BODY] = frames[0, BODY]  # so that the person is found
    rate = draw(st.none() | st.fractions(Fraction(1, 1000), 1000, max_denominator=10**9))
    return Keypoints(frames, draw(st.integers(1, 9000)), draw(st.integers(1, 9000)), rate)


@pytest.mark.parametrize("name", NAMES)
@given(keypoints=sequences())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read_back_exactly(name: str, keypoints: Keypoints, tmp_path: Path) -> None:
    write_keypoints(tmp_path / name, keypoints)
    check_equal(read_keypoints(tmp_path / name), keypoints)


@pytest.mark.parametrize("name", NAMES)
def test_frames_without_the_person_stay(name: str, tmp_path: Path) -> None:
    frames = walk(9).frames.copy()
    frames[:2] = 0
    frames[3:] = 0
    keypoints = Keypoints(frames, WIDTH, HEIGHT)
    write_keypoints(tmp_path / name, keypoints)
    check_equal(read_keypoints(tmp_path / name), keypoints)


def test_a_short_gap_stays_in_npz_and_is_interpolated_from_json(tmp_path: Path) -> None:
    frames = walk(4).frames.copy()
    frames[1:3] = 0
    keypoints = Keypoints(frames, WIDTH, HEIGHT)
    write_keypoints(tmp_path / "a.npz", keypoints)
    check_equal(read_keypoints(tmp_path / "a.npz"), keypoints)
    write_keypoints(tmp_path / "a.json", keypoints)
    np.testing.assert_allclose(read_keypoints(tmp_path / "a.json").frames, walk(4).frames)


def test_the_json_is_openposes_with_controlnets_size(tmp_path: Path) -> None:
    write_keypoints(tmp_path / "a.json", walk())
    frames = json.loads((tmp_path / "a.json").read_text())
    assert len(frames) == 3
    assert frames[0].keys() == {"version", "people", "canvas_width", "canvas_height", "frame_rate"}
    assert (frames[0]["canvas_width"], frames[0]["canvas_height"]) == (WIDTH, HEIGHT)
    assert frames[0]["frame_rate"] == "30000/1001"
    (person,) = frames[0]["people"]
    lengths = {name: len(numbers) for name, numbers in person.items()}
    assert lengths == {
        "person_id": 1,
        "pose_keypoints_2d": 54,
        "face_keypoints_2d": 204,
        "hand_left_keypoints_2d": 63,
        "hand_right_keypoints_2d": 63,
    }
    write_keypoints(tmp_path / "frames", walk())
    files = sorted(entry.name for entry in (tmp_path / "frames").iterdir())
    assert files == [f"{number:012d}_keypoints.json" for number in range(3)]
    assert [json.loads((tmp_path / "frames" / name).read_text()) for name in files] == frames


@pytest.mark.parametrize("name", NAMES)
def test_writing_twice_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        write_keypoints(tmp_path / name, walk())
        place = tmp_path / name
        files = sorted(place.iterdir()) if place.is_dir() else [place]
        found.append([file.read_bytes() for file in files])
    assert found[0] == found[1]
    assert [entry.name for entry in tmp_path.iterdir()] == [name]  # nothing temporary is left


def test_a_shorter_sequence_replaces_a_folder_and_other_files_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    write_keypoints(folder, walk(5))
    write_keypoints(folder, walk(2))
    assert len(list(folder.iterdir())) == 2
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"found notes\.txt there; choose another name"):
        write_keypoints(folder, walk(3))
    assert (folder / "notes.txt").read_text() == "mine"
    assert len(list(folder.iterdir())) == 3
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="found a file"):
        write_keypoints(tmp_path / "file", walk())


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ending in \.json or \.npz, or a folder, found keypoints\.txt"):
        write_keypoints(tmp_path / "keypoints.txt", walk())
    with pytest.raises(OutputError, match="No such file or directory"):
        write_keypoints(tmp_path / "nowhere" / "a.json", walk())
    with pytest.raises(OutputError, match="cannot write"):
        write_keypoints(f"{tmp_path}/a\0.json", walk())
    (tmp_path / "a.json").mkdir()
    with pytest.raises(OutputError, match="directory"):
        write_keypoints(tmp_path / "a.json", walk())
    assert os.listdir(tmp_path) == ["a.json"]


def test_keypoints_without_frames_can_be_written_and_not_read(tmp_path: Path) -> None:
    for name in NAMES:
        write_keypoints(tmp_path / name, Keypoints(np.zeros((0, NUM_POINTS, 3)), WIDTH, HEIGHT))
        with pytest.raises(InputError):
            read_keypoints(tmp_path / name)
