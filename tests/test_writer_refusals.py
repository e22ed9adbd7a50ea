"""The frame writer: what it refuses, and how it fails while writing."""

import os
import shutil
import tempfile
from fractions import Fraction

import numpy as np
import pytest
from animate_rt.errors import ConfigError, OutputError
from animate_rt.runtime.media.writer import QUEUE_FRAMES, open_writer

from .written_frames import NTSC, flat, python, write

# Refusals


@pytest.mark.parametrize("name", ["a.avi", "a.png", "a.mp4.txt"])
def test_refuses_other_suffixes(tmp_path, name):
    with pytest.raises(ConfigError, match=r"\.mp4"), open_writer(tmp_path / name, 48, 32, NTSC):
        pass


@pytest.mark.parametrize("name", ["out.mp4/", ".mp4", ".MP4"])
def test_refuses_an_mp4_name_with_a_slash_or_without_a_stem(tmp_path, name):
    with (
        pytest.raises(ConfigError, match=f"like out.mp4, .* found .*/{name}: "),
        open_writer(f"{tmp_path}/{name}", 48, 32, NTSC),
    ):
        pytest.fail("the block was entered")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "rate",
    [
        "0",
        "-24",
        "1e-30",
        "1/1001",
        "1001",
        "999.99999999999",
        "2147483648/2147483647",
        "1073741825/1073741824",
    ],
)
def test_refuses_a_frame_rate_that_an_mp4_cannot_hold(tmp_path, rate):
    with (
        pytest.raises(ConfigError, match="an mp4 needs a frame rate"),
        open_writer(tmp_path / "a.mp4", 48, 32, Fraction(rate)),
    ):
        pytest.fail("the block was entered")
    assert os.listdir(tmp_path) == []
    write(tmp_path / "frames", [flat(0)], Fraction(rate))


@pytest.mark.parametrize(
    ("name", "width", "reason"),
    [
        ("gone/a.mp4", 48, "no directory"),
        ("gone/frames", 48, "no directory"),
        ("file/a.mp4", 48, "no directory"),
        ("a.mp4", 47, "47x32"),
        ("directory.mp4", 48, "is not a file"),
        ("full", 48, "not empty"),
        ("file", 48, "is not a directory"),
        ("/dev/null", 48, "is not a directory"),
        ("/", 48, "found /: choose a name"),
        ("a" * 300 + ".mp4", 48, "too long"),
    ],
)
def test_refuses_unusable_outputs_before_the_first_frame(tmp_path, name, width, reason):
    (tmp_path / "directory.mp4").mkdir()
    (tmp_path / "full" / "something").mkdir(parents=True)
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match=reason) as caught, open_writer(tmp_path / name, width, 32, NTSC):
        pytest.fail("the block was entered")
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


UNWRITABLE = """
import os, sys, av
from animate_rt.errors import OutputError
from animate_rt.runtime.media.writer import open_writer

if os.getuid() == 0:
    os.setuid(65534)  # root may write anywhere
try:
    with open_writer(sys.argv[1], 64, 64, Fraction(24)):
        print("entered")
except OutputError as error:
    print(error)
"""


@pytest.mark.parametrize("name", ["a.mp4", "frames"])
def test_refuses_an_unwritable_directory(name):
    with tempfile.TemporaryDirectory() as directory:  # other users cannot enter tmp_path
        os.chmod(directory, 0o555)
        ended = python(UNWRITABLE, f"{directory}/{name}")
        assert (ended.stderr, ended.stdout) == ("", f"cannot write {directory}/{name}: Permission denied\n")


@pytest.mark.parametrize("name", ["a.mp4", "frames"])
def test_refuses_to_write_no_frames(tmp_path, name):
    with pytest.raises(OutputError, match="at least one frame"), open_writer(tmp_path / name, 48, 32, NTSC):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("frame", [flat(0, 32, 32), flat(0).astype(np.float32), flat(0)[..., :1]])
def test_refuses_a_frame_of_another_shape_or_dtype(tmp_path, frame):
    with (
        pytest.raises(OutputError, match=r"expected frames of uint8 \(32, 48, 3\)"),
        open_writer(tmp_path / "a.mp4", 48, 32, NTSC) as writer,
    ):
        writer.write(frame)


# Failures while writing


FULL_DISK = """
import os, resource, sys
from animate_rt.errors import OutputError
from animate_rt.runtime.media.writer import open_writer

path = sys.argv[1]
noise = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), dtype=np.uint8)

def attempt(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        with open_writer(path, 64, 64, Fraction(24)) as writer:
            for frame in noise: writer.write(frame)
    except OutputError as error:
        assert str(error) == f"cannot write {path}: File too large", error
        assert os.listdir(os.path.dirname(path)) == [], os.listdir(os.path.dirname(path))
        return False
    return True

assert attempt(resource.RLIM_INFINITY)
if os.path.isfile(path):
    size = os.path.getsize(path)
    os.remove(path)
    limits = [1, 1000, size // 4, size // 2, size - 2000, size - 1000, size - 100, size - 1]
else:
    limits = [1, 1000]
    for name in os.listdir(path): os.remove(os.path.join(path, name))
    os.rmdir(path)
assert not any(attempt(limit) for limit in limits)
print("refused", len(limits))
"""


@pytest.mark.parametrize(("name", "limits"), [("a.mp4", 8), ("frames", 2)])
def test_a_full_disk_raises_and_leaves_no_file(tmp_path, name, limits):
    # A limit on file sizes makes writes fail as on a full disk, and needs no privileges.
    ended = python(FULL_DISK, tmp_path / name)
    assert (ended.stderr, ended.stdout) == ("", f"refused {limits}\n")


@pytest.mark.parametrize("num_frames", [1, 10 * QUEUE_FRAMES])  # noticed at the end, noticed by a write
def test_a_failed_encoder_raises_and_does_not_block(tmp_path, num_frames):
    written = 0

    def render():
        nonlocal written
        with open_writer(tmp_path / "frames", 48, 32, NTSC) as writer:
            (partial,) = tmp_path.iterdir()
            shutil.rmtree(partial)
            for _ in range(num_frames):
                writer.write(flat(0))
                written += 1

    with pytest.raises(OutputError, match="No such file"):
        render()
    assert (written == num_frames) == (num_frames == 1)
    assert os.listdir(tmp_path) == []


def test_a_directory_filled_by_another_meanwhile_is_refused(tmp_path):
    def render():
        with open_writer(tmp_path / "frames", 48, 32, NTSC) as writer:
            writer.write(flat(0))
            (tmp_path / "frames" / "other").mkdir(parents=True)

    with pytest.raises(OutputError, match="not empty"):
        render()
    assert os.listdir(tmp_path) == ["frames"]
    assert os.listdir(tmp_path / "frames") == ["other"]
