"""JSON documents of strangers: parsed within bounds, their points as arrays, and what a reader returns."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....errors import InputError
from ....text import quoted
from ..following import Found

MAX_BYTES = 128 << 20  # of a JSON file: 10 minutes of whole bodies at 30 frames per second
MAX_MEMORY = 900_000_000  # bytes that a parsed document may take, by the estimate below
MAX_FRAMES = 100_000
MAX_PEOPLE = 64  # in one frame
MAX_POSES = 100_000  # in all frames
MAX_COORDINATE = 1_000_000  # pixels
MAX_SIDE = 32768  # pixels of a picture
RATE = re.compile(r"[0-9]{1,20}/[0-9]{1,20}")

Array = NDArray[np.float64]
Size = tuple[int, int]  # width and height in pixels


@dataclass(slots=True)
class Recording:
    """What a file says: the people of each frame, in the file's order and unit.

    size: of the pictures, in pixels. notes: what could not be used.
    """

    frames: list[list[Found]] = field(default_factory=list)
    size: Size | None = None
    frame_rate: Fraction | None = None
    notes: set[str] = field(default_factory=set)


def parse(content: bytes) -> Any:
    """Parse JSON of at most MAX_BYTES bytes. Raises InputError."""
    # In Python an object takes about 200 bytes, a list 60, and an element with its number or text 60.
    memory = 200 * content.count(b"{") + 60 * (content.count(b"[") + content.count(b","))
    if memory > MAX_MEMORY:
        raise InputError(
            f"expected a document that takes at most {MAX_MEMORY / 1e9:g} GB of memory, found one of about "
            f"{memory / 1e9:.1f} GB; split it into several files"
        )
    try:
        return json.loads(content)
    except RecursionError as error:
        raise InputError("expected JSON of keypoints, found lists or objects nested too deeply") from error
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError too
        reason = quoted(str(error)) if isinstance(error, json.JSONDecodeError) else "it is not text"
        raise InputError(f"expected JSON of keypoints, cannot read it: {reason}") from error


def points(value: Any, counts: Collection[int], where: str, scores: Any = None) -> Array | None:
    """The points of one person or part, (n, 3) of x, y and score, where n is one of `counts`.

    value: numbers in one list (x, y, score, x, y, score, ..., or without scores), or a list for each point.
    None or an empty list gives None. Points without scores have the score 1. Raises InputError.
    """
    if value is None or value == []:
        return None
    if not isinstance(value, list):
        raise InputError(f"{where}: expected a list of numbers, found {quoted(value)}")
    table = (
        rows(value, where) if isinstance(value[0], list) else columns(numbers(value, where), counts, where)
    )
    if len(table) not in counts or table.shape[1] not in (2, 3):
        wanted = " or ".join(map(str, sorted(counts)))
        raise InputError(
            f"{where}: expected {wanted} points of x, y and score, "
            f"found {len(table)} of {table.shape[1]} numbers"
        )
    if scores is not None:
        column = numbers(scores, f"{where}: scores")
        if len(column) != len(table):
            raise InputError(f"{where}: expected {len(table)} scores, found {len(column)}")
        table = np.column_stack([table[:, :2], column])
    return cleaned(table, where)


def columns(flat: Array, counts: Collection[int], where: str) -> Array:
    """Numbers in one list as rows of x, y and score; or of x and y, if that gives the right number."""
    for width in (3, 2):
        if len(flat) % width == 0 and len(flat) // width in counts:
            return flat.reshape(-1, width)
    wanted = " or ".join(str(3 * count) for count in sorted(counts))
    raise InputError(f"{where}: expected {wanted} numbers, found {len(flat)}")


def rows(value: list[Any], where: str) -> Array:
    """Lists of equal length as an array, (n, length)."""
    if not all(isinstance(row, list) and len(row) == len(value[0]) for row in value):
        raise InputError(f"{where}: expected lists of equal length, one for each point")
    return numbers(list(chain.from_iterable(value)), where).reshape(len(value), -1)


def numbers(value: Any, where: str) -> Array:
    """A list of numbers as an array. Raises InputError for anything else. NaN and infinity are kept."""
    if isinstance(value, list) and all(isinstance(row, list) and len(row) == 1 for row in value):
        value = [row[0] for row in value]  # (n, 1), as AlphaPose's arrays of scores are
    if not isinstance(value, list) or not set(map(type, value)) <= {int, float}:
        wrong = (
            next((x for x in value if type(x) not in (int, float)), value)
            if isinstance(value, list)
            else value
        )
        raise InputError(f"{where}: expected numbers, found {quoted(wrong)}")
    try:
        return np.array(value, np.float64)
    except OverflowError:
        raise InputError(f"{where}: expected numbers up to {MAX_COORDINATE}, found larger ones") from None


def cleaned(table: Array, where: str) -> Array:
    """(..., 2 or 3) as (..., 3) with missing points as zeros and scores of 0 to 1.

    A point is missing if its score is 0 or less, if it has NaN, or if it is at 0, 0, as OpenPose writes it,
    or at -1, -1, as DWPose does. Scores above 1, which some models give, become 1. Raises InputError for
    coordinates above MAX_COORDINATE.
    """
    full = np.ones((*table.shape[:-1], 3))
    full[..., : table.shape[-1]] = table
    x, y, score = full[..., 0], full[..., 1], full[..., 2]
    missing = np.isnan(full).any(axis=-1) | (score <= 0) | ((x == y) & ((x == 0) | (x == -1)))
    full[missing] = 0
    if np.abs(full[..., :2]).max(initial=0) > MAX_COORDINATE:
        raise InputError(
            f"{where}: expected coordinates up to {MAX_COORDINATE}, found {np.abs(full).max():g}"
        )
    np.minimum(score, 1, out=score)
    return full


def dictionary(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected an object, found {quoted(value)}")
    return value


def people_in(value: Any, where: str) -> list[Any]:
    """A list of at most MAX_PEOPLE people."""
    if not isinstance(value, list):
        raise InputError(f"{where}: expected a list of people, found {quoted(value)}")
    if len(value) > MAX_PEOPLE:
        raise InputError(f"{where}: expected at most {MAX_PEOPLE} people, found {len(value)}")
    return value


def picture_size(width: Any, height: Any, where: str) -> Size | None:
    """The size that a file states; None if it states none."""
    if width is None and height is None:
        return None
    for side in (width, height):
        if type(side) not in (int, float) or side != side or not 1 <= side <= MAX_SIDE or side != int(side):
            raise InputError(f"{where}: expected a width and height of 1 to {MAX_SIDE}, found {quoted(side)}")
    return int(width), int(height)


def one_size(sizes: set[Size], where: str) -> Size | None:
    """The size of all frames."""
    if len(sizes) > 1:
        (w, h), (w2, h2) = sorted(sizes)[:2]
        raise InputError(
            f"{where}: expected frames of one size, found {w}x{h} and {w2}x{h2}; use one file for each size"
        )
    return next(iter(sizes), None)


def rate_of(text: Any, where: str) -> Fraction | None:
    """Frames per second as we write them, such as 30000/1001."""
    if text is None:
        return None
    if isinstance(text, str) and RATE.fullmatch(text) and int(text.split("/")[1]):
        rate = Fraction(text)
        if Fraction(1, 1000) <= rate <= 1000:
            return rate
    raise InputError(f"{where}: expected a frame rate like 30000/1001, found {quoted(text)}")


def track_number(value: Any) -> int | None:
    """The number of a track: a number, or a list with one, as trackers write it. Negative means none."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if type(value) in (int, float) and 0 <= value < 2**53 and value == int(value):
        return int(value)
    return None
