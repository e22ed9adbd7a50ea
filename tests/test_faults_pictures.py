"""Hostile and unlucky pictures: disguised programs, sizes, colour profiles, transparency, threads, damage."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from animate_rt.errors import ConfigError, InputError
from animate_rt.runtime.media import picture_file
from animate_rt.runtime.media.colour import parse_colour
from animate_rt.runtime.media.picture import read_picture
from animate_rt.runtime.media.pose_sequence import open_pose
from PIL import Image, ImageCms

from .damage import peak_bytes, reset_peak, thread_cpu_s
from .pictures import DATA, p3, saved

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.fixture
def ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program `gs` in PATH that leaves this file when it runs."""
    program, ran = tmp_path / "bin" / "gs", tmp_path / "ran"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {ran}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    # Pillow asks for the program only once.
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    return ran


@pytest.mark.parametrize("name", ["hero.png", "hero.eps", "hero"])
def test_postscript_is_not_handed_to_a_program(tmp_path: Path, ghostscript: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(POSTSCRIPT)
    with Image.open(path) as opened, suppress(OSError):  # what the test would see if it were
        opened.load()
    assert ghostscript.exists()
    ghostscript.unlink()
    poses = tmp_path / "poses"
    poses.mkdir()
    (poses / "1.png").write_bytes(POSTSCRIPT)
    for read in (
        lambda: read_picture(path),
        lambda: open_pose(path, None),
        lambda: open_pose(poses, None),
        lambda: open_pose([path], None),
    ):
        with pytest.raises(InputError, match=r"\.png|hero"):
            read()
    assert not ghostscript.exists()


def test_only_named_formats_are_read() -> None:
    assert not {"EPS", "WMF", "FPX", "MIC", "PSD", "PDF", "IM", "GRIB", "HDF5"} & set(picture_file.FORMATS)


def big_png(width: int, height: int, colour_type: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    compressor = zlib.compressobj(9)
    row = bytes(1 + width * (4 if colour_type == 6 else 3))
    pixels = b"".join(compressor.compress(row) for _ in range(height)) + compressor.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(lambda: big_png(13_300, 13_300, 2), id="png"),
        pytest.param(lambda: big_png(9_000, 9_000, 6), id="png with alpha"),
        pytest.param(lambda: saved(Image.new("P", (15_000, 15_000)), format="GIF"), id="gif"),
        pytest.param(
            lambda: saved(Image.new("1", (60_000, 20_000)), format="TIFF", compression="group4"), id="tiff"
        ),
    ],
)
def test_a_huge_picture_is_refused_by_its_header(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content())
    before, began = reset_peak(), thread_cpu_s()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow would warn on standard error
        with pytest.raises(InputError, match=r"expected at most 67 megapixels, found \d+x\d+; scale it down"):
            read_picture(path)
    assert thread_cpu_s() - began < 2
    assert peak_bytes() - before < 50e6


