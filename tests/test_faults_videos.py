"""Unlucky and hostile videos: geometry, colour tags, transparency, several tracks, sizes, damage."""

from __future__ import annotations

import itertools
import logging
import math
import random
import shutil
import struct
import subprocess
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from animate_rt.errors import InputError
from animate_rt.runtime.media import video
from animate_rt.runtime.media.pose_sequence import open_pose
from av.bitstream import BitStreamFilterContext
from PIL import Image

from .damage import damaged, peak_bytes, refusal
from .numbered_frames import number, numbered, write_video

RATE = Fraction(25)
PATCHES = np.array(
    [[235, 30, 40], [30, 220, 50], [40, 50, 230], [230, 220, 30], [128, 128, 128], [250, 250, 250]]
)


def first_frame(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(next(iter(open_pose(path, 1)))).astype(int)


def encode(path: Path, codec: str, pixel_format: str, pictures: list[Image.Image], **options: str) -> Path:
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height = pictures[0].size
        stream.pix_fmt = pixel_format
        for picture in pictures:
            layout = "rgba" if picture.mode == "RGBA" else "rgb24"
            frame = av.VideoFrame.from_ndarray(np.array(picture), format=layout)
            container.mux(stream.encode(frame.reformat(format=pixel_format)))
        container.mux(stream.encode())
    return path


# Geometry

TURNS = {
    (1, 0, 0, 1): None,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}


def with_display_matrix(path: Path, matrix: Any) -> Path:
    """Write the matrix into the track header of an mp4. `matrix` is (a, b, c, d), as floats."""
    a, b, c, d = (round(value * 65536) for value in matrix)
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 44
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    changed = path.with_name("turned.mp4")
    changed.write_bytes(data)
    return changed


@pytest.fixture
def upright(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).resize((128, 96), Image.Resampling.NEAREST)
    return encode(tmp_path / "upright.mp4", "libx264", "yuv420p", [picture])


@pytest.mark.parametrize("scale", [1, 0.25, 3])
@pytest.mark.parametrize("matrix", TURNS)
def test_display_matrices_turn_and_mirror(upright: Path, matrix: Any, scale: float) -> None:
    turned = with_display_matrix(upright, [scale * value for value in matrix])
    picture, turn = next(iter(open_pose(upright, 1))), TURNS[matrix]
    assert np.array_equal(first_frame(turned), picture if turn is None else picture.transpose(turn))


@pytest.mark.parametrize("matrix", [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (1, 0.01, -0.01, 1)])
def test_other_display_matrices_leave_frames_as_they_are(upright: Path, matrix: Any) -> None:
    assert np.array_equal(first_frame(with_display_matrix(upright, matrix)), first_frame(upright))


def test_200_display_matrices_give_what_ffmpeg_shows(upright: Path, tmp_path: Path) -> None:
    """Among them are many that nobody writes. Without ffmpeg, only that they are read."""
    rng, judge = random.Random(0), shutil.which("ffmpeg")
    for index in range(200):
        a, b, c, d = rng.choice(list(TURNS))
        across, down = rng.choice([0.5, 1, 1.5]), rng.choice([0.5, 1, 1.5])
        angle = rng.choice([0, 0, 0, 0.2, 30.0, 45.0])
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        rows = [(across * (x * cos - y * sin), down * (x * sin + y * cos)) for x, y in ((a, b), (c, d))]
        turned = with_display_matrix(upright, [*rows[0], *rows[1]])
        found = first_frame(turned)
        assert found.shape in ((96, 128, 3), (128, 96, 3))
        if judge and index % 20 == 0 and angle < 1:
            wanted = tmp_path / "wanted.png"
            command = [judge, "-v", "error", "-y", "-i", str(turned), "-frames:v", "1", "-pix_fmt", "rgb24"]
            subprocess.run([*command, str(wanted)], check=True, timeout=60)
            assert np.abs(found - np.asarray(Image.open(wanted)).astype(int)).max() <= 1


@pytest.mark.parametrize(("orientation", "turn"), [(3, "ROTATE_180"), (6, "ROTATE_270"), (8, "ROTATE_90")])
@pytest.mark.parametrize("name", ["a.avi", "a.mov"])
def test_motion_jpeg_of_cameras_is_turned_by_its_exif(
    tmp_path: Path, name: str, orientation: int, turn: str
) -> None:
    frames, exif = [numbered(number) for number in range(3)], Image.Exif()
    exif[0x0112] = orientation
    with av.open(tmp_path / name, "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 48, "yuvj444p"
        for tick, frame in enumerate(frames):
            frame.save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
            packet = av.Packet((tmp_path / "a.jpg").read_bytes())
            packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, 25), tick, tick
            container.mux(packet)
    for found, frame in zip(open_pose(tmp_path / name, None), frames, strict=True):
        wanted = np.asarray(frame.transpose(Image.Transpose[turn])).astype(int)
        assert np.abs(np.asarray(found).astype(int) - wanted).max() <= 40


# Colour tags


def tagged(path: Path, **tags: int) -> Path:
    """Write H.264 tags into the stream without encoding it anew, as some programs do wrongly."""
    changed = path.with_name("tagged.mp4")
    filter_ = "h264_metadata=" + ":".join(f"{name}={value}" for name, value in tags.items())
    with av.open(path) as source, av.open(changed, "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        bits = BitStreamFilterContext(filter_, stream, copy)
        for packet in source.demux(stream):
            for filtered in bits.filter(packet if packet.size else None):
                filtered.stream = copy
                target.mux(filtered)
    return changed


@pytest.fixture(params=[(96, 64), (768, 720)], ids=["small", "hd"])
def patches(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An untagged video of PATCHES, by BT.601 or, from 720 lines on, BT.709."""
    width, height = request.param
    pixels = np.repeat(np.repeat(PATCHES[None], height, 0), width // 6, 1).astype(np.uint8)
    path = tmp_path / "patches.mp4"
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=1 if height >= 720 else 5)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def colours(path: Path) -> np.ndarray[Any, Any]:
    frame = first_frame(path)
    step = frame.shape[1] // 6
    return frame[frame.shape[0] // 2, step // 2 :: step]


def test_unusual_matrix_tags_are_taken_for_untagged(patches: Path) -> None:
    assert np.abs(colours(patches) - PATCHES).max() <= 3
    for matrix in (0, 2, 3, 8, *range(10, 20), 100, 255):
        found = colours(tagged(patches, matrix_coefficients=matrix))
        assert np.abs(found - PATCHES).max() <= 3, f"matrix {matrix}"


def test_combinations_of_tags_are_read(patches: Path) -> None:
    rng = random.Random(0)
    for _ in range(40):
        tags = {
            "matrix_coefficients": rng.randrange(20),
            "colour_primaries": rng.randrange(24),
            "transfer_characteristics": rng.randrange(24),
            "video_full_range_flag": rng.randrange(2),
        }
        assert colours(tagged(patches, **tags)).shape == (6, 3), f"{tags}"


# Transparency


def sprites() -> list[Image.Image]:
    """Frames whose left half is opaque red, and whose right half is transparent white."""
    picture = Image.new("RGBA", (96, 48), (255, 255, 255, 0))
    picture.paste((255, 0, 0, 255), (0, 0, 48, 48))
    return [picture] * 3


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [
        ("a.mov", "qtrle", "argb"),
        ("a.mov", "png", "rgba"),
        ("a.mov", "prores_ks", "yuva444p10le"),
        ("a.mkv", "ffv1", "bgra"),
        ("a.mkv", "ffv1", "yuva420p"),
        ("a.apng", "apng", "rgba"),
        ("a.webm", "libvpx", "yuva420p"),
        ("a.webm", "libvpx-vp9", "yuva420p"),
    ],
)
def test_transparent_parts_are_black(tmp_path: Path, name: str, codec: str, pixel_format: str) -> None:
    try:
        options = {"auto-alt-ref": "0"} if codec == "libvpx" else {}
        path = encode(tmp_path / name, codec, pixel_format, sprites(), **options)
    except (ValueError, av.FFmpegError) as error:
        pytest.skip(f"this FFmpeg cannot write it: {error}")
    frames = [np.asarray(frame).astype(int) for frame in open_pose(path, None)]
    assert len(frames) == 3
    for frame in frames:
        assert np.abs(frame[24, 20] - (255, 0, 0)).max() <= 3
        assert np.abs(frame[24, 80]).max() <= 3


def test_a_transparent_gif_is_black_behind(tmp_path: Path) -> None:
    palette = Image.new("P", (96, 48), 1)
    palette.putpalette([255, 0, 0, 255, 255, 255])
    palette.paste(0, (0, 0, 48, 48))
    others = []
    for index in range(3):  # GIF leaves out frames that are the same
        other = palette.copy()
        other.putpixel((index, 0), 1)
        others.append(other)
    options: dict[str, Any] = {"transparency": 1, "duration": 40, "disposal": 2}
    palette.save(tmp_path / "a.gif", save_all=True, append_images=others, **options)
    for frame in open_pose(tmp_path / "a.gif", None):
        assert frame.getpixel((20, 24)) == (255, 0, 0)
        assert frame.getpixel((80, 24)) == (0, 0, 0)


# Tracks


def test_the_default_track_is_meant(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.mkv"
    with av.open(path, "w") as container:
        streams = []
        for index in range(3):
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 96, 48, "yuv420p"
            stream.disposition = 1 if index == 1 else 0
            streams.append(stream)
        for tick in range(4):
            for index, stream in enumerate(streams):
                picture = numbered(10 * index + tick)
                container.mux(stream.encode(av.VideoFrame.from_image(picture).reformat(format="yuv420p")))
        for stream in streams:
            container.mux(stream.encode())
    with caplog.at_level(logging.WARNING, "animate_rt.media"):
        assert [number(frame) for frame in open_pose(path, None)] == [10, 11, 12, 13]
    assert caplog.messages == [f"{path} has 3 video tracks: using number 2"]


# Sizes


def test_frames_that_are_too_large_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.gif", "gif", RATE, range(3))
    content = path.read_bytes()
    path.write_bytes(content[:6] + struct.pack("<HH", 15_000, 15_000) + content[10:])
    before, began = peak_bytes(), time.monotonic()
    with pytest.raises(InputError, match=r"frames of at most 35 megapixels, found 15000x15000; scale"):
        open_pose(tmp_path / "a.gif", None)
    assert time.monotonic() - began < 2
    assert peak_bytes() - before < 50e6


def test_frames_that_become_too_large_are_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # The second recording is larger than the first.
    for index, size in enumerate([(96, 48), (192, 96)]):
        encode(tmp_path / f"{index}.ts", "libx264", "yuv420p", [Image.new("RGB", size)] * 5)
    path = tmp_path / "joined.ts"
    path.write_bytes((tmp_path / "0.ts").read_bytes() + (tmp_path / "1.ts").read_bytes())
    assert {frame.size for frame in open_pose(path, None)} == {(96, 48), (192, 96)}
    monkeypatch.setattr(video, "MAX_PIXELS", 100 * 80)
    assert {frame.size for frame in open_pose(path, None)} == {(96, 48)}
    assert "is damaged" in caplog.text


def test_transport_streams_that_are_cut_are_shown_as_by_ffmpeg(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.ts", "libx264", RATE, range(48))
    content = path.read_bytes()
    for end in (0.4, 0.65, 0.9):
        path.write_bytes(content[: int(end * len(content))])
        numbers = [number(frame) for frame in open_pose(path, None)]
        assert numbers[:15] == list(range(15))
        assert len(numbers) < 48


# Damage


def test_200_damaged_videos_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    rng, refused = random.Random(14), 0
    intact = [
        write_video(tmp_path / "a.mp4", "libx264", RATE, range(20)),
        write_video(tmp_path / "a.mkv", "libx264", RATE, range(20)),
        write_video(tmp_path / "a.ts", "libx264", RATE, range(20)),
        write_video(tmp_path / "a.avi", "mpeg4", RATE, range(20)),
        write_video(tmp_path / "a.gif", "gif", RATE, range(20)),
        write_video(tmp_path / "a.webm", "libvpx", RATE, range(20)),
        encode(tmp_path / "a.apng", "apng", "rgba", sprites()),
    ]
    contents = [(path.suffix, path.read_bytes()) for path in intact]
    for _ in range(200):
        suffix, content = rng.choice(contents)
        path = tmp_path / f"damaged{suffix}"
        path.write_bytes(damaged(content, rng))
        began = time.monotonic()
        message = refusal(lambda path=path: list(itertools.islice(open_pose(path, None), 2000)))
        refused += message is not None
        assert message is None or (message.isprintable() and len(message) < 1500)
        assert time.monotonic() - began < 10
    assert refused > 60


def test_any_path_gives_one_printable_line(tmp_path: Path) -> None:
    for name in ("a\0b.mp4", "a\ud800.mp4", "a" * 5000, "line\nbreak.mp4", "\x1b[31mred.mp4"):
        message = refusal(lambda name=name: open_pose(f"{tmp_path}/{name}", None))
        assert message is not None
        assert message.isprintable()
        assert len(message) < 1500
