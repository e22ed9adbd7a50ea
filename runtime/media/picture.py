"""Pictures: read as upright RGB, resized as the public pipeline does, saved as PNG."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ...atomic import atomic, unwritable
from ...errors import InputError, InputMissing
from ...text import quoted
from .colour import RGB, parse_colour, to_rgb
from .picture_file import check_header, open_picture

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL import Image

Picture: TypeAlias = "str | os.PathLike[str] | npt.NDArray[np.uint8] | Image.Image"
Frame: TypeAlias = "npt.NDArray[np.uint8]"  # (height, width, 3), RGB

ORIENTATION = 0x0112  # the EXIF tag
ANIMATED = {"PNG", "WEBP", "GIF", "TIFF", "AVIF"}  # formats whose files may hold several frames
MAX_NAME = 500  # characters of a path in messages


def read_picture(source: Picture, background: str | RGB | None = None) -> Image.Image:
    """Read a picture as sRGB in mode RGB, turned upright by its EXIF tag.

    `source` is the path of a file, a uint8 array (height, width, 3) or a PIL image. An embedded ICC profile
    is converted to sRGB. Transparent pixels are composed over `background`, such as "white" or "#ffffff";
    with None they keep the colours stored for them, as in the public pipeline. Raises ConfigError,
    InputMissing or InputError.
    """
    background = None if background is None else parse_colour(background)
    with refused(_name(source)), _opened(source) as opened:
        return upright_rgb(opened, background)


def check_picture(source: Picture) -> None:
    """Raise what `read_picture` would raise, as far as a header shows it, and InputError for animations."""
    with refused(_name(source)):
        if isinstance(source, np.ndarray):
            check_array(source)
            return
        with _opened(source) as opened:
            check_header(opened)
            if opened.format in ANIMATED and opened.is_animated:  # type: ignore[attr-defined]
                raise ValueError(
                    "expected one frame, found an animation; give the file itself as the pose sequence"
                )


def check_array(source: npt.NDArray[np.uint8]) -> None:
    if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3:
        raise ValueError(f"expected uint8 (height, width, 3), found {source.dtype} {source.shape}")


def upright_rgb(opened: Image.Image, background: RGB | None) -> Image.Image:
    """Decode an opened picture, which stays open; for the rest see `read_picture`. Raises ValueError."""
    check_header(opened)
    opened.load()
    return to_rgb(upright(opened), background)


def upright(opened: Image.Image) -> Image.Image:
    """Turn and mirror a picture as its EXIF tag says. Damaged EXIF has no effect, as in viewers."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    try:
        turn = turns.get(opened.getexif().get(ORIENTATION, 1))
    except Exception:  # Pillow raises almost any error
        return opened
    return opened if turn is None else opened.transpose(turn)


@contextmanager
def refused(name: str) -> Iterator[None]:
    """Turn any error of the block into InputError or InputMissing about the picture of this name."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputMissing(f"there is no picture {quoted(name, MAX_NAME)}: check the path") from error
    except Exception as error:  # Pillow's decoders raise almost any error on damaged files
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(
            f"cannot read {quoted(name, MAX_NAME)} as a picture: {quoted(reason, MAX_NAME)}"
        ) from error


def fit(picture: Image.Image, width: int, height: int, resampling: str = "lanczos") -> Frame:
    """Resize to (height, width, 3), as the public pipelines do: the aspect ratio is not kept.

    resampling: the name of one of Pillow's filters.
    """
    from PIL import Image

    return np.array(picture.resize((width, height), Image.Resampling[resampling.upper()]))


def resize_frame(frame: npt.NDArray[np.float32], width: int, height: int) -> Frame:
    """Resize float32 values of 0 to 255 to (height, width, 3), and round them.

    Each pixel is interpolated between the four nearest ones, with none beyond the edges, as PyTorch's mode
    bilinear does without antialias: a frame that gets much smaller loses details.
    """
    for axis, size in enumerate((height, width)):
        length = frame.shape[axis]
        places = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(length / size)
        places = np.clip(places - np.float32(0.5), 0, length - 1)
        before = places.astype(np.intp)
        weights = (places - before).reshape([-1 if i == axis else 1 for i in range(3)])
        low, high = (frame.take(np.minimum(before + i, length - 1), axis) for i in (0, 1))
        frame = low + weights * (high - low)
    return np.rint(frame).astype(np.uint8)


def contain(picture: Image.Image, width: int, height: int) -> Frame:
    """Resize to fit into (height, width, 3) with its aspect ratio, in the middle of a black frame."""
    from PIL import Image

    scale = min(width / picture.width, height / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    frame = Image.new("RGB", (width, height))
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    frame.paste(picture.resize(size, Image.Resampling.LANCZOS), (left, top))
    return np.array(frame)


def square(picture: Image.Image, side: int) -> Frame:
    """Resize to (side, side, 3) by BICUBIC, as the public pipeline does before the image encoder."""
    from PIL import Image

    return np.array(picture.resize((side, side), Image.Resampling.BICUBIC))


def write_png(path: str | os.PathLike[str], frame: Frame) -> None:
    """Save `frame` as a PNG atomically: the file is complete, or it does not exist."""
    try:
        with atomic(Path(path)) as temporary:
            save_png(temporary, frame)
    except OSError as error:
        raise unwritable(path, error) from error


def save_png(path: Path, frame: Frame) -> None:
    """Save `frame` as a PNG, not atomically; `path` is a temporary file."""
    from PIL import Image

    # Level 1 takes a sixth of the default level's time; files are a sixth larger.
    Image.fromarray(frame).save(path, format="PNG", compress_level=1)


def save_png16(path: Path, frame: Frame) -> None:
    """Save `frame` as a PNG with 16 bits per channel, as some compositors require; not atomically.

    Values are multiplied by 257, which maps black to black and white to white.
    """
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
        return nullcontext(source)  # the caller closes it
    if isinstance(source, np.ndarray):
        check_array(source)
        return nullcontext(Image.fromarray(source))
    if isinstance(source, str | os.PathLike):
        return open_picture(os.fsdecode(source))
    raise TypeError("expected a path, a uint8 array or a PIL image")


def _name(source: Picture) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fsdecode(source)
    return f"the given {type(source).__name__}"
