"""Shapes that cover exactly the pixels that OpenCV 4 draws, found with numpy.

The public pose tools draw with OpenCV, and models were trained on what they drew. The arithmetic is therefore
OpenCV's: coordinates in fixed point, slopes rounded in its way, and outlines that are clipped to the picture
before they are drawn, which moves some of their pixels. Shapes of one kind are computed together, as a call
of numpy costs more than a shape.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]

SHIFT = 16  # bits of the fraction in fixed-point coordinates
ONE = 1 << SHIFT
HALF = ONE // 2
DEGREES = np.arange(361)
# OpenCV's table of sines has seven decimals, in float32.
SINES = np.sin(np.radians(np.arange(451))).round(7).astype(np.float32).astype(np.float64)


class Size(NamedTuple):
    width: int
    height: int


class Pixels(NamedTuple):
    """What some shapes cover: pairs of a shape's index and a pixel inside the picture, y * width + x.

    A pair may occur more than once.
    """

    shape: Ints
    pixel: Ints

    def paint(self, picture: NDArray[np.uint8], numbers: int | Ints) -> None:
        """Write the number of each shape, or one for all, into a picture, but not over higher ones."""
        values = np.asarray(numbers).astype(np.uint8)
        np.maximum.at(picture.reshape(-1), self.pixel, values[self.shape] if values.ndim else values)

    def of(self, shapes: Ints) -> Pixels:
        """The same pixels, where the shapes are some of a larger number: those with these indices."""
        return Pixels(shapes[self.shape], self.pixel)


def ellipses(centres: Ints, half_axes: Ints, degrees: Ints) -> Ints:
    """Outlines of ellipses as polygons of 361 points, like ellipse2Poly with a step of one degree.

    centres and half_axes are int64 (n, 2), degrees is int64 (n,); returns int64 (n, 361, 2). Of the two half
    axes, one may be 0.
    """
    turn = degrees % 360
    cos, sin = SINES[450 - turn][:, None], SINES[turn][:, None]
    x = half_axes[:, :1] * SINES[450 - DEGREES]
    y = half_axes[:, 1:] * SINES[DEGREES]
    outline = np.stack([centres[:, :1] + x * cos - y * sin, centres[:, 1:] + x * sin + y * cos], axis=-1)
    return np.rint(outline).astype(np.int64)


def polygons(vertices: Ints, size: Size) -> Pixels:
    """Filled convex polygons, like fillConvexPoly; vertices is int64 (n, corners, 2)."""
    return joined(
        thin_lines(*outlines(vertices), size),
        interiors(vertices[..., 0] * ONE, vertices[..., 1], size),
    )


def thick_lines(starts: Ints, ends: Ints, thickness: Ints, size: Size) -> Pixels:
    """Lines with round ends, like `line` with a thickness above 1.

    starts and ends are int64 (n, 2), thickness is int64 (n,).
    """
    x, y = (ends - starts).T.astype(np.float64)
    square = x * x + y * y
    lines = np.flatnonzero(square > 0)
    half = (thickness + thickness % 2) * float(HALF) / np.sqrt(np.maximum(square, 1))
    across = np.rint(np.stack([y * half, -x * half], axis=-1)).astype(np.int64)
    corners = [starts * ONE + across, starts * ONE - across, ends * ONE - across, ends * ONE + across]
    vertices = np.stack(corners, axis=1)[lines]
    shape, edge_starts, edge_ends = outlines(vertices)
    found = [
        fixed_point_lines(lines[shape], edge_starts, edge_ends, size),
        interiors(vertices[..., 0], (vertices[..., 1] + HALF) >> SHIFT, size).of(lines),
    ]
    radii = (thickness + 1) // 2
    for radius in np.unique(radii).tolist():
        lines = np.flatnonzero(radii == radius)
        found += [discs(centres[lines], radius, size).of(lines) for centres in (starts, ends)]
    return joined(*found)


def thin_lines(shape: Ints, starts: Ints, ends: Ints, size: Size) -> Pixels:
    """Lines that are one pixel thick, like `line` with a thickness of 1; `shape` is the index of each."""
    kept, starts, ends = clipped(starts, ends, size)
    starts, ends = ordered(starts, ends)  # from left to right
    dx, dy = (ends - starts).T
    sign, dy = np.sign(dy), np.abs(dy)
    steps, slope, steep = np.maximum(dx, dy), np.minimum(dx, dy), dy > dx
    line, step = counted(steps + 1)
    # Bresenham's algorithm in closed form. A line of one pixel has no step, and must not divide by zero.
    aside = (2 * slope[line] * step + (steps - 1)[line]) // np.maximum(2 * steps, 1)[line]
    aside = np.where(step > 0, aside, 0)
    x = starts[line, 0] + np.where(steep[line], aside, step)
    y = starts[line, 1] + np.where(steep[line], step, aside) * sign[line]
    return Pixels(shape[kept][line], y * size.width + x)


def fixed_point_lines(shape: Ints, starts: Ints, ends: Ints, size: Size) -> Pixels:
    """Lines that are one pixel thick, between points in fixed point; `shape` is the index of each."""
    kept, starts, ends = clipped(starts, ends, Size(size.width * ONE, size.height * ONE))
    dx, dy = np.abs(ends - starts).T
    flat = (dx > dy)[:, None]
    # From x and y to the coordinate that grows by one pixel per step, and the other one.
    starts, ends = np.where(flat, starts, starts[:, ::-1]), np.where(flat, ends, ends[:, ::-1])
    starts, ends = ordered(starts, ends)
    length, rise = (ends - starts).T
    slope = quotient(rise * ONE, length | 1)
    line, step = counted((length >> SHIFT) + 1)
    along = ((starts[line, 0] + HALF) >> SHIFT) + step
    aside = (starts[line, 1] + HALF + step * slope[line]) >> SHIFT
    points = np.concatenate([np.stack([along, aside], axis=-1), (ends + HALF) >> SHIFT])
    line = np.concatenate([line, np.arange(len(ends))])
    points = np.where(flat[line], points, points[:, ::-1])
    visible = inside(points, size)
    x, y = points[visible].T
    return Pixels(shape[kept][line[visible]], y * size.width + x)


def discs(centres: Ints, radius: int, size: Size) -> Pixels:
    """Filled circles, like `circle` with a thickness of -1; centres is int64 (n, 2)."""
    points = centres[:, None] + disc(radius)
    shape, point = np.nonzero(inside(points, size))
    x, y = points[shape, point].T
    return Pixels(shape, y * size.width + x)


@cache
def disc(radius: int) -> Ints:
    """Offsets of a filled circle's pixels from its centre, (pixels, 2), by the midpoint algorithm."""
    widths = dict.fromkeys(range(-radius, radius + 1), 0)  # by row: half the width
    x, y, error = radius, 0, 0
    while x >= y:
        for row, width in ((y, x), (x, y)):
            widths[row] = widths[-row] = max(widths[row], width)
        error += 2 * y + 1
        y += 1
        if error > 0:
            error -= 2 * x - 1
            x -= 1
    return np.array([(x, row) for row, width in widths.items() for x in range(-width, width + 1)])