def test_the_largest_picture_takes_less_than_a_gigabyte(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(big_png(8192, 8192, 6))
    # In a process of its own, as the peak of this one may be higher already.
    program = (
        "import sys; from animate_rt.runtime.media.picture import read_picture\n"
        "read_picture(sys.argv[1], 'white'); print(open('/proc/self/status').read())"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "a.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 1024 * int(done.stdout.split("VmHWM:")[1].split()[0]) < 1e9


@pytest.mark.parametrize("name", ["pipe", "/dev/zero", "folder"])
def test_refuses_what_is_no_file_without_waiting(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="expected a regular file, found a directory, device"):
        read_picture(tmp_path / name)


@pytest.mark.parametrize(
    "path", ["a\0b.png", "a\ud800.png", "a" * 5000, "line\nbreak.png", "\x1b[31mred.png"]
)
def test_any_path_gives_one_printable_line(path: str) -> None:
    with pytest.raises(InputError) as caught:
        read_picture(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1500


# Colour profiles


def test_a_display_p3_photo_becomes_srgb() -> None:
    found = np.asarray(read_picture(DATA / "icc-profile" / "ref_p3.png"))[64, 8::16].astype(int)
    wanted = [
        (235, 30, 40),
        (30, 220, 50),
        (40, 50, 230),
        (230, 220, 30),
        (128, 128, 128),
        (250, 250, 250),
        (255, 0, 0),
        (0, 0, 0),
    ]
    assert np.abs(found - wanted).max() <= 2


@pytest.fixture
def pixels() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P"])
@pytest.mark.parametrize("background", [None, "black"])
def test_an_srgb_profile_changes_no_pixel(tmp_path: Path, pixels: Any, mode: str, background: Any) -> None:
    picture = Image.fromarray(pixels).convert(mode)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture.save(tmp_path / "with.png", icc_profile=srgb)
    picture.save(tmp_path / "without.png", icc_profile=None)
    with Image.open(tmp_path / "with.png") as opened:
        assert opened.info["icc_profile"]
    with_profile = read_picture(tmp_path / "with.png", background)
    assert np.array_equal(with_profile, read_picture(tmp_path / "without.png", background))


@pytest.mark.parametrize("profile", [b"no profile", b"\0" * 128, p3()[:200], p3()[:-40] + b"\xff" * 40])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_damaged_or_unfitting_profile_has_no_effect_or_the_right_one(
    tmp_path: Path, pixels: Any, profile: bytes, mode: str
) -> None:
    picture = Image.fromarray(pixels).convert(mode)
    picture.save(tmp_path / "a.tif", icc_profile=profile)
    picture.info["icc_profile"] = profile
    read = np.asarray(read_picture(tmp_path / "a.tif"), int)
    assert np.abs(read - np.asarray(picture.convert("RGB"), int)).max() < 100
    assert np.array_equal(read, np.asarray(read_picture(picture)))


def test_a_transparent_picture_with_a_profile(tmp_path: Path) -> None:
    Image.new("RGBA", (32, 32), (255, 0, 0, 0)).save(tmp_path / "a.png", icc_profile=p3())
    assert read_picture(tmp_path / "a.png", "#0a0b0c").getpixel((3, 3)) == (10, 11, 12)


# Transparency


def transparent(mode: str) -> Image.Image:
    """Left half opaque red, right half transparent green, in each way that Pillow has."""
    picture = Image.new("RGBA", (32, 32), (0, 255, 0, 0))
    picture.paste((255, 0, 0, 255), (0, 0, 16, 32))
    if mode == "P":
        palette = Image.new("P", (32, 32), 1)
        palette.putpalette([255, 0, 0, 0, 255, 0])
        palette.paste(0, (0, 0, 16, 32))
        palette.info["transparency"] = 1
        return palette
    if mode == "RGB":
        coloured = Image.new("RGB", (32, 32), (0, 255, 0))
        coloured.paste((255, 0, 0), (0, 0, 16, 32))
        coloured.info["transparency"] = (0, 255, 0)
        return coloured
    return picture.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "P", "RGB", "RGBa"])
def test_transparent_parts_of_poses_are_black_and_of_references_as_asked(mode: str) -> None:
    picture = transparent(mode)
    (pose,) = open_pose([picture], None)
    assert [pose.getpixel((x, 5)) for x in (3, 28)] == [(255, 0, 0), (0, 0, 0)]
    white = read_picture(picture, "white")
    assert [white.getpixel((x, 5)) for x in (3, 28)] == [(255, 0, 0), (255, 255, 255)]
    if mode != "RGBa":  # which holds no colours under transparent pixels
        stored = read_picture(picture)
        assert [stored.getpixel((x, 5)) for x in (3, 28)] == [(255, 0, 0), (0, 255, 0)]


def test_half_transparent_pixels_are_mixed() -> None:
    picture = Image.new("RGBA", (32, 32), (200, 100, 0, 128))
    assert read_picture(picture, "black").getpixel((0, 0)) == (100, 50, 0)
    assert read_picture(picture, "white").getpixel((0, 0)) == (227, 177, 127)


@pytest.mark.parametrize("colour", ["white", "#fff", "#ffffff", (255, 255, 255), [255, 255, 255]])
def test_colours(colour: Any) -> None:
    assert parse_colour(colour) == (255, 255, 255)


@pytest.mark.parametrize(
    "colour",
    [
        "",
        "whitish",
        "#ffff",
        "#12345678",
        "hsl",
        "x" * 10**6,
        (1, 2),
        (1, 2, 256),
        (1, 2, -1),
        (1, 2, 3.0),
        7,
    ],
)
def test_refuses_other_colours(colour: Any) -> None:
    with pytest.raises(ConfigError, match="background: expected a colour like white or #ffffff") as caught:
        parse_colour(colour)
    assert len(str(caught.value)) < 400


# Orientation


@pytest.mark.parametrize("exif", [b"garbage!", b"MM\0*\0\0\xff\xff", b"II*\0\x08\0\0\0\xff\xff", b""])
@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_damaged_exif_has_no_effect(tmp_path: Path, pixels: Any, name: str, exif: bytes) -> None:
    Image.fromarray(pixels).save(tmp_path / name, exif=exif, lossless=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about the damage
        assert np.array_equal(np.asarray(read_picture(tmp_path / name)), pixels)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_200_photos_with_damaged_exif_are_turned_upright(tmp_path: Path, pixels: Any) -> None:
    rng, path = random.Random(14), tmp_path / "a.png"
    for _ in range(200):
        entries = [(0x0112, 3, 1, 6 << 16)]
        for _ in range(rng.randint(0, 4)):
            tag, kind = rng.choice([0x010E, 0x8769, 0x8825, 0x0132, rng.randrange(65536)]), rng.randrange(14)
            entries.append((tag, kind, rng.choice([0, 1, 4, 100, 2**31]), rng.choice([0, 8, 50, 2**32 - 1])))
        block = b"".join(struct.pack(">HHII", *entry) for entry in sorted(entries))
        exif = b"MM\0*\0\0\0\x08" + struct.pack(">H", len(entries)) + block + bytes(4)
        Image.fromarray(pixels).save(path, exif=exif)
        with Image.open(path) as opened:
            turned = opened.getexif().get(0x0112) == 6
        assert np.array_equal(np.asarray(read_picture(path)), np.rot90(pixels, -1) if turned else pixels)


# HEIC


def test_heic_is_read_or_told_how(tmp_path: Path, pixels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    smooth = Image.fromarray(pixels).resize((8, 6)).resize((64, 48), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6  # the scene's top is at the right of the stored picture
    smooth.save(tmp_path / "a.heic", quality=95, exif=exif.tobytes())
    read = read_picture(tmp_path / "a.heic")
    assert np.abs(np.asarray(read, int) - np.rot90(np.asarray(smooth, int), -1)).mean() < 4
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(InputError, match=r"pip install 'animate-rt\[heic\]', or convert it to JPEG or PNG"):
        read_picture(tmp_path / "a.heic")


# Threads


def test_threads_leave_the_warning_filters_as_they_are(tmp_path: Path, pixels: Any) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: read_picture(tmp_path / "a.png"), range(400)))
    assert list(warnings.filters) == before
