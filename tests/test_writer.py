import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from fractions import Fraction

import av
import numpy as np
import pytest
from animate_rt.errors import ConfigError, OutputError
from animate_rt.runtime.media.writer import QUEUE_FRAMES, FrameWriter, open_writer
from PIL import Image

NTSC = Fraction(30000, 1001)


def flat(value: int, height: int = 32, width: int = 48) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def write(path, frames, rate=NTSC):
    height, width, _ = frames[0].shape
    with open_writer(path, width, height, rate) as writer:
        for frame in frames:
            writer.write(frame)


def decode(path) -> list[np.ndarray]:
    """The frames of a video, converted by its tags."""
    with av.open(path) as container:
        return [
            frame.to_ndarray(format="rgb24", src_colorspace=frame.colorspace, dst_color_range=2)
            for frame in container.decode(video=0)
        ]


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "import numpy as np\nfrom fractions import Fraction\n" + code]
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=60)


# What is written


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


def test_mp4_is_bt709_limited_and_says_so(tmp_path):
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


def test_mp4_can_start_before_it_is_loaded(tmp_path):
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
def test_unusual_names(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write(name, [flat(0)])
    assert os.listdir() == [name]


def test_a_frame_may_be_reused_once_written(tmp_path):
    frame = flat(0)
    with open_writer(tmp_path / "frames", 48, 32, NTSC) as writer:
        for index in range(30):
            frame[:] = index
            writer.write(frame)
    for index, path in enumerate(sorted((tmp_path / "frames").iterdir())):
        assert np.asarray(Image.open(path)).max() == index


def test_a_slow_encoder_holds_rendering_up(tmp_path):
    go_on, encoded = threading.Event(), []

    def encode(frames):
        for frame in frames:
            go_on.wait()
            encoded.append(frame[0, 0, 0])

    with FrameWriter(tmp_path / "a.mp4", (32, 48, 3), encode) as writer:
        renderer = threading.Thread(target=lambda: [writer.write(flat(index)) for index in range(40)])
        renderer.start()
        while writer.num_frames < QUEUE_FRAMES:
            time.sleep(0.01)
        time.sleep(0.2)
        assert writer.num_frames <= QUEUE_FRAMES + 1
        go_on.set()
        renderer.join()
    assert encoded == list(range(40))


# When it appears


@pytest.mark.parametrize("name", ["a.mp4", "frames"])
def test_nothing_appears_before_the_end(tmp_path, name):
    with open_writer(tmp_path / name, 48, 32, NTSC) as writer:
        for index in range(20):
            writer.write(flat(index))
        (partial,) = os.listdir(tmp_path)
        assert partial.startswith(".")
        assert partial.endswith(".partial")
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", ["a.mp4", "frames"])
def test_access_rights_are_those_of_any_new_file(tmp_path, name):
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    write(tmp_path / name, [flat(0)])
    expected = tmp_path / ("file" if name == "a.mp4" else "directory")
    assert (tmp_path / name).stat().st_mode == expected.stat().st_mode


def test_an_mp4_is_replaced_at_the_end_only(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")
    with open_writer(path, 48, 32, NTSC) as writer:
        writer.write(flat(0))
        assert path.read_bytes() == b"old"
    assert len(decode(path)) == 1


def test_an_empty_directory_is_filled(tmp_path):
    (tmp_path / "frames").mkdir()
    write(tmp_path / "frames", [flat(0)])
    assert os.listdir(tmp_path / "frames") == ["00000.png"]


def test_a_link_leads_to_the_file_it_names(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "a.mp4").symlink_to(tmp_path / "real" / "a.mp4")
    write(tmp_path / "a.mp4", [flat(0)])
    assert (tmp_path / "a.mp4").is_symlink()
    assert os.listdir(tmp_path / "real") == ["a.mp4"]


@pytest.mark.parametrize("name", ["a.mp4", "frames"])
def test_an_exception_of_the_caller_passes_and_leaves_nothing(tmp_path, name):
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
    """Whatever memory held before, and however many cores there are."""
    hashes = set()
    for filler in ("0", "1", "91"):
        monkeypatch.setenv("MALLOC_PERTURB_", filler)  # glibc fills new memory with it
        hashes.add(python(SAME, tmp_path / "a.mp4", width).stdout)
    one_core = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    hashes.add(python(one_core + SAME, tmp_path / "a.mp4", width).stdout)
    assert len(hashes) == 1
    assert len(hashes.pop()) == 65


# What cannot be written


@pytest.mark.parametrize("name", ["a.avi", "a.png", "a.mp4.txt"])
def test_refuses_other_kinds_of_file(tmp_path, name):
    with pytest.raises(ConfigError, match=r"\.mp4"), open_writer(tmp_path / name, 48, 32, NTSC):
        pass


@pytest.mark.parametrize("name", ["out.mp4/", ".mp4", ".MP4"])
def test_refuses_a_name_that_is_half_an_mp4(tmp_path, name):
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


@pytest.mark.parametrize("rate", ["1/1000", "1000", "1073741822/1073741823", "2147483647/2147484"])
def test_writes_every_other_frame_rate(tmp_path, rate):
    write(tmp_path / "a.mp4", [flat(4 * index) for index in range(30)], Fraction(rate))
    assert [round(frame.mean() / 4) for frame in decode(tmp_path / "a.mp4")] == list(range(30))


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
def test_refuses_before_any_frame(tmp_path, name, width, reason):
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
    os.setuid(65534)  # nothing is unwritable to root
try:
    with open_writer(sys.argv[1], 64, 64, Fraction(24)):
        print("entered")
except OutputError as error:
    print(error)
"""


@pytest.mark.parametrize("name", ["a.mp4", "frames"])
def test_refuses_an_unwritable_directory(name):
    with tempfile.TemporaryDirectory() as directory:  # tmp_path is hidden from other users
        os.chmod(directory, 0o555)
        ended = python(UNWRITABLE, f"{directory}/{name}")
        assert (ended.stderr, ended.stdout) == ("", f"cannot write {directory}/{name}: Permission denied\n")


@pytest.mark.parametrize("name", ["a.mp4", "frames"])
def test_refuses_to_write_nothing(tmp_path, name):
    with pytest.raises(OutputError, match="at least one frame"), open_writer(tmp_path / name, 48, 32, NTSC):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("frame", [flat(0, 32, 32), flat(0).astype(np.float32), flat(0)[..., :1]])
def test_refuses_a_frame_of_another_kind(tmp_path, frame):
    with (
        pytest.raises(OutputError, match=r"expected frames of uint8 \(32, 48, 3\)"),
        open_writer(tmp_path / "a.mp4", 48, 32, NTSC) as writer,
    ):
        writer.write(frame)


# What goes wrong on the way


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
def test_running_out_of_room_is_told_and_leaves_nothing(tmp_path, name, limits):
    # A limit on the size of files fails like a full disk does, and needs no rights.
    ended = python(FULL_DISK, tmp_path / name)
    assert (ended.stderr, ended.stdout) == ("", f"refused {limits}\n")


@pytest.mark.parametrize("num_frames", [1, 10 * QUEUE_FRAMES])  # seen at the end, seen by a write
def test_a_failing_encoder_is_told_and_blocks_nothing(tmp_path, num_frames):
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


def test_a_name_taken_meanwhile_is_told(tmp_path):
    def render():
        with open_writer(tmp_path / "frames", 48, 32, NTSC) as writer:
            writer.write(flat(0))
            (tmp_path / "frames" / "other").mkdir(parents=True)

    with pytest.raises(OutputError, match="not empty"):
        render()
    assert os.listdir(tmp_path) == ["frames"]
    assert os.listdir(tmp_path / "frames") == ["other"]
