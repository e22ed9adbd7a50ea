"""Where an ONNX file takes its weights from, read from the file without the package onnx.

An ONNX file is a protobuf message: fields, each with a number, a type and a value. A value may be a message
too. Only the fields that lead to tensors are followed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..errors import BundleCorrupt
from ..text import escaped, quoted
from .files import read_bytes

MAX_GRAPH = 1 << 28  # bytes of an ONNX file without its weights
MAX_DEPTH, MAX_FIELDS = 16, 500_000  # of its messages; ours are nested 5 deep
WEIGHTS = "weights.bin"
# The fields of each kind of message in which there are tensors, by number, and the kind of message they hold.
LEADING = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        6: "graph",
        10: "tensor",
        11: "graph",
        22: "sparse tensor",
        23: "sparse tensor",
    },
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external data"},
}
KEY, VALUE = 1, 2  # fields of external data
LOCATION = b"location"  # the key whose value is the name of a file
VARINT, LONG = 0, 2  # types of values: a number of any length; bytes after their number
FIXED = {1: 8, 5: 4}  # and the bytes of those that have a fixed length


class Field(NamedTuple):
    """A field: its number, and where its value is."""

    number: int
    start: int
    end: int


def check_weight_files(graph: Path) -> None:
    """Raise BundleCorrupt if an ONNX file takes weights from another file than weights.bin."""
    shown = escaped(str(graph))
    try:
        others = weight_files(read_bytes(graph, MAX_GRAPH)) - {WEIGHTS.encode()}
    except OSError as error:
        raise BundleCorrupt(f"{shown}: cannot read it: {error.strerror}") from error
    except ValueError as error:
        raise BundleCorrupt(
            f"{shown}: expected an ONNX file, found a damaged one; build the bundle again"
        ) from error
    if others:
        raise BundleCorrupt(
            f"{shown}: expected all weights in {WEIGHTS}, found "
            f"{quoted(others.pop().decode(errors='backslashreplace'))}; build the bundle again"
        )


def weight_files(content: bytes) -> set[bytes]:
    """Names of all files that an ONNX file takes weights from. Raises ValueError if it is damaged."""
    names: set[bytes] = set()
    waiting, seen = [("model", 0, len(content), 0)], 0
    while waiting:
        kind, start, end, depth = waiting.pop()
        values = {}
        for field in fields(content, start, end):
            seen += 1
            if seen > MAX_FIELDS or depth > MAX_DEPTH:
                raise ValueError("more fields or levels than a graph has")
            if kind == "external data":  # where a field occurs twice, the last one counts
                values[field.number] = content[field.start : field.end]
            elif field.number in LEADING[kind] and content.find(LOCATION, field.start, field.end) >= 0:
                waiting.append((LEADING[kind][field.number], field.start, field.end, depth + 1))
        if values.get(KEY) == LOCATION:
            names.add(values.get(VALUE, b""))
    return names


def fields(content: bytes, at: int, end: int) -> Iterator[Field]:
    """The fields of a message from `at` to `end`. Raises ValueError."""
    while at < end:
        tag, start = varint(content, at, end)
        if (kind := tag & 7) == VARINT:
            _, at = varint(content, start, end)
        elif kind == LONG:
            length, start = varint(content, start, end)
            at = start + length
        elif kind in FIXED:
            at = start + FIXED[kind]
        else:
            raise ValueError(f"a value of type {kind}")
        if at > end:
            raise ValueError("a value that does not end")
        yield Field(tag >> 3, start, at)


def varint(content: bytes, at: int, end: int) -> tuple[int, int]:
    """A whole number of up to ten bytes with seven bits each, and the place after it."""
    number = 0
    for place in range(at, min(at + 10, end)):
        number |= (content[place] & 0x7F) << 7 * (place - at)
        if content[place] < 0x80:
            return number, place + 1
    raise ValueError("a number that does not end")
