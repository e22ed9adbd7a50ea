"""Initial noise: per frame from a seed, or from a file that is checked."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from animate_rt import InputError, InputMissing
from animate_rt.runtime.clip.noise import read_noise, seeded_noise

from .damage import thread_cpu_s

SHAPE = (4, 6, 5)
HEADER = b"\x93NUMPY\x01\x00\x02\x00%b"


def test_a_frames_noise_does_not_depend_on_the_clips_length() -> None:
    long = seeded_noise(7, range(9), SHAPE)
    assert np.array_equal(long[:4], seeded_noise(7, range(4), SHAPE))
    assert np.array_equal(long[4:6], seeded_noise(7, range(4, 6), SHAPE))
    assert long.dtype == np.float32
    assert long.shape == (9, *SHAPE)


def test_seeds_and_frames_differ() -> None:
    noise = seeded_noise(7, range(3), SHAPE)
    assert not np.array_equal(noise[0], noise[1])
    assert not np.array_equal(noise, seeded_noise(8, range(3), SHAPE))


def test_noise_is_standard_normal() -> None:
    noise = seeded_noise(0, range(50), (4, 32, 32))
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01


def test_a_file_is_read_with_frames_first(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).standard_normal((1, 4, 3, 6, 5)).astype(np.float32)
    np.save(tmp_path / "noise.npy", noise)
    found = read_noise(tmp_path / "noise.npy", SHAPE)
    assert np.array_equal(found, noise[0].transpose(1, 0, 2, 3))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_noise_of_one_frame_is_writable(tmp_path: Path, dtype: type) -> None:
    """For one frame, swapping the axes makes no copy, and the memory-mapped file is read-only."""
    np.save(tmp_path / "noise.npy", np.ones((1, 4, 1, 6, 5), dtype))
    found = read_noise(tmp_path / "noise.npy", SHAPE)
    assert found.dtype == np.float32
    found *= 2


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 4, 6, 5), np.float32),
        np.zeros((2, 4, 3, 6, 5), np.float32),
        np.zeros((1, 4, 3, 6, 5), np.int32),
        np.full((1, 4, 3, 6, 5), np.nan, np.float32),
        np.full((1, 4, 3, 6, 5), np.inf, np.float32),
        np.full((1, 4, 3, 6, 5), 1e300),
        np.zeros((1, 4, 3, 5, 6), np.float32),
        np.zeros((1, 3, 3, 6, 5), np.float32),
    ],
)
def test_unusable_arrays_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "noise.npy", array)
    with pytest.raises(InputError, match=r"noise\.npy: expected"):
        read_noise(tmp_path / "noise.npy", SHAPE)


@pytest.mark.parametrize(
    "content", [b"", b"text", b"\x93NUMPY", b"PK\x03\x04 not a zip", HEADER % b"{(", HEADER % b"{}"]
)
def test_unreadable_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "noise.npy").write_bytes(content)
    with pytest.raises(InputError, match="cannot read it"):
        read_noise(tmp_path / "noise.npy", SHAPE)


def header(shape: str, dtype: str = "'<f4'") -> bytes:
    text = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header("(1, 4, 10000000000, 6, 5)"), "expected noise of at most 2236962 frames, found 10000000000"),
        (header("(1, 4, 0, 6, 5)"), "expected floating point noise"),
        (header("(1, 4, 3, 6, 5)", "[('\\x1b[31m', '<f4')]"), "expected floating point noise"),
        (header("(1, 4, -3, 6, 5)"), "cannot read it"),
        (header(f"(1, 4, {'9' * 4200}, 6, 5)"), "cannot read it"),
        (header("(1, 4, 3, 6, 5)", "[" * 3000 + "]" * 3000), "cannot read it"),
        (header("(1, 4, 3, 6, 5)", "'<f4'" + " " * 20_000), "cannot read it"),
    ],
    ids=["sparse", "empty", "structured", "negative", "digits", "deep", "long"],
)
def test_hostile_headers_cost_nothing(tmp_path: Path, content: bytes, message: str) -> None:
    """The files are as long as their headers say, without taking room on the disk."""
    path = tmp_path / "noise.npy"
    path.write_bytes(content)
    os.truncate(path, 4_800_000_000_000 + len(content))
    began = thread_cpu_s()
    with pytest.raises(InputError, match=message) as caught:
        read_noise(path, SHAPE)
    assert thread_cpu_s() - began < 1
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
    assert "pickle" not in str(caught.value)


def test_files_that_are_no_files_are_refused() -> None:
    for path in ("/dev/zero", "/dev", "no\0where", "x" * 10_000):
        with pytest.raises(InputMissing, match=r"expected a \.npy file of noise, found none"):
            read_noise(path, SHAPE)


def test_pickles_do_not_run(tmp_path: Path) -> None:
    np.save(tmp_path / "noise.npy", np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="cannot read it"):
        read_noise(tmp_path / "noise.npy", SHAPE)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match=r"none\.npy"):
        read_noise(tmp_path / "none.npy", SHAPE)
