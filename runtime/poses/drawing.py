"""Keypoints drawn as the skeletons that pose guiders were trained on, equal in every pixel.

There are two styles, each of a public pose tool: `dwpose`, of Moore-AnimateAnyone, and `musepose`. Both tools
draw with OpenCV on a canvas of their own size; MusePose's then scales the picture down.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from colorsys import hsv_to_rgb
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...engines.model import PoseStyle
from ...errors import ConfigError, InputError
from ...text import quoted
from ..media.picture_file import MAX_PIXELS
from ..media.pose_sequence import PoseSequence
from .keypoints import BODY, FACE, LEFT_HAND, RIGHT_HAND, VISIBLE, Keypoints, Pose
from .raster import Floats, Ints, Size, discs, ellipses, polygons, thick_lines, thin_lines
from .resizing import coloured, resized

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, slots=True)
class Style:
    """How a public tool draws. All numbers are pixels."""

    canvas: int  # shorter side of the canvas
    result: int  # shorter side of the picture it returns
    limb: int | None  # half the width of a limb, or None if it depends on the limb's length
    bone: int | None  # width of the lines of a hand, or None if it depends on the line's length
    hand: int  # radius of the points of a hand
    face: bool  # whether the face is drawn


STYLES: dict[str, Style] = {
    "dwpose": Style(canvas=512, result=512, limb=4, bone=2, hand=4, face=True),
    "musepose": Style(canvas=1024, result=768, limb=None, bone=None, hand=3, face=False),
}
# A width that depends on the length is 1 pixel below the first of these lengths, and 1 more from each on.
LENGTHS = np.array((5, 10, 20, 40, 80, 160, 320))
JOINT, FACE_POINT = 4, 3  # radii
FURTHEST = 1 << 28  # pixels; points further out are left out, as OpenCV's numbers have 32 bits

LIMBS = np.array(
    [
        *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12)),
        *((12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17)),
    ]
)
BONES = np.array([(0 if i % 4 == 1 else i - 1, i) for i in range(1, 21)])  # of a hand: four per finger


def hues(count: int) -> NDArray[np.uint8]:
    """`count` colours around the circle of hues, (count, 3)."""
    return np.array(
        [[round(255 * part) for part in hsv_to_rgb(i / count, 1, 1)] for i in range(count)], np.uint8
    )


# A canvas holds the number of what is drawn there. What is drawn later has a higher number.
LIMB, JOINTS, LEFT, RIGHT, FACES = 1, 18, 36, 57, 78  # the first number of each group; 0 is background
COLOURS = np.zeros((FACES + 1, 3), np.uint8)
COLOURS[LIMB:JOINTS] = hues(18)[: len(LIMBS)] * 0.6  # the tools dim the canvas before they draw joints
COLOURS[JOINTS:LEFT] = hues(18)
COLOURS[LEFT:RIGHT] = COLOURS[RIGHT:FACES] = [*hues(20), (0, 0, 255)]
COLOURS[FACES] = 255


def draw(pose: Pose, width: int, height: int, style: PoseStyle) -> NDArray[np.uint8]:
    """Draw one frame of keypoints, given in pixels of a picture of width x height.

    Returns RGB, uint8 (height, width, 3), in the size that the style's tool has for such a picture: a shorter
    side of 512 pixels for dwpose and of 768 for musepose, and sides that are multiples of 64. Raises
    ConfigError for an unknown style, InputError for a picture that is far too long or has no size.
    """
    canvas, result = sizes(width, height, style)
    how = STYLES[style]
    with np.errstate(over="ignore"):
        points = pose[:, :2] / (float(width), float(height)) * canvas
    scores = np.where((abs(points) < FURTHEST).all(axis=1), pose[:, 2], 0)
    points[scores == 0] = 0
    picture = np.zeros((canvas.height, canvas.width), np.uint8)
    draw_body(picture, points[BODY], scores[BODY] > VISIBLE, how)
    pixels = points.astype(np.int64)
    visible = (scores >= VISIBLE) & (pixels > 0).all(axis=1)
    for hand, number in ((LEFT_HAND, LEFT), (RIGHT_HAND, RIGHT)):
        draw_hand(picture, pixels[hand], visible[hand], number, how)
    if how.face:
        discs(pixels[FACE][visible[FACE]], FACE_POINT, canvas).paint(picture, FACES)
    return coloured(picture, COLOURS) if result == canvas else resized(picture, COLOURS, result)


def draw_all(frames: Iterable[Pose], width: int, height: int, style: PoseStyle) -> Iterator[Image.Image]:
    """Draw frames one after another, like `draw`. The same frame object twice in a row gives the same picture
    object twice. Raises what `draw` raises before it reads a frame."""
    sizes(width, height, style)
    return _pictures(frames, partial(draw, width=width, height=height, style=style))


def pose_pictures(keypoints: Keypoints, style: PoseStyle) -> PoseSequence:
    """The frames of `keypoints` as a pose sequence, drawn while it is read. Raises what `draw` raises."""
    width, height = keypoints.width, keypoints.height
    sizes(width, height, style)
    read = partial(draw_all, keypoints, width, height, style)
    return PoseSequence(read, keypoints.frame_rate, len(keypoints), style)


def sizes(width: int, height: int, style: str) -> tuple[Size, Size]:
    """Sizes of a tool's canvas and of its result, for a picture of width x height."""
    if style not in STYLES:
        raise ConfigError(f"pose style: expected {' or '.join(STYLES)}, found {quoted(style)}")
    if min(width, height) >= 1 and max(width, height) <= MAX_PIXELS:
        canvas = rounded_size(width, height, STYLES[style].canvas)
        if canvas.width * canvas.height <= MAX_PIXELS:
            return canvas, rounded_size(*canvas, STYLES[style].result)
    raise InputError(
        f"keypoints: expected a picture that has at most {MAX_PIXELS // 10**6} megapixels when its shorter "
        f"side is {STYLES[style].canvas} pixels long, found {quoted(width)}x{quoted(height)}"
    )


