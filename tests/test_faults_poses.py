"""Unlucky pose sequences that are no videos: what a directory holds, animations, gaps, and other rates."""

from __future__ import annotations

import logging
from fractions import Fraction
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from animate_rt.errors import ConfigError, InputError, InputMissing
from animate_rt.runtime.media.picture import check_picture
from animate_rt.runtime.media.pose_sequence import open_pose
from PIL import Image

from .numbered_frames import number, numbered
from .pictures import samples


def write_frames(folder: Path, numbers: Any, suffix: str = "png") -> Path:
    folder.mkdir(exist_ok=True)
    for index in numbers:
        numbered(index).save(folder / f"{index:04}.{suffix}")
    return folder


def read(source: Any, frame_rate: Any = None, limit: int | None = None) -> list[int]:
    """The numbers that the frames show. Also compares them with the estimate of their number."""
    poses = open_pose(source, limit, frame_rate)
    numbers = [number(frame) for frame in poses]
    assert poses.num_frames in (None, len(numbers))
    return numbers


# What a directory holds


def test_only_pictures_count_in_a_directory(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "poses", range(3))
    (folder / "old.png").mkdir()
    for name in ("._0000.png", ".DS_Store", "Thumbs.db", "desktop.ini", "notes.txt", ".hidden.png"):
        (folder / name).write_bytes(b"\0\5\26\7")
    (folder / "@eaDir").mkdir()
    (folder / "@eaDir" / "0000.png").write_bytes(b"thumbnail")
    assert read(folder) == [0, 1, 2]


def test_a_broken_link_is_named_before_frames_are_read(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "poses", range(3))
    (folder / "0001.png").unlink()
    (folder / "0001.png").symlink_to(tmp_path / "gone")
    with pytest.raises(InputMissing, match=r"there is no picture .*/0001\.png"):
        open_pose(folder, None)
    assert read(folder, limit=1) == [0]


@pytest.mark.parametrize(
    "picture",
    [Image.new("I;16", (96, 48)), Image.new("RGB", (8, 8)), Image.new("L", (9000, 9000))],
)
def test_unusable_pictures_are_named_before_frames_are_read(tmp_path: Path, picture: Image.Image) -> None:
    folder = write_frames(tmp_path / "poses", range(3))
    picture.save(folder / "0002.png")
    with pytest.raises(InputError, match=r"0002\.png as a picture: expected (at least 16|at most 67|8 bits)"):
        open_pose(folder, None)


@pytest.mark.parametrize("suffix", ["tif", "TIFF", "png", "jpeg", "webp", "bmp", "avif"])
def test_directories_of_many_kinds_of_frames(tmp_path: Path, suffix: str) -> None:
    assert read(write_frames(tmp_path / "poses", range(3), suffix)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ([1, 2, 3, 7, 8], "3 numbered pose frames seem to be missing, the most after number 3"),
        ([1, 2, 4], "1 numbered pose frames seem to be missing, the most after number 2"),
        ([10, 12, 14, 18], "1 numbered pose frames seem to be missing, the most after number 14"),
        ([5], None),
        ([0, 5, 10, 15], None),  # every fifth frame on purpose
        (list(range(12)), None),
    ],
)
def test_gaps_in_numbered_frames_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, numbers: list[int], told: str | None
) -> None:
    folder = write_frames(tmp_path / "poses", numbers)
    with caplog.at_level(logging.WARNING, "animate_rt.media"):
        assert read(folder) == numbers
        assert read(folder) == numbers  # told once
    assert len(caplog.messages) == (told is not None)
    assert told is None or told in caplog.messages[0]


def test_names_that_are_not_numbered_have_no_gaps(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_frames(tmp_path / "poses", range(2))
    numbered(2).save(folder / "last.png")
    numbered(3).save(folder / "take2 0009.png")
    assert read(folder) == [0, 1, 2, 3]
    assert not caplog.messages


# Animations


@pytest.mark.parametrize(
    ("durations", "rate", "expected"),
    [
        ([40] * 8, Fraction(25), [0, 1, 2, 3, 4, 5, 6, 7]),
        ([33, 33, 34] * 10, Fraction(30), list(range(30))),
        ([41, 42, 42] * 8, Fraction(24), list(range(24))),
        ([40, 80, 40, 40, 40], Fraction(25), [0, 1, 2, 2, 3, 4]),
        ([0] * 5, None, [0, 1, 2, 3, 4]),
        ([100, 100, 9_000_000, 100, 100], Fraction(10), [0, 1, 2, 3, 4]),
    ],
)
def test_animated_webp(tmp_path: Path, durations: list[int], rate: Any, expected: list[int]) -> None:
    first, *others = [numbered(index) for index in range(len(durations))]
    path = tmp_path / "a.webp"
    first.save(path, save_all=True, append_images=others, duration=durations, lossless=True)
    poses = open_pose(path, None)
    assert poses.frame_rate == rate
    assert read(path) == expected


def test_frames_of_a_transparent_webp_are_black_behind(tmp_path: Path) -> None:
    frames = [Image.new("RGBA", (32, 32), (255, 255, 255, 0)) for _ in range(3)]
    for index, frame in enumerate(frames):
        frame.putpixel((index, 0), (255, 0, 0, 255))
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], duration=40, lossless=True)
    poses = list(open_pose(tmp_path / "a.webp", None))
    assert [pose.getpixel((9, 9)) for pose in poses] == [(0, 0, 0)] * 3
    assert [pose.getpixel((index, 0)) for index, pose in enumerate(poses)] == [(255, 0, 0)] * 3


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate"])
def test_pages_of_a_tiff_are_frames(tmp_path: Path, compression: str) -> None:
    first, *others = [numbered(index) for index in range(6)]
    path = tmp_path / "a.tif"
    first.save(path, save_all=True, append_images=others, compression=compression)
    assert open_pose(path, None).frame_rate is None
    assert read(path) == [0, 1, 2, 3, 4, 5]
    assert read(path, limit=2) == [0, 1]