def outlines(vertices: Ints) -> tuple[Ints, Ints, Ints]:
    """The edges of closed polygons: the polygon, start and end of each."""
    n, corners, _ = vertices.shape
    starts = np.roll(vertices, 1, axis=1)
    return np.repeat(np.arange(n), corners), starts.reshape(-1, 2), vertices.reshape(-1, 2)


def interiors(x: Ints, rows: Ints, size: Size) -> Pixels:
    """What convex polygons cover, row by row, except for parts of their outlines.

    `x` of the vertices is in fixed point, `rows` are their rows in pixels; both are int64 (n, corners).
    """
    n, corners = rows.shape
    if not n:
        return Pixels(np.zeros(0, np.int64), np.zeros(0, np.int64))
    # Two chains of vertices lead down from the uppermost vertex, one in each direction: (2, n, corners).
    order = (rows.argmin(axis=1)[:, None] + np.arange(corners) * np.array((1, -1))[:, None, None]) % corners
    polygon = np.arange(n)[:, None]
    x, rows = x[polygon, order], rows[polygon, order]
    # A vertex that lies lower than all before it ends an edge, which begins at the vertex before it.
    lowest = np.maximum.accumulate(rows, axis=-1)
    chain, polygon, vertex = np.nonzero(rows[..., 1:] > lowest[..., :-1])
    start, end = x[chain, polygon, vertex], x[chain, polygon, vertex + 1]
    first, last = lowest[chain, polygon, vertex], rows[chain, polygon, vertex + 1]
    step = quotient((end - start) * 2 + (last - first), (last - first) * 2)
    top = np.maximum(first, 0)
    edge, row = counted(np.maximum(np.minimum(last, size.height) - top, 0))
    row += top[edge]
    crossing = (start[edge] + (row - first[edge]) * step[edge]).reshape(2, -1)
    # Both chains cross the same rows, so the first half of `edge` and `row` describes both.
    left, right = (np.sort(crossing, axis=0) + HALF) >> SHIFT
    left = np.maximum(left, 0)
    span, offset = counted(np.maximum(np.minimum(right, size.width - 1) - left + 1, 0))
    return Pixels(polygon[edge[span]], (row[: len(left)] * size.width + left)[span] + offset)