def rounded_size(width: int, height: int, shorter: int) -> Size:
    """The size with this shorter side and the same proportions, rounded to multiples of 64."""
    factor = shorter / min(width, height)
    return Size(*(round(side * factor / 64) * 64 for side in (width, height)))


def draw_body(picture: NDArray[np.uint8], points: Floats, visible: NDArray[np.bool_], how: Style) -> None:
    """Draw limbs as ellipses, then joints as discs."""
    size = size_of(picture)
    limbs = np.flatnonzero(visible[LIMBS].all(axis=1))
    ends = points[LIMBS[limbs]]
    x, y = (ends[:, 0] - ends[:, 1]).T.tolist()
    lengths = np.array([(dy**2 + dx**2) ** 0.5 for dx, dy in zip(x, y, strict=True)])
    degrees = [int(math.degrees(math.atan2(dy, dx))) for dx, dy in zip(x, y, strict=True)]
    widths = by_length(lengths) if how.limb is None else np.full(len(limbs), how.limb)
    axes = np.stack([(lengths / 2).astype(np.int64), widths], axis=1)
    outlines = ellipses(ends.mean(axis=1).astype(np.int64), axes, np.array(degrees, np.int64))
    polygons(outlines, size).paint(picture, LIMB + limbs)
    joints = np.flatnonzero(visible)
    discs(points[joints].astype(np.int64), JOINT, size).paint(picture, JOINTS + joints)


def draw_hand(
    picture: NDArray[np.uint8], points: Ints, visible: NDArray[np.bool_], number: int, how: Style
) -> None:
    """Draw bones as lines, each with a number from `number` on, then points as discs with the next number."""
    size = size_of(picture)
    bones = np.flatnonzero(visible[BONES].all(axis=1))
    starts, ends = points[BONES[bones]].transpose(1, 0, 2)
    lengths = np.sqrt(np.square(ends - starts).sum(axis=1))
    widths = by_length(lengths) if how.bone is None else np.full(len(bones), how.bone)
    thin, thick = np.flatnonzero(widths == 1), np.flatnonzero(widths > 1)
    thin_lines(thin, starts[thin], ends[thin], size).paint(picture, number + bones)
    thick_lines(starts[thick], ends[thick], widths[thick], size).paint(picture, number + bones[thick])
    discs(points[visible], how.hand, size).paint(picture, number + len(BONES))


def size_of(picture: NDArray[np.uint8]) -> Size:
    height, width = picture.shape
    return Size(width, height)


def by_length(lengths: Floats) -> Ints:
    return 1 + np.searchsorted(LENGTHS, lengths, side="right")


def _pictures(frames: Iterable[Pose], draw_one: partial[NDArray[np.uint8]]) -> Iterator[Image.Image]:
    from PIL import Image

    previous = picture = None
    for frame in frames:
        if picture is None or frame is not previous:
            picture = Image.fromarray(draw_one(frame))
        previous = frame
        yield picture
