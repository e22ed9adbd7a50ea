"""Picture files: opened with named formats only, and judged by their headers before they are decoded."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from stat import S_ISREG
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from PIL import Image

MIN_SIDE = 16  # pixels, which is two latents; a smaller picture is likely a mistake
MAX_PIXELS = 8192 * 8192  # of one picture

# The formats of Pillow that are read. A fixed list, as Pillow would also hand PostScript to Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM", "HEIF")
PREFIX_BYTES = 16  # as in Pillow, by which formats are told apart
HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


@contextmanager
def open_picture(path: str, formats: tuple[str, ...] = FORMATS) -> Iterator[Image.Image]:
    """Open a picture file in one of these formats without decoding it.

    Raises OSError, or ValueError if it cannot be used as a picture.
    """
    with _regular(path) as file:
        picture = _identified(file, formats)
        check_header(picture)
        yield picture


def _regular(path: str) -> BinaryIO:
    """Open a file, but no pipe or device, which may never end."""
    if not S_ISREG(os.stat(path).st_mode):
        raise ValueError("expected a regular file, found a directory, device or pipe")
    return open(path, "rb")


def check_header(picture: Image.Image) -> None:
    """Raise ValueError if a picture's size or mode cannot be used. Does not decode it."""
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"expected at most {MAX_PIXELS // 10**6} megapixels, found {width}x{height}; scale it down"
        )
    if min(width, height) < MIN_SIDE:
        raise ValueError(f"expected at least {MIN_SIDE} pixels on both sides, found {width}x{height}")
    if picture.mode == "F" or picture.mode.startswith("I"):  # Pillow would clip these to white or black
        raise ValueError(f"expected 8 bits per channel, found mode {picture.mode}; convert it to 8 bits")


def _identified(file: BinaryIO, formats: tuple[str, ...]) -> Image.Image:
    """Do what `Image.open` does, without its warning of large pictures: it could only be suppressed for the
    whole process, and other threads may be in it too."""
    from PIL import Image

    prefix = file.read(PREFIX_BYTES)
    for name in formats:
        if _accepts(name, prefix):
            if name == "HEIF":
                _add_heif()
            file.seek(0)
            try:
                return Image.OPEN[name][0](file, "")  # without the name, Pillow cannot open the file again
            except (SyntaxError, IndexError, TypeError, struct.error):
                continue
    raise ValueError(
        f"expected an intact picture ({', '.join(formats)}), found something else; convert it to PNG"
    )


def looks_like(path: str, formats: tuple[str, ...]) -> bool:
    """Return whether a file begins like one in these formats. False if it cannot be read."""
    try:
        with _regular(path) as file:
            prefix = file.read(PREFIX_BYTES)
    except (OSError, ValueError):
        return False
    return any(_accepts(name, prefix) for name in formats)


def _accepts(name: str, prefix: bytes) -> bool:
    from PIL import Image

    if name == "HEIF":
        return prefix[4:8] == b"ftyp" and prefix[8:12] in HEIF_BRANDS
    if name not in Image.OPEN:
        Image.init()
    _, accepts = Image.OPEN.get(name, (None, None))
    return accepts is not None and accepts(prefix) is True  # a text says that Pillow is built without it


def _add_heif() -> None:
    """Let Pillow read HEIC files. Raises ValueError without the package that does."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise ValueError(
            "HEIC needs one more package: pip install 'animate-rt[heic]', or convert it to JPEG or PNG"
        ) from error
    register_heif_opener()
