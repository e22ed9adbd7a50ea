"""Still pictures: reading them as upright RGB, resizing them as the public pipeline does, saving them."""

from __future__ import annotations

import os
import warnings
from contextlib import AbstractContextManager, nullcontext
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ...atomic import atomic, unwritable
from ...errors import InputError, InputMissing

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL import Image

Picture: TypeAlias = "str | os.PathLike[str] | npt.NDArray[np.uint8] | Image.Image"
Frame: TypeAlias = "npt.NDArray[np.uint8]"  # (height, width, 3), RGB

MIN_SIDE = 16  # pixels: two latents; what is smaller is there by mistake


def read_picture(source: Picture) -> Image.Image:
    """Read a file, a uint8 array (height, width, 3) or a PIL image as RGB, turned upright by its EXIF tag."""
    from PIL import ImageOps

    name = _name(source)
    try:
        with _opened(source) as opened:
            if opened.mode == "F" or opened.mode.startswith("I"):  # Pillow would clip these to white or black
                raise ValueError(
                    f"expected 8 bits per channel, found mode {opened.mode}; convert it to 8 bits"
                )
            picture = ImageOps.exif_transpose(opened)
            if picture.has_transparency_data:
                picture = picture.convert("RGBA")  # same colours; without this step Pillow may warn
            picture = picture.convert("RGB")
    except FileNotFoundError as error:
        raise InputMissing(f"there is no picture {name}: check the path") from error
    except Exception as error:  # on damaged files Pillow's decoders raise nearly anything
        raise InputError(
            f"cannot read {name} as a picture: {getattr(error, 'strerror', None) or error}"
        ) from error
    if min(picture.size) < MIN_SIDE:
        raise InputError(
            f"{name} is {picture.width}x{picture.height}: both sides of a picture must be at least {MIN_SIDE}"
        )
    return picture


def fit(picture: Image.Image, width: int, height: int) -> Frame:
    """Resize to (height, width, 3) by LANCZOS, as the public pipeline does: the aspect ratio is not kept."""
    from PIL import Image

    return np.array(picture.resize((width, height), Image.Resampling.LANCZOS))


def square(picture: Image.Image, side: int) -> Frame:
    """Resize to (side, side, 3) by BICUBIC, as the public pipeline does before the image encoder."""
    from PIL import Image

    return np.array(picture.resize((side, side), Image.Resampling.BICUBIC))


def write_png(path: str | os.PathLike[str], frame: Frame) -> None:
    """Save `frame` as a PNG that is either complete or not there."""
    try:
        with atomic(Path(path)) as temporary:
            save_png(temporary, frame)
    except OSError as error:
        raise unwritable(path, error) from error


def save_png(path: Path, frame: Frame) -> None:
    """Save `frame` as a PNG; for a `path` that nobody sees yet."""
    from PIL import Image

    # Level 1 takes a sixth of the default's time, for files a sixth larger.
    Image.fromarray(frame).save(path, format="PNG", compress_level=1)


def save_png16(path: Path, frame: Frame) -> None:
    """The same with 16 bits per channel, as some compositors want them: each number times 257, so that black
    and white stay what they are."""
    import av

    encoder = av.CodecContext.create("png", "w")
    encoder.height, encoder.width = frame.shape[:2]
    encoder.pix_fmt, encoder.options = "rgb48be", {"compression_level": "1"}
    encoder.time_base = encoder.sample_aspect_ratio = Fraction(1)
    picture = av.VideoFrame.from_ndarray(frame.astype(np.uint16) * 257, format="rgb48be")
    path.write_bytes(b"".join(bytes(packet) for packet in (*encoder.encode(picture), *encoder.encode(None))))


def _opened(source: Picture) -> AbstractContextManager[Image.Image]:
    from PIL import Image

    if isinstance(source, Image.Image):
        return nullcontext(source)  # its owner closes it
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3:
            raise ValueError(f"expected uint8 (height, width, 3), found {source.dtype} {source.shape}")
        return nullcontext(Image.fromarray(source))
    if isinstance(source, str | os.PathLike):
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
            return Image.open(source)  # still refuses what is twice as large as what it warns of
    raise TypeError("expected a path, a uint8 array or a PIL image")


def _name(source: Picture) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return f"the given {type(source).__name__}"
