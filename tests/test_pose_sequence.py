"""Pose frames from a directory or an iterable."""

from itertools import count

import numpy as np
import pytest
from animate_rt.errors import InputError, InputMissing
from animate_rt.runtime.media.pose_sequence import open_pose
from PIL import Image

from .numbered_frames import number, numbered


def test_a_directory_is_read_in_natural_order(tmp_path):
    for index, name in enumerate(["1.png", "02.jpg", "2.jpg", "10.png", "a2.bmp", "a10.webp", "b.JPEG"]):
        numbered(index).save(tmp_path / name)
    (tmp_path / ".0.png").write_bytes(b"hidden")
    (tmp_path / "0.txt").write_text("notes")
    poses = open_pose(tmp_path, None)
    assert (poses.frame_rate, poses.num_frames) == (None, 7)
    assert [number(frame) for frame in poses] == [0, 1, 2, 3, 4, 5, 6]
    assert open_pose(tmp_path, 4).num_frames == 4
    assert len(list(open_pose(tmp_path, 4))) == 4


def test_an_iterable_may_mix_images_arrays_and_paths(tmp_path):
    numbered(2).save(tmp_path / "2.png")
    poses = open_pose([numbered(0), np.asarray(numbered(1)), tmp_path / "2.png"], None)
    assert (poses.frame_rate, poses.num_frames) == (None, 3)
    assert [number(frame) for frame in poses] == [0, 1, 2]


def test_an_endless_iterable_is_read_up_to_the_limit():
    numbers = count()
    poses = open_pose((numbered(index) for index in numbers), 3)
    assert poses.num_frames is None
    assert next(numbers) == 0
    assert len(list(poses)) == 3
    assert next(numbers) == 4


def test_a_sequence_can_be_opened_again_with_a_limit(tmp_path):
    # The command line reads the frame rate before the animator opens the sequence again.
    for index in range(3):
        numbered(index).save(tmp_path / f"{index}.png")
    again = open_pose(open_pose(tmp_path, None), 2)
    assert again.num_frames == 2
    assert [number(frame) for frame in again] == [0, 1]


# What cannot be used


def test_missing_path(tmp_path):
    with pytest.raises(InputMissing, match=r"gone\.mp4"):
        open_pose(tmp_path / "gone.mp4", None)


@pytest.mark.parametrize("name", ["pose.png", "pose.JPG", "pose.webp", "pose.bmp"])
def test_refuses_a_single_picture_and_suggests_a_directory_or_list(tmp_path, name):
    numbered(0).save(tmp_path / name)
    with pytest.raises(InputError, match=rf"single picture .*{name}: give its directory, or a list"):
        open_pose(tmp_path / name, None)


def test_refuses_a_directory_without_pictures(tmp_path):
    (tmp_path / "notes.txt").write_text("no pictures")
    with pytest.raises(InputError, match="no pose frame"):
        open_pose(tmp_path, None)


@pytest.mark.parametrize("source", [7, None, Image.new("RGB", (64, 64))])
def test_refuses_objects_that_are_not_iterable(source):
    with pytest.raises(InputError, match=type(source).__name__):
        open_pose(source, None)


def test_an_empty_iterable_fails_when_iterated():
    with pytest.raises(InputError, match="the given list has no pose frame"):
        list(open_pose([], None))


def test_a_broken_picture_is_named(tmp_path):
    numbered(0).save(tmp_path / "0.png")
    numbered(1).save(tmp_path / "1.png")
    intact = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(intact[: len(intact) // 2])  # its header is intact
    poses = iter(open_pose(tmp_path, None))
    assert number(next(poses)) == 0
    with pytest.raises(InputError, match=r"1\.png"):
        next(poses)
