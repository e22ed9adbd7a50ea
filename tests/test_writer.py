"""The frame writer: the contents of its files, and when they appear under their names."""

import os
import signal
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from animate_rt.runtime.media.writer import QUEUE_FRAMES, FrameWriter, open_writer
from PIL import Image

from .written_frames import NTSC, decode, flat, python, write

# Contents


def test_mp4_keeps_every_frame_in_order(tmp_path):
    write(tmp_path / "a.mp4", [flat(4 * index) for index in range(60)])
    assert [round(frame.mean() / 4) for frame in decode(tmp_path / "a.mp4")] == list(range(60))
    with av.open(tmp_path / "a.mp4") as container:
        stream = container.streams.video[0]
        assert (stream.frames, stream.average_rate) == (60, NTSC)
        assert stream.duration * stream.time_base == 60 / NTSC


@pytest.mark.parametrize("size", [(144, 256), (720, 1280)])
def test_mp4_keeps_colours(tmp_path, size):
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255)]
    colours += [(255, 128, 0), (200, 40, 60), (30, 180, 90), (60, 60, 200), (90, 30, 10)]
    colours += [(0, 0, 0), (128, 128, 128), (255, 255, 255)]
    frame = np.zeros((*size, 3), np.uint8)
    for index, colour in enumerate(colours):
        frame[:, 16 * index : 16 * index + 16] = colour
    write(tmp_path / "a.mp4", [frame] * 3)
    for decoded in decode(tmp_path / "a.mp4"):
        found = decoded[size[0] // 2, 8 : 16 * len(colours) : 16].astype(int)
        assert np.abs(found - colours).max() <= 3


def test_mp4_is_tagged_and_encoded_as_bt709_limited_range(tmp_path):
    write(tmp_path / "a.mp4", [np.full((32, 48, 3), (255, 0, 0), np.uint8)])
    with av.open(tmp_path / "a.mp4") as container:
        context = container.streams.video[0].codec_context
        tags = (context.colorspace, context.color_primaries, context.color_trc, context.color_range)
        assert tags == (1, 1, 1, 1)
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        planes = next(container.decode(video=0)).planes
        luma, *chroma = (np.frombuffer(plane, np.uint8)[8] for plane in planes)
    # Red: Y = 16 + 219 * 0.2126, Cb = 128 - 224 * 0.2126 / 1.8556, Cr = 128 + 224 / 2.
    assert abs(luma - 62.6) <= 1.5
    assert np.abs(np.array(chroma, int) - (102, 240)).max() <= 1


def test_mp4_has_its_index_before_its_frames(tmp_path):
    write(tmp_path / "a.mp4", [flat(0)] * 5)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_directory_of_pngs_is_exact(tmp_path):
    frames = list(np.random.default_rng(0).integers(0, 256, (11, 33, 47, 3), dtype=np.uint8))
    write(tmp_path / "frames", frames)
    paths = sorted((tmp_path / "frames").iterdir())
    assert [path.name for path in paths] == [f"{index:05}.png" for index in range(11)]
    for path, frame in zip(paths, frames, strict=True):
        assert np.array_equal(np.asarray(Image.open(path)), frame)


@pytest.mark.parametrize("name", ["A.MP4", "take:1.mp4", "take:1"])
def test_names_with_a_colon_or_capitals(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write(name, [flat(0)])
    assert os.listdir() == [name]


def test_the_caller_may_reuse_a_frame_after_write(tmp_path):
    frame = flat(0)
    with open_writer(tmp_path / "frames", 48, 32, NTSC) as writer:
        for index in range(30):
            frame[:] = index
            writer.write(frame)
    for index, path in enumerate(sorted((tmp_path / "frames").iterdir())):
        assert np.asarray(Image.open(path)).max() == index


def test_write_blocks_while_the_encoder_is_behind(tmp_path):
    proceed, encoded = threading.Event(), []

    def encode(frames):
        for frame in frames:
            proceed.wait()
            encoded.append(frame[0, 0, 0])

    with FrameWriter(tmp_path / "a.mp4", (32, 48, 3), encode) as writer:
        renderer = threading.Thread(target=lambda: [writer.write(flat(index)) for index in range(40)])
        renderer.start()
        while writer.num_frames < QUEUE_FRAMES:
            time.sleep(0.01)
        time.sleep(0.2)
        assert writer.num_frames <= QUEUE_FRAMES + 1
        proceed.set()
        renderer.join()
    assert encoded == list(range(40))


# When a file appears


@pytest.mark.parametrize("name", ["a.mp4", "frames"])
def test_no_output_under_the_name_before_the_end(tmp_path, name):
    with open_writer(tmp_path / name, 48, 32, NTSC) as writer:
        for index in range(20):
            writer.write(flat(index))
        (partial,) = os.listdir(tmp_path)
        assert partial.startswith(".")
        assert partial.endswith(".partial")
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", ["a.mp4", "frames"])
def test_file_modes_follow_the_umask(tmp_path, name):
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    write(tmp_path / name, [flat(0)])
    expected = tmp_path / ("file" if name == "a.mp4" else "directory")
    assert (tmp_path / name).stat().st_mode == expected.stat().st_mode


def test_an_existing_mp4_is_replaced_only_at_the_end(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")
    with open_writer(path, 48, 32, NTSC) as writer:
        writer.write(flat(0))
        assert path.read_bytes() == b"old"
    assert len(decode(path)) == 1


def test_an_existing_empty_directory_is_used(tmp_path):
    (tmp_path / "frames").mkdir()
    write(tmp_path / "frames", [flat(0)])
    assert os.listdir(tmp_path / "frames") == ["00000.png"]


def test_a_symbolic_link_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "a.mp4").symlink_to(tmp_path / "real" / "a.mp4")
    write(tmp_path / "a.mp4", [flat(0)])
    assert (tmp_path / "a.mp4").is_symlink()
    assert os.listdir(tmp_path / "real") == ["a.mp4"]


@pytest.mark.parametrize("name", ["a.mp4", "frames"])
def test_an_exception_in_the_block_propagates_and_leaves_no_file(tmp_path, name):
    def render():
        with open_writer(tmp_path / name, 48, 32, NTSC) as writer:
            writer.write(flat(0))
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        render()
    assert os.listdir(tmp_path) == []


KILLED = """
import os, signal, sys
from animate_rt.runtime.media.writer import open_writer

with open_writer(sys.argv[1], 64, 64, Fraction(24)) as writer:
    for _ in range(100):
        writer.write(np.zeros((64, 64, 3), np.uint8))
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("name", ["a.mp4", "frames"])
def test_a_killed_process_leaves_nothing_under_the_name(tmp_path, name):
    assert python(KILLED, tmp_path / name).returncode == -signal.SIGKILL
    assert [path.suffix for path in tmp_path.iterdir()] == [".partial"]


SAME = """
import hashlib, sys
from animate_rt.runtime.media.writer import open_writer

width = int(sys.argv[2])
noise = np.random.default_rng(0).integers(0, 256, (8, 64, width, 3), dtype=np.uint8)
with open_writer(sys.argv[1], width, 64, Fraction(24)) as writer:
    for frame in noise: writer.write(frame)
print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())
"""


@pytest.mark.parametrize("width", [64, 128, 200])
def test_the_same_frames_give_the_same_file(tmp_path, monkeypatch, width):
    """The file depends neither on what unused memory holds nor on the number of cores."""
    hashes = set()
    for filler in ("0", "1", "91"):
        monkeypatch.setenv("MALLOC_PERTURB_", filler)  # glibc fills new memory with it
        hashes.add(python(SAME, tmp_path / "a.mp4", width).stdout)
    one_core = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    hashes.add(python(one_core + SAME, tmp_path / "a.mp4", width).stdout)
    assert len(hashes) == 1
    assert len(hashes.pop()) == 65


@pytest.mark.parametrize("rate", ["1/1000", "1000", "1073741822/1073741823", "2147483647/2147484"])
def test_mp4_takes_frame_rates_up_to_its_limits(tmp_path, rate):
    write(tmp_path / "a.mp4", [flat(4 * index) for index in range(30)], Fraction(rate))
    assert [round(frame.mean() / 4) for frame in decode(tmp_path / "a.mp4")] == list(range(30))


@pytest.mark.parametrize(
    ("given", "expected"), [(24, Fraction(24)), (29.97, Fraction(30000, 1001)), ("25", Fraction(25))]
)
def test_frame_rates_of_any_usual_type(tmp_path: Path, given: float | str, expected: Fraction) -> None:
    with open_writer(tmp_path / "out.mp4", 64, 64, given) as writer:
        writer.write(np.zeros((64, 64, 3), np.uint8))
    with av.open(tmp_path / "out.mp4") as container:
        assert container.streams.video[0].average_rate == expected
