"""Colour of pictures: embedded profiles converted to sRGB, transparency composed over a background."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ...errors import ConfigError
from ...text import quoted

if TYPE_CHECKING:
    from PIL import Image

RGB: TypeAlias = tuple[int, int, int]

BLACK: RGB = (0, 0, 0)
SAME = 2  # of 255: profiles that change no colour by more are sRGB, and their pictures stay as they are
SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # colour space of a profile: mode of its pictures


def parse_colour(given: str | Sequence[int]) -> RGB:
    """Return (red, green, blue) of a colour such as "white", "#ffffff" or (255, 255, 255).

    Raises ConfigError.
    """
    from PIL import ImageColor

    try:
        values = ImageColor.getrgb(given) if isinstance(given, str) else given
        red, green, blue = values
        if all(type(value) is int and 0 <= value <= 255 for value in values):
            return red, green, blue
    except (TypeError, ValueError):
        pass
    raise ConfigError(
        f"background: expected a colour like white or #ffffff, or three numbers from 0 to 255, "
        f"found {quoted(given)}"
    )


def to_rgb(picture: Image.Image, background: RGB | None) -> Image.Image:
    """Return a picture as sRGB in mode RGB, a new image.

    Colours are converted from the picture's ICC profile, if it has a usable one. Transparent pixels are
    composed over `background`; None keeps the colours that are stored for them.
    """
    from PIL import ImageChops

    alpha = None
    if picture.has_transparency_data:
        grey = picture.mode in ("LA", "La")
        # Keeps the colours; without this step Pillow may warn.
        with_alpha = picture if picture.mode == "RGBA" else picture.convert("RGBA")
        alpha = with_alpha.getchannel("A") if background else None
        picture = picture.convert("L") if grey else with_alpha
    colours = _in_srgb(picture).convert("RGB")
    if alpha and background:
        colours.paste(background, mask=ImageChops.invert(alpha))
    return colours


def _in_srgb(picture: Image.Image) -> Image.Image:
    """Convert a picture from its ICC profile to sRGB, in mode RGB.

    As in viewers, a profile that is damaged or made for another kind of picture has no effect. Nor has one
    that is sRGB itself: it would only add rounding errors.
    """
    profile = picture.info.get("icc_profile")
    if not profile:
        return picture
    from PIL import Image, ImageCms

    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        mode = SPACES.get(source.profile.xcolor_space.strip())
        if mode is None or (mode != picture.mode and (mode != "RGB" or picture.mode in ("CMYK", "LAB"))):
            return picture
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return picture
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    samples = Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(27, 27, 3))
    before, after = samples.convert(mode).convert("RGB"), transform.apply(samples.convert(mode))
    if np.abs(np.asarray(after, int) - np.asarray(before, int)).max() <= SAME:
        return picture
    return transform.apply(picture.convert(mode))