def test_an_animated_avif(tmp_path: Path) -> None:
    # FFmpeg sees two tracks in it, a picture and the animation.
    first, *others = [numbered(index) for index in range(6)]
    first.save(tmp_path / "a.avif", save_all=True, append_images=others, duration=40)
    assert open_pose(tmp_path / "a.avif", None).frame_rate == 25
    assert read(tmp_path / "a.avif") == [0, 1, 2, 3, 4, 5]


def test_a_single_picture_is_no_pose_sequence(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    for name in ("a.webp", "a.tif", "a.png", "a.avif", "a.heic", "a.jp2"):
        numbered(1).save(tmp_path / name)
        with pytest.raises(InputError, match=f"found the single picture .*{name}: give its directory"):
            open_pose(tmp_path / name, None)


def test_an_animation_in_a_directory_is_not_cut_to_its_first_frame(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "poses", range(2))
    first, *others = [numbered(index) for index in range(8)]
    first.save(folder / "0002.webp", save_all=True, append_images=others, duration=40)
    with pytest.raises(InputError, match=r"0002\.webp.*found an animation; give the file itself as the pose"):
        open_pose(folder, None)


def test_check_picture_tells_what_reading_would_tell(tmp_path: Path) -> None:
    pixels = np.zeros((32, 32, 3), np.uint8)
    with pytest.raises(InputMissing):
        check_picture(tmp_path / "none.png")
    for index, content in enumerate(samples()[-3:]):
        (tmp_path / f"{index}").write_bytes(content)
        with pytest.raises(InputError, match="found an animation"):
            check_picture(tmp_path / f"{index}")
    check_picture(pixels)
    check_picture(Image.fromarray(pixels))
    for wrong in (pixels[0], pixels.astype(np.float32), 5, None, b"x"):
        with pytest.raises(InputError):
            check_picture(wrong)  # type: ignore[arg-type]


# Other rates


@pytest.mark.parametrize(
    ("frame_rate", "expected"),
    [
        (24, list(range(10))),
        (Fraction(12), [0, 2, 4, 6, 8]),
        (8, [0, 3, 6, 9]),
        (6.0, [0, 4, 8]),
        (48, [index for index in range(10) for _ in range(2)]),
        (18, [0, 1, 3, 4, 5, 7, 8, 9]),
    ],
)
def test_pictures_at_another_rate(tmp_path: Path, frame_rate: Any, expected: list[int]) -> None:
    folder = write_frames(tmp_path / "poses", range(10))
    files = sorted(folder.iterdir())
    frames = np.stack([np.asarray(numbered(index)) for index in range(10)])
    for source in (folder, files, iter(files), (numbered(index) for index in range(10)), frames):
        poses = open_pose(source, None, frame_rate)
        assert poses.frame_rate == Fraction(frame_rate)
        assert [number(frame) for frame in poses] == expected
    assert open_pose(folder, None, frame_rate).num_frames == len(expected)
    assert read(folder, frame_rate, limit=2) == expected[:2]


def test_an_endless_iterable_at_another_rate() -> None:
    poses = open_pose((numbered(index % 64) for index in count()), None, 12)
    assert [number(frame) for frame in islice(poses, 4)] == [0, 2, 4, 6]


def test_a_sequence_at_its_rate_stays_as_it_is(tmp_path: Path) -> None:
    poses = open_pose(write_frames(tmp_path / "poses", range(10)), None, 12)
    assert [number(frame) for frame in open_pose(poses, None, Fraction(12))] == [0, 2, 4, 6, 8]
    assert [number(frame) for frame in open_pose(poses, None, 6)] == [0, 4, 8]
    assert open_pose(poses, None, 6).num_frames == 3


def test_animated_webp_at_another_rate(tmp_path: Path) -> None:
    first, *others = [numbered(index) for index in range(8)]
    first.save(tmp_path / "a.webp", save_all=True, append_images=others, duration=40, lossless=True)
    assert read(tmp_path / "a.webp", Fraction(25, 2)) == [0, 2, 4, 6]


@pytest.mark.parametrize("frame_rate", [0, -1, 1001, "12", True, float("nan"), float("inf"), [12], 10**400])
def test_refuses_other_rates(frame_rate: Any) -> None:
    with pytest.raises(ConfigError, match="pose_fps: expected 1/1000 to 1000, found"):
        open_pose([numbered(0)], None, frame_rate)


@pytest.mark.parametrize("limit", [0, -1, 2.5, "3", True, [1]])
def test_refuses_other_limits(limit: Any) -> None:
    with pytest.raises(ConfigError, match="frames: expected a whole number of at least 1, found"):
        open_pose([numbered(0)], limit)


@pytest.mark.parametrize("source", [[1, 2], [None], [numbered(0), "gone.png"], b"poses", np.zeros(()), 7])
def test_wrong_types_are_told_before_frames_are_read(source: Any) -> None:
    with pytest.raises(InputError):
        open_pose(source, None)
