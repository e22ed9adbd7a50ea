"""The watermark `Pattern`: a faint pattern, added to every frame; fainter where a frame is flat.

The frame is covered by square cells, 96 x 96 of them on a square frame. Each of 32 bits has a fixed random
sign in every cell, +1 or -1. The pattern is the sum of these 32 patterns, each with the sign of its bit, and
of a 33rd, stronger one without a bit, by which the detector finds the grid after a crop or a change of size.
Its slow variations are taken out, since they are seen first and read last.

The detector does the same to the frames: what varies quickly, from cell to cell, is compared with each of
the 33 patterns. In frames that were drawn without knowledge of the random signs, every comparison is a sum of
random signs, so Hoeffding's inequality and the binomial distribution bound how often it is mistaken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from math import exp, sqrt

import numpy as np

from ...engines.device import Array
from ..media.picture import Frame
from .watermark import PRODUCT_BITS, Payload, Reading, chance, right_bits

GRID = 96  # cells along each side of the pattern, which repeats beyond them
SMALLEST = 2.0  # pixels of a cell: in small frames they are not made smaller
BITS = 32
# Root mean square of what is added, of 255 levels: in flat parts, at most, and its growth with the detail.
# The detail is a mean of square roots, as a single edge in a flat part hides nothing.
FAINT, STRONG, SHARE = 1.2, 3.0, 0.8
# These are for cells of 2.7 pixels. Codecs keep larger cells better and smaller ones worse, so the strength
# goes with the inverse of the size, within these bounds.
CELL, LEAST, MOST = 2.7, 0.6, 1.2
SYNC = 2.5  # weight of the pattern without a bit
SIGNS = b"animate-rt pattern 1"  # what the random signs are made from
NEAR = 1.5  # levels of detail below which it is not amplified further
# Sizes of the cells that are tried, relative to those of an uncropped picture: 0.5 fits a picture that covers
# a quarter of a screenshot, 1.5 one of which two thirds are left in each direction.
SCALES = tuple(0.3 * 1.01**i for i in range(162))
STEPS = (0.0025, 0.001)  # refinements of the best one
FINEST = 1.0  # pixels of a cell that is tried
NOTHING = 1e-9  # instead of zero, as a divisor


class Pattern:
    """Needs no model, and about 2 ms for a frame of 256 x 256."""

    name = "pattern-1"

    def marker(self, width: int, height: int, payload: Payload) -> Callable[[Frame], Frame]:
        added, cell = pattern(width, height, payload), cell_size(width, height)
        added *= min(MOST, max(LEAST, CELL / cell))

        def mark(frame: Frame) -> Frame:
            fine = details(averages(luma(frame), cell))
            strength = np.clip(FAINT + SHARE * smooth(np.sqrt(np.abs(fine)), 2) ** 2, FAINT, STRONG)
            grain = np.rint(added * enlarged(strength, width, height))
            return np.asarray(np.clip(frame + grain[..., None], 0, 255), np.uint8)

        return mark

    def read(self, frames: Sequence[Frame]) -> Reading:
        lumas = list(map(luma, frames))
        height, width = lumas[0].shape
        cell = cell_size(width, height)
        # As it was written, or a larger one that is now so small that its cells are below the smallest.
        for size in dict.fromkeys((cell, sqrt(width * height) / GRID)):
            straight = reading(read_cells(lumas, size), alignments=1)
            if straight.found:
                return straight
        mean = [np.mean(np.stack(lumas), axis=0)]  # what moves is blurred, and the pattern is not
        scale, row, column, tried = search(mean, cell)
        cells = np.roll(read_cells(lumas, cell * scale), (-row, -column), (0, 1))
        found = reading(cells, alignments=tried)
        return min(straight, found, key=lambda each: each.false_positive_rate)


def pattern(width: int, height: int, payload: Payload) -> Array:
    """The pattern of these bits for frames of this size, (height, width), with a root mean square of 1."""
    # Products by einsum: OpenBLAS ends its threads while the process forks, and a product of another thread
    # that waits for them never returns.
    weights = np.array([SYNC, *(2 * bit - 1 for bit in payload.bits)])
    cells = details(np.einsum("s,sij->ij", weights, signs()))
    cell = cell_size(width, height)
    rows = np.einsum("yi,ij->yj", interpolation(height, cell), cells)
    field = np.einsum("yj,xj->yx", rows, interpolation(width, cell))
    return np.asarray(field / (float(field.std()) or 1.0), np.float32)  # that of one pixel is 0


def cell_size(width: int, height: int) -> float:
    """Side of a cell in pixels. It depends on the area, so a picture may be resized as a whole."""
    return max(SMALLEST, sqrt(width * height) / GRID)


@cache
def signs() -> Array:
    """(33, GRID, GRID) of +1 and -1, the same for ever. The first is without a bit."""
    count = (1 + BITS) * GRID * GRID
    bits = np.unpackbits(np.frombuffer(hashlib.shake_256(SIGNS).digest(count // 8), np.uint8))
    return (2.0 * bits - 1).reshape(1 + BITS, GRID, GRID)


def read_cells(lumas: Sequence[Array], cell: float) -> Array:
    """The details of pictures (height, width) in cells of that size, their mean, folded to (GRID, GRID)."""
    total = details(np.sum([equalised(averages(luma, cell)) for luma in lumas], axis=0))
    rows, columns = total.shape
    high, wide = (-(-side // GRID) * GRID for side in total.shape)
    whole: Array = np.zeros((high, wide), np.float32)
    whole[:rows, :columns] = total
    folded: Array = whole.reshape(high // GRID, GRID, wide // GRID, GRID).sum((0, 2))
    return folded


def equalised(cells: Array) -> Array:
    """The details of a picture, as strong in flat parts as along edges."""
    fine = details(details(cells))
    return np.clip(fine / (np.sqrt(smooth(fine * fine, 2)) + NEAR), -1, 1)


def reading(cells: Array, alignments: int) -> Reading:
    """Read all bits, and bound the chance of finding such a mark in one of so many alignments."""
    values = np.einsum("sij,ij->s", signs(), cells) / max(float(np.linalg.norm(cells)), NOTHING)
    payload = Payload.from_bits((values[1:] > 0).astype(int).tolist())
    right = right_bits(payload)
    # The signs of the bits are independent of how the grid was found. Three ways of looking are tried.
    found_by_chance = min(1.0, alignments * exp(-(max(float(values[0]), 0.0) ** 2) / 2))
    rate = min(1.0, 3 * found_by_chance * chance(right))
    return Reading(
        watermark=Pattern.name,
        payload=payload,
        right=right,
        false_positive_rate=rate,
        bits_confidence=bits_confidence(values[1:]),
    )


def bits_confidence(values: Array) -> float:
    """The probability that all bits have the signs of their values, if the frames are marked.

    A value is the strength of the mark with the sign of its bit, and noise with a standard deviation of 1.
    The product's bits are known, so they tell the strength.
    """
    known = 2 * np.array(Payload(0).bits[:PRODUCT_BITS]) - 1
    strength = max(float(np.mean(known * values[:PRODUCT_BITS])), 0.0)
    return float(np.exp(-np.log1p(np.exp(-2 * strength * np.abs(values))).sum()))


def search(lumas: Sequence[Array], cell: float) -> tuple[float, int, int, int]:
    """Where the grid fits best: its scale, row and column of its first cell, and how many were tried."""
    spectrum = np.conj(np.fft.rfft2(signs()[0]))

    def fit(scale: float) -> tuple[float, float, int]:
        cells = read_cells(lumas, cell * scale)
        values = np.fft.irfft2(np.fft.rfft2(cells) * spectrum, cells.shape) / max(
            float(np.linalg.norm(cells)), NOTHING
        )
        return float(values.max()), scale, int(values.argmax())

    fits = [fit(scale) for scale in SCALES if cell * scale >= FINEST]
    for step in STEPS:
        around = max(fits)[1]
        fits += [fit(around * (1 + step * i)) for i in (-4, -3, -2, -1, 1, 2, 3, 4)]
    _value, scale, place = max(fits)
    return scale, *divmod(place, GRID), len(fits) * GRID * GRID


def details(cells: Array) -> Array:
    """Without what varies slowly: each cell less the mean of the 3 x 3 around it."""
    fine: Array = cells - smooth(cells, 1)
    return fine


def smooth(cells: Array, radius: int) -> Array:
    """The mean of each square of 2 * radius + 1 cells; cells at the border are repeated."""
    high, wide = cells.shape[-2:]
    padded = np.pad(cells, [(0, 0)] * (cells.ndim - 2) + [(radius, radius)] * 2, mode="edge")
    size = 2 * radius + 1
    across: Array = sum((padded[..., by : by + wide] for by in range(1, size)), padded[..., :wide])
    total: Array = sum((across[..., by : by + high, :] for by in range(1, size)), across[..., :high, :])
    return total / size**2


def interpolation(pixels: int, cell: float) -> Array:
    """Weights (pixels, GRID) of the cells in each pixel: Lanczos with two lobes; the grid repeats."""
    place = (np.arange(pixels) + 0.5) / cell - 0.5
    weights = np.zeros((pixels, GRID))
    first = np.floor(place).astype(int) - 1
    for nearest in range(4):
        distance = place - (first + nearest)
        lobe = np.where(np.abs(distance) < 2, np.sinc(distance) * np.sinc(distance / 2), 0)
        np.add.at(weights, (np.arange(pixels), (first + nearest) % GRID), lobe)
    return weights


def luma(frame: Frame) -> Array:
    """Brightness, float32 (height, width), from 0 to 255."""
    from PIL import Image

    return np.asarray(Image.fromarray(frame).convert("L"), np.float32)


def averages(picture: Array, cell: float) -> Array:
    """The mean of a picture in each cell, weighted by a triangle as wide as two cells."""
    from PIL import Image

    height, width = picture.shape
    size = max(1, int(width / cell)), max(1, int(height / cell))
    part = (0, 0, min(size[0] * cell, width), min(size[1] * cell, height))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR, part))


def enlarged(cells: Array, width: int, height: int) -> Array:
    """Values of cells, interpolated to (height, width)."""
    from PIL import Image

    return np.asarray(Image.fromarray(cells).resize((width, height), Image.Resampling.BILINEAR))
