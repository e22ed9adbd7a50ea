"""Which files an ONNX file takes its weights from, also one that was made to hide it."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from animate_rt import BundleCorrupt, BundleMismatch
from animate_rt.engines.bundle import open_bundle
from animate_rt.engines.files import hashed
from animate_rt.engines.graph_file import MAX_GRAPH, weight_files
from google.protobuf.message import DecodeError

from .damage import thread_cpu_s
from .manifests import edit_manifest

GRAPH, OTHER = "time_embedding", "other.bin"
MUTATIONS = 2000


@pytest.fixture(scope="module")
def model(small_bundle: Path) -> bytes:
    return (small_bundle / "graphs" / f"{GRAPH}.onnx").read_bytes()


def list_file(path: Path, name: str, num_bytes: int, sha256: str = "0" * 64) -> None:
    """Write the size and digest of a file into a bundle's manifest, as anyone can."""
    file = {"sha256": sha256, "num_bytes": num_bytes}
    edit_manifest(path, lambda document: document["files"].update({name: file}))


def tensors(message: Any) -> Iterator[Any]:
    """Every TensorProto in a message of the package onnx."""
    if isinstance(message, onnx.TensorProto):
        yield message
    for field, value in message.ListFields():
        if field.message_type:
            for part in value if hasattr(value, "__len__") else [value]:
                yield from tensors(part)


def named_by_onnx(content: bytes) -> set[bytes]:
    """Files that a model takes weights from, as the package onnx reads it. Raises DecodeError."""
    entries = [entry for t in tensors(onnx.load_from_string(content)) for entry in t.external_data]
    names = {entry.value for entry in entries if entry.key == "location"}
    return {name if isinstance(name, bytes) else name.encode() for name in names}


def length(size: int) -> bytes:
    """A length as protobuf writes it."""
    low, rest = size & 127, size >> 7
    return bytes([low | 128]) + length(rest) if rest else bytes([low])


def field(number: int, content: bytes) -> bytes:
    return length(number << 3 | 2) + length(len(content)) + content


def with_entry(content: bytes, entry: bytes) -> bytes:
    """A model with one more tensor, whose external data is this entry. Messages of a file are merged."""
    return content + field(7, field(5, field(8, b"x") + field(13, entry)))


LOCATION = field(1, b"location") + field(2, b"weights.bin")
HIDDEN = {
    "a second value": LOCATION + field(2, OTHER.encode()),
    "a second value after the bytes of a whole entry": field(15, b"j\x17")
    + LOCATION
    + field(2, b"other.bin"),
    "the value first": field(2, OTHER.encode()) + field(1, b"location"),
    "a long form of a length": b"\x0a\x88\x00location" + field(2, OTHER.encode()),
    "a long form of a tag": b"\x8a\x00\x08location" + field(2, OTHER.encode()),
    "no value": field(1, b"location"),
    "an address in memory": field(1, b"location") + field(2, b"*/_ORT_MEM_ADDR_/*"),
    "a name outside": field(1, b"location") + field(2, b"../weights.bin"),
    "another spelling": field(1, b"location") + field(2, b"./weights.bin"),
}


@pytest.mark.parametrize("hidden", HIDDEN)
def test_weights_of_another_file_are_found_and_refused(copied: Path, model: bytes, hidden: str) -> None:
    content = with_entry(model, HIDDEN[hidden])
    assert weight_files(content) == named_by_onnx(content) != {b"weights.bin"}
    (copied / "graphs" / f"{GRAPH}.onnx").write_bytes(content)
    found = hashed(copied / "graphs" / f"{GRAPH}.onnx").file
    list_file(copied, f"graphs/{GRAPH}.onnx", found.num_bytes, found.sha256)
    with pytest.raises(BundleCorrupt, match=r"expected all weights in weights\.bin, found"):
        open_bundle(copied)


def test_weights_in_every_place_of_a_model() -> None:
    """Initializers, attributes, nested graphs, sparse tensors, functions and training."""
    tensor = field(13, field(1, b"location") + field(2, OTHER.encode()))
    sparse = field(1, tensor)
    attributes = [field(5, tensor), field(10, tensor), field(22, sparse), field(23, field(2, tensor))]
    graphs = [field(5, tensor), field(15, sparse), *(field(1, field(5, a)) for a in attributes)]
    graphs += [field(1, field(5, field(number, graph))) for graph in list(graphs) for number in (6, 11)]
    models = [field(7, graph) for graph in graphs]
    models += [field(25, field(7, field(5, attributes[0]))), field(25, field(11, attributes[0]))]
    models += [field(20, field(1, graphs[0])), field(20, field(2, graphs[0]))]
    for model in models:
        assert weight_files(model) == {OTHER.encode()} == named_by_onnx(model)


def test_what_is_read_is_what_onnx_reads(model: bytes) -> None:
    """Of files with changed bytes: if onnx can read one, it names the same files, or it is refused."""
    chance, places = random.Random(0), [i for i in range(len(model)) if model[i : i + 8] == b"location"]
    compared = 0
    for _ in range(MUTATIONS):
        content = bytearray(model)
        for _ in range(chance.choice((1, 1, 2, 5))):
            at = chance.choice(places) + chance.randrange(-6, 30)
            content[at] = chance.choice((0, 1, 8, 10, 18, 11, 127, 128, chance.randrange(256)))
        try:
            expected = named_by_onnx(bytes(content))
            found = weight_files(bytes(content))
        except (DecodeError, ValueError):
            continue
        compared += 1
        assert found == expected
    assert compared > MUTATIONS / 4


def nested(levels: int) -> bytes:
    graph = field(5, field(13, LOCATION))
    for _ in range(levels):
        graph = field(1, field(5, field(6, graph)))
    return field(7, graph)


@pytest.mark.parametrize(
    "content",
    [
        b"\x08\x00" * (MAX_GRAPH // 2),
        b"\x3a\x00" * (MAX_GRAPH // 32),
        nested(1000),
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x3a" + b"\xff" * 20,
        b"\x3b\x3c",
        b"\x3d\0",
        b"not a graph",
    ],
    ids=["numbers", "graphs", "levels", "long", "endless", "groups", "short", "text"],
)
def test_what_is_no_graph_is_refused_soon(content: bytes) -> None:
    began = thread_cpu_s()
    with pytest.raises(ValueError, match=r"\w"):
        weight_files(content)
    assert thread_cpu_s() - began < 5


@pytest.mark.parametrize(
    ("name", "size"), [("graphs/weights.bin", 40 << 30), (f"graphs/{GRAPH}.onnx", 1 << 30)]
)
def test_files_too_large_are_refused_before_they_are_hashed(copied: Path, name: str, size: int) -> None:
    """Holes take no room on a disk, but hashing them takes time."""
    os.truncate(copied / name, size)
    list_file(copied, name, size)
    began = thread_cpu_s()
    with pytest.raises(BundleMismatch, match=r"expected at most 34,359,738,368 bytes"):
        open_bundle(copied)
    assert thread_cpu_s() - began < 5
