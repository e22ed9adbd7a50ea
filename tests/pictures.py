"""Small pictures in many formats."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

DATA = Path(__file__).parent / "data" / "faults"


def saved(picture: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, **options)
    return file.getvalue()


def p3() -> bytes:
    with Image.open(DATA / "icc-profile" / "ref_p3.png") as opened:
        return bytes(opened.info["icc_profile"])


def samples() -> list[bytes]:
    """A small picture in each format, some with transparency, profile, orientation or several frames."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    options: list[tuple[str, dict[str, Any]]] = [
        ("RGBA", {"format": "PNG", "icc_profile": p3()}),
        ("P", {"format": "PNG"}),
        ("RGB", {"format": "JPEG", "exif": exif}),
        ("CMYK", {"format": "JPEG"}),
        ("RGBA", {"format": "WEBP", "icc_profile": p3()}),
        ("RGB", {"format": "BMP"}),
        ("P", {"format": "GIF"}),
        ("RGB", {"format": "TIFF", "compression": "tiff_lzw"}),
        ("RGB", {"format": "TIFF", "compression": "jpeg"}),
        ("RGB", {"format": "JPEG2000"}),
        ("RGB", {"format": "PPM"}),
    ]
    found = [saved(picture.convert(mode), **option) for mode, option in options]
    others = [picture.rotate(20 * turn) for turn in range(1, 4)]
    for kind in ("PNG", "WEBP", "TIFF"):
        found.append(saved(picture, format=kind, save_all=True, append_images=others, duration=40))
    return found
