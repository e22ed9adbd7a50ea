"""Frames of videos as pictures: converted to RGB by their tags, transparency over black, turned upright."""

from __future__ import annotations

from math import atan2, cos, degrees, hypot, radians, sin
from typing import TYPE_CHECKING, Any

import numpy as np

from .colour import BLACK, to_rgb

if TYPE_CHECKING:
    from av.video import VideoFrame
    from av.video.reformatter import VideoReformatter
    from PIL import Image

RGB = 0  # FFmpeg's AVCOL_SPC_RGB; PyAV has no names for some of these numbers
MATRICES = {1, 4, 5, 6, 7, 9}  # tags of conversion matrices that FFmpeg implements


def to_picture(frame: VideoFrame, reformatter: VideoReformatter) -> Image.Image:
    """Convert a frame to RGB with the matrix and range in its tags, over black, and turn it upright.

    A `reformatter` for all frames of a video prepares once; `VideoFrame.reformat` would for every frame.
    """
    from av.video.reformatter import ColorRange, Colorspace
    from PIL import Image

    pixel_format = frame.format
    matrix = frame.colorspace
    if matrix not in MATRICES and not (matrix == RGB and pixel_format.is_rgb):
        # Untagged, or most likely tagged wrongly. The shorter side decides, as the public pose tools write
        # untagged BT.601 in portrait, 512 wide.
        hd = min(frame.width, frame.height) >= 720
        matrix = Colorspace.ITU709 if hd else Colorspace.ITU601
    transparent = pixel_format.name == "pal8" or any(part.is_alpha for part in pixel_format.components)
    converted = reformatter.reformat(
        frame,
        format="rgba" if transparent else "rgb24",
        src_colorspace=matrix,
        dst_colorspace=RGB,  # PyAV before 17 uses the tags only if the colour spaces differ
        src_color_range=frame.color_range or ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
    )
    picture = Image.fromarray(converted.to_ndarray())
    return upright(to_rgb(picture, BLACK) if transparent else picture, display_matrix(frame))


def display_matrix(frame: VideoFrame) -> list[float] | None:
    """The numbers that say how a player shows the frame, at least the first five of nine, or None."""
    try:
        found: Any = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV does not know some other kind of data that the frame has, but gives the angle
        angle = radians(frame.rotation)
        return [cos(angle), -sin(angle), 0, sin(angle), cos(angle)]
    return None if found is None else np.frombuffer(bytes(found), np.int32).tolist()


def upright(picture: Image.Image, matrix: list[float] | None) -> Image.Image:
    """Turn and mirror a picture as ffmpeg does for a display matrix. Scales and shifts are left out.

    The first two numbers of each row of the matrix are where it moves the x axis, and below the y axis.
    """
    from PIL.Image import Resampling, Transpose

    if matrix is None:
        return picture
    a, b, _, c, d = matrix[:5]
    if not (hypot(a, c) and hypot(b, d)):
        return picture
    angle = round(degrees(atan2(b / hypot(b, d), a / hypot(a, c))))  # clockwise
    quarters = round(angle / 90)
    if abs(angle - 90 * quarters) > 1:
        return picture.rotate(-angle, Resampling.BILINEAR)
    x, y = (a, d) if quarters % 2 == 0 else (c, b)
    if quarters % 2:
        picture = picture.transpose(Transpose.TRANSPOSE)
    if x < 0:
        picture = picture.transpose(Transpose.FLIP_LEFT_RIGHT)
    if y < 0:
        picture = picture.transpose(Transpose.FLIP_TOP_BOTTOM)
    return picture