def clipped(starts: Ints, ends: Ints, size: Size) -> tuple[Ints, Ints, Ints]:
    """Clip lines to the picture. Returns the indices of those that cross it, with their starts and ends."""
    sides = np.stack([starts < 0, starts >= size, ends < 0, ends >= size])
    if not sides.any():
        return np.arange(len(starts)), starts, ends
    kept = np.flatnonzero(~((sides[0] & sides[2]) | (sides[1] & sides[3])).any(axis=-1))
    starts, ends = starts[kept], ends[kept]
    crosses = np.ones(len(kept), np.bool_)
    for line in np.flatnonzero(sides[:, kept].any(axis=(0, 2))):
        found = clipped_line(starts[line].tolist(), ends[line].tolist(), size)
        if found:
            starts[line], ends[line] = found
        else:
            crosses[line] = False
    return kept[crosses], starts[crosses], ends[crosses]


def clipped_line(start: list[int], end: list[int], size: Size) -> tuple[list[int], list[int]] | None:
    """Clip one line, first above and below, then left and right. Returns None if it misses the picture.

    The order matters, as each move is rounded. Python's integers hold the products, which may need 80 bits.
    """
    points = start, end
    for axis in (1, 0):
        limit = size[axis] - 1
        if max(start[axis], end[axis]) < 0 or min(start[axis], end[axis]) > limit:
            return None
        for point in points:
            border = min(max(point[axis], 0), limit)
            if border != point[axis]:
                along, across = end[axis] - start[axis], end[1 - axis] - start[1 - axis]
                product = (border - point[axis]) * across
                moved = abs(product) // abs(along)  # rounded towards zero
                point[1 - axis] += moved if (product < 0) == (along < 0) else -moved
                point[axis] = border
    return points


def ordered(starts: Ints, ends: Ints) -> tuple[Ints, Ints]:
    """The lines with start and end exchanged where the first coordinate would decrease."""
    exchanged = ends[:, :1] < starts[:, :1]
    return np.where(exchanged, ends, starts), np.where(exchanged, starts, ends)


def quotient(a: Ints, b: Ints) -> Ints:
    """a / b for positive b, rounded towards zero."""
    whole: Ints = np.where(a < 0, -(-a // b), a // b)
    return whole


def counted(counts: Ints) -> tuple[Ints, Ints]:
    """For each count n the numbers 0 to n - 1, one after another, and before them the index of the count."""
    index = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum(counts) - counts
    return index, np.arange(len(index)) - first[index]


def inside(points: Ints, size: Size) -> NDArray[np.bool_]:
    """Which points lie in the picture."""
    visible: NDArray[np.bool_] = np.all((points >= 0) & (points < size), axis=-1)
    return visible


def joined(*parts: Pixels) -> Pixels:
    return Pixels(*map(np.concatenate, zip(*parts, strict=True)))
