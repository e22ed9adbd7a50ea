"""Pose frames from a video: which frames, which pixels, and which files are refused."""

import os
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from animate_rt.errors import InputError
from animate_rt.runtime.media.pose_sequence import open_pose
from animate_rt.runtime.media.video_frame import to_picture
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

from . import numbered_frames
from .numbered_frames import NTSC, number, numbered, write_video

video = numbered_frames.video

# Which frames


@pytest.mark.parametrize(
    ("name", "codec", "rate", "num_frames"),
    [
        ("a.mp4", "libx264", Fraction(24), 1),
        ("a.mp4", "libx264", Fraction(24), 2),
        ("a.mp4", "libx264", NTSC, 60),
        ("a.mov", "mpeg4", Fraction(60), 60),
        ("a.mkv", "libx264", NTSC, 60),  # the format rounds times to milliseconds
        ("a.webm", "libvpx", Fraction(24), 60),
        ("a.gif", "gif", Fraction(25), 60),
        ("a.gif", "gif", Fraction(30), 60),  # the format rounds times to hundredths of a second
        ("a.avi", "libx264", Fraction(24), 60),  # the format numbers frames in decoding order
        ("a.ts", "libx264", Fraction(25), 60),
        ("a.mpg", "mpeg2video", Fraction(25), 60),
        ("a.flv", "flv", Fraction(25), 60),
    ],
)
def test_a_constant_rate_keeps_every_frame(tmp_path, name, codec, rate, num_frames):
    poses = open_pose(write_video(tmp_path / name, codec, rate, range(num_frames)), None)
    assert poses.frame_rate == rate
    assert [number(frame) for frame in poses] == list(range(num_frames))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("start", [0, 90000])
@pytest.mark.parametrize(("left_out", "rate"), [((3, 4), 30), ((2, 3, 4, 5), None)])
def test_a_variable_rate_is_resampled_to_a_constant_one(tmp_path, name, start, left_out, rate):
    # A recording at 30 frames per second that skips some. Each output frame is the nearest one in time.
    shown = [tick for tick in range(60) if tick % 7 not in left_out]
    ticks = [start + 3000 * tick for tick in shown]
    poses = open_pose(write_video(tmp_path / name, "libx264", Fraction(30), ticks, Fraction(1, 90000)), None)
    times = [Fraction(shown[number(frame)], 30) for frame in poses]
    period = 1 / poses.frame_rate
    assert rate in (None, poses.frame_rate)
    assert abs(times[-1] - (len(times) - 1) * period) <= period / 2
    assert poses.num_frames is None or abs(poses.num_frames - len(times)) <= 1
    for tick, time in enumerate(times):
        assert abs(time - tick * period) == min(abs(Fraction(other, 30) - tick * period) for other in shown)


def test_jittering_times_neither_drop_nor_repeat_frames(tmp_path):
    jitter = np.random.default_rng(0).integers(-900, 900, 60)
    ticks = [3000 * index + int(shift) + 900 for index, shift in enumerate(jitter)]
    poses = open_pose(
        write_video(tmp_path / "a.mp4", "libx264", Fraction(30), ticks, Fraction(1, 90000)), None
    )
    assert [number(frame) for frame in poses] == list(range(60))


def test_a_frame_without_a_time_follows_the_one_before(tmp_path):
    path = write_video(tmp_path / "a.ts", "libx264", Fraction(25), range(20))
    packets = path.read_bytes().split(b"\0\0\1\xe0")
    for index in range(3, len(packets), 5):  # clear the flags that announce a time stamp
        packets[index] = packets[index][:3] + bytes([packets[index][3] & 0x3F]) + packets[index][4:]
    path.write_bytes(b"\0\0\1\xe0".join(packets))
    with av.open(path) as container:
        assert None in [frame.pts for frame in container.decode(video=0)]
    assert [number(frame) for frame in open_pose(path, None)] == list(range(20))


def test_a_gif_without_delays_keeps_every_frame(tmp_path):
    first, *others = [numbered(index) for index in range(5)]
    first.save(tmp_path / "a.gif", save_all=True, append_images=others)
    assert [number(frame) for frame in open_pose(tmp_path / "a.gif", None)] == [0, 1, 2, 3, 4]


