"""Pictures: reading files, images and arrays, resizing, and writing PNG files."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from animate_rt.errors import InputError, InputMissing, OutputError
from animate_rt.runtime.media.picture import fit, read_picture, square, write_png
from PIL import Image


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)


@pytest.fixture
def png(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.mark.parametrize("given", [str, Path, Image.open, lambda path: np.asarray(Image.open(path))])
def test_reads_every_kind_of_picture(png, pixels, given):
    picture = read_picture(given(png))
    assert picture.mode == "RGB"
    assert np.array_equal(np.asarray(picture), pixels)


@pytest.mark.parametrize("mode", ["RGBA", "L", "LA", "P", "1", "CMYK"])
def test_converts_other_modes_as_pillow_does(tmp_path, pixels, mode):
    picture = Image.fromarray(pixels).convert(mode)
    path = tmp_path / ("a.tiff" if mode == "CMYK" else "a.png")
    picture.save(path)
    assert np.array_equal(np.asarray(read_picture(path)), np.asarray(picture.convert("RGB")))


def test_a_palette_with_alpha_is_read_without_a_warning(tmp_path, pixels):
    picture = Image.fromarray(pixels).quantize(8)
    picture.save(tmp_path / "a.png", transparency=bytes([0, 128, 255]))
    assert np.array_equal(np.asarray(read_picture(tmp_path / "a.png")), np.asarray(picture.convert("RGB")))


def test_turns_a_photo_upright(tmp_path, pixels):
    exif = Image.Exif()
    exif[0x0112] = 6  # the scene's top is at the right of the stored picture
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(np.asarray(read_picture(tmp_path / "a.png")), np.rot90(pixels, -1))


def test_leaves_a_given_image_open(png):
    with Image.open(png) as given:
        read_picture(given)
        assert given.getpixel((0, 0))


def test_missing_picture(tmp_path):
    with pytest.raises(InputMissing, match=r"no picture .*gone\.png"):
        read_picture(tmp_path / "gone.png")


def oversized_png() -> bytes:
    """A few bytes that claim to be 30000x30000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda _: b"a reference image\n" * 50, id="text"),
        pytest.param(lambda png: png[: len(png) // 2], id="truncated"),
        pytest.param(lambda png: png[:60] + bytes(40) + png[100:], id="corrupt"),
        pytest.param(lambda _: oversized_png(), id="bomb"),
    ],
)
def test_refuses_a_bad_file(png, damage):
    png.write_bytes(damage(png.read_bytes()))
    with pytest.raises(InputError, match=r"a\.png") as caught:
        read_picture(png)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_refuses_more_than_8_bits_per_channel(tmp_path, mode):
    path = tmp_path / "a.tiff"
    Image.new(mode, (32, 32), 1000).save(path)
    with Image.open(path) as opened:
        for source in (path, opened):
            with pytest.raises(InputError, match=f"found mode {mode}; convert it to 8 bits"):
                read_picture(source)


def test_a_large_picture_is_read_without_a_warning(png, monkeypatch):
    # Pillow warns above this limit and refuses above twice the limit.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24 * 40 - 1)
    assert read_picture(png).size == (40, 24)


def test_refuses_a_directory(tmp_path):
    with pytest.raises(InputError, match="directory"):
        read_picture(tmp_path)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (np.zeros((32, 32, 3), np.float32), "float32"),
        (np.zeros((32, 32), np.uint8), r"\(32, 32\)"),
        (np.zeros((32, 32, 4), np.uint8), r"\(32, 32, 4\)"),
        (np.zeros((3, 32, 32), np.uint8), r"\(3, 32, 32\)"),
        (np.zeros((15, 32, 3), np.uint8), "32x15"),
        (Image.new("RGB", (8, 64)), "8x64"),
        (None, "NoneType"),
    ],
)
def test_refuses_other_arrays_and_objects(source, found):
    with pytest.raises(InputError, match=found):
        read_picture(source)


def test_fit_is_lanczos_without_keeping_the_aspect_ratio(pixels):
    picture = Image.fromarray(pixels)
    fitted = fit(picture, 64, 96)
    assert fitted.shape == (96, 64, 3)
    assert fitted.dtype == np.uint8
    assert np.array_equal(fitted, np.asarray(picture.resize((64, 96), Image.Resampling.LANCZOS)))
    assert np.array_equal(fit(picture, 40, 24), pixels)


def test_square_is_bicubic(pixels):
    picture = Image.fromarray(pixels)
    assert np.array_equal(square(picture, 30), np.asarray(picture.resize((30, 30), Image.Resampling.BICUBIC)))


def test_write_png_replaces_a_file(png, pixels):
    write_png(png, 255 - pixels)
    assert np.array_equal(np.asarray(Image.open(png)), 255 - pixels)
    assert list(png.parent.iterdir()) == [png]


@pytest.mark.parametrize("name", ["gone/a.png", "taken"])
def test_write_png_leaves_nothing_when_it_fails(tmp_path, pixels, name):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputError, match=name):
        write_png(tmp_path / name, pixels)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