def test_a_gif_of_one_picture_has_no_rate(tmp_path):
    numbered(5).save(tmp_path / "a.gif")
    poses = open_pose(tmp_path / "a.gif", None)
    assert (poses.frame_rate, poses.num_frames) == (None, 1)
    assert [number(frame) for frame in poses] == [5]


@pytest.mark.parametrize(("limit", "expected"), [(None, 30), (7, 7), (1, 1), (99, 30), (2**64, 30)])
def test_the_limit_on_frames(video, limit, expected):
    poses = open_pose(video, limit)
    assert poses.num_frames == expected
    assert [number(frame) for frame in poses] == list(range(expected))


def test_a_sequence_can_be_iterated_again(video):
    poses = open_pose(str(video), 3)
    assert [number(frame) for frame in poses] == [number(frame) for frame in poses] == [0, 1, 2]


def test_a_name_with_a_colon_is_not_taken_for_a_url(video, monkeypatch):
    video.rename(video.with_name("take:1.mp4"))
    monkeypatch.chdir(video.parent)
    assert number(next(iter(open_pose("take:1.mp4", None)))) == 0


def test_the_file_is_closed_when_iteration_stops(video):
    before = len(os.listdir("/dev/fd"))
    poses = open_pose(video, None)
    for _ in poses:
        assert len(os.listdir("/dev/fd")) > before
        break
    assert len(os.listdir("/dev/fd")) == before
    for _ in poses:
        pass
    assert len(os.listdir("/dev/fd")) == before


# Which pixels

PATCHES = np.array(
    [[235, 30, 40], [30, 220, 50], [40, 50, 230], [230, 220, 30], [128, 128, 128], [250, 250, 250]]
)


BT601, BT709 = (0.299, 0.114), (0.2126, 0.0722)


def write_patches(path: Path, size, matrix, colorspace: int, full_range: bool = False) -> Path:
    """Write one lossless frame of PATCHES, converted by the standards' formulas and not by PyAV."""
    width, height = size
    kr, kb = matrix
    red, green, blue = PATCHES.T / 255
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    planes = np.stack([luma, (blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr)])
    scale, offset = ([255, 255, 255], [0, 128, 128]) if full_range else ([219, 224, 224], [16, 128, 128])
    planes = np.round(planes * np.c_[scale] + np.c_[offset]).astype(np.uint8)
    pixels = np.repeat(np.repeat(planes[:, None], height, 1), width // len(PATCHES), 2)
    with av.open(path, "w") as container:
        stream = container.add_stream("ffv1", rate=24)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv444p"
        stream.colorspace, stream.color_range = colorspace, 2 if full_range else 1
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="yuv444p")
        frame.colorspace, frame.color_range = stream.colorspace, stream.color_range
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("size", "matrix", "colorspace", "full_range"),
    [
        pytest.param((96, 64), BT709, 1, False, id="tagged BT.709"),
        pytest.param((768, 720), BT601, 5, False, id="tagged BT.601"),
        pytest.param((768, 720), BT601, 6, False, id="tagged SMPTE 170M"),
        pytest.param((768, 718), BT601, 2, False, id="untagged small"),
        pytest.param((510, 768), BT601, 2, False, id="untagged upright small"),
        pytest.param((768, 720), BT709, 2, False, id="untagged large"),
        pytest.param((720, 768), BT709, 2, False, id="untagged upright large"),
        pytest.param((96, 64), BT709, 1, True, id="full range"),
    ],
)
def test_colours_are_converted_by_tags_or_size(tmp_path, size, matrix, colorspace, full_range):
    path = write_patches(tmp_path / "a.mkv", size, matrix, colorspace, full_range)
    picture = next(iter(open_pose(path, None)))
    assert picture.size == size
    patch = size[0] // len(PATCHES)
    found = np.asarray(picture)[size[1] // 2, patch // 2 :: patch].astype(int)
    assert np.abs(found - PATCHES).max() <= 2


@pytest.mark.parametrize(("degrees", "turns"), [(90, -1), (180, 2), (270, 1)])
def test_display_rotation_is_applied(video, degrees, turns):
    upright = np.asarray(next(iter(open_pose(video, 1))))
    # The matrix of the track header says how to rotate the frames for display; phones write it.
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    matrix = struct.pack(">9i", cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30)
    data = bytearray(video.read_bytes())
    start = data.index(b"tkhd") + 44
    data[start : start + len(matrix)] = matrix
    video.write_bytes(data)
    assert np.array_equal(np.asarray(next(iter(open_pose(video, 1)))), np.rot90(upright, turns))


# Refused files


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.mp4", b""),
        ("noise.mp4", np.random.default_rng(0).bytes(9999)),
        ("zeros.mp4", bytes(9999)),
        ("poses.txt", b"drawn as terminal art\n" * 99),
        ("poses.nfo", b"\x1b[31mdrawn as terminal art\xdb\n" * 99),
        ("poses.srt", b"1\n00:00:00,000 --> 00:00:01,000\nsubtitle\n\n"),
        ("list.mp4", b"ffconcat version 1.0\nfile 'poses.mp4'\n"),
        ("list.m3u8", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nposes.mp4\n#EXT-X-ENDLIST\n"),
    ],
)
def test_refuses_files_that_are_not_videos(video, name, content):
    path = video.with_name(name)
    path.write_bytes(content)
    with pytest.raises(InputError, match=name) as caught:
        open_pose(path, None)
    assert "\n" not in str(caught.value)


def test_refuses_a_pipe_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(InputError, match=r"found .*a\.mp4, a pipe or device: save it"):
        open_pose(tmp_path / "a.mp4", None)


@pytest.mark.parametrize("cover", [False, True])
def test_refuses_sound_without_video(tmp_path, cover):
    with av.open(tmp_path / "a.mp4", "w") as container:
        stream = container.add_stream("aac", rate=8000)
        if cover:
            picture = container.add_stream("mjpeg", rate=1)
            picture.width, picture.height, picture.pix_fmt = 96, 48, "yuvj420p"
            picture.disposition = Disposition.attached_pic.value
            container.mux(picture.encode(av.VideoFrame.from_image(numbered(0))))
            container.mux(picture.encode())
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.rate, sound.pts = 8000, 0
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(InputError, match="no video stream"):
        open_pose(tmp_path / "a.mp4", None)


@pytest.mark.parametrize(
    ("name", "codec", "damage"),
    [
        ("a.mp4", "libx264", lambda data, middle: data[:middle]),
        ("a.mp4", "libx264", lambda data, middle: data[:middle] + bytes(len(data) - middle)),
        ("a.avi", "mpeg4", lambda data, middle: data[:middle]),
        ("a.avi", "mpeg4", lambda data, middle: data[:middle] + b"\xff" * 20 + data[middle + 20 :]),
    ],
)
def test_a_damaged_video_fails_at_the_damage(tmp_path, name, codec, damage):
    path = tmp_path / name
    rng = np.random.default_rng(0)
    with av.open(path, "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream(codec, rate=24)
        stream.width = stream.height = 64
        for _ in range(40):
            noise = av.VideoFrame.from_ndarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
            container.mux(stream.encode(noise))
        container.mux(stream.encode())
    data = path.read_bytes()
    path.write_bytes(damage(data, len(data) * 6 // 10))
    frames = []
    with pytest.raises(InputError, match=rf"{name} is damaged after frame \d+"):
        frames.extend(open_pose(path, None))
    assert 0 < len(frames) < 40


def test_a_video_without_frames_fails_when_iterated(tmp_path):
    write_video(tmp_path / "a.avi", "libx264", Fraction(24), [])
    with pytest.raises(InputError, match=r"a\.avi has no pose frame"):
        list(open_pose(tmp_path / "a.avi", None))


def test_one_converter_for_frames_of_different_kinds():
    """Frames of a video may change their size, pixel format and tags; each is converted by its own."""
    chance = np.random.default_rng(0)
    shared = VideoReformatter()
    for index in range(24):
        height, width = ((96, 64), (48, 128))[index // 6 % 2]
        kind = ("yuv420p", "rgb24", "rgba")[index % 3]
        shape = (height * 3 // 2, width) if kind == "yuv420p" else (height, width, len(kind.strip("24")))
        frame = av.VideoFrame.from_ndarray(chance.integers(0, 256, shape, np.uint8), format=kind)
        frame.colorspace = int(chance.choice((1, 5, 9))) if kind == "yuv420p" else 0
        frame.color_range = (1, 2)[index // 2 % 2]
        alone = to_picture(frame, VideoReformatter())
        assert np.array_equal(to_picture(frame, shared), alone)
        assert alone.size == (width, height)
