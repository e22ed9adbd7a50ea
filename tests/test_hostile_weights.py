"""Weight files of strangers: what is not weights is named, and no file costs memory, time or a traceback."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import random
import shutil
import socket
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from animate_rt import CheckpointError
from animate_rt.export import load_checkpoint
from animate_rt.export.checkpoints.weights import read_weights
from safetensors.torch import save_file

from .checkpoints import State
from .damage import peak_bytes, reset_peak

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 3438374293\n"
TENSOR = torch.zeros(3)


@pytest.fixture
def folder(small: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small.checkpoint, tmp_path / "checkpoint"))


@pytest.fixture(scope="module")
def guider(small: Any) -> State:
    return dict(read_weights(small.checkpoint / "pose_guider.pth"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (POINTER, "it is a pointer of Git LFS of 135 bytes, not weights; git lfs pull, or download it"),
        (b"\n<!DOCTYPE html><html><head><title>Access to model is restricted", "it is a web page; download"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied", "it is a web page"),
        (b"Entry not found", r"it is text \(Entry not found\)"),
        (b'{"error": "\x1b[1mgated"}', r"it is text .*\\x1b"),
        (b"", "it is empty; download it again"),
        (bytes(100_000), "it is 100,000 zero bytes, a download that has not ended"),
        (b"\x1f\x8b\x08rest", "it is a gzip archive; unpack it"),
        (b"GGUF\x03\0\0\0rest", "it is a GGUF file"),
        (b"\xff\xfe\xfd", "it is damaged, or in a format that is not supported"),
        (b"PK\x03\x04", "it is damaged, or a download that has not ended"),
        (pickle.dumps({"a": 1}), "a pickle that torch.save did not write"),
    ],
)
@pytest.mark.parametrize("name", ["reference_unet.pth", "sd-vae-ft-mse/diffusion_pytorch_model.safetensors"])
def test_what_a_file_is_instead_of_weights(folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(folder)
    line = str(caught.value)
    assert line.startswith(str(folder / name))
    assert line.isprintable()


@pytest.mark.parametrize("name", ["denoising_unet.pth", "sd-vae-ft-mse/diffusion_pytorch_model.safetensors"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_half_downloads(folder: Path, name: str, share: float) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match="a download that has not ended; download it again"):
        load_checkpoint(folder)


def other_types(path: Path) -> list[tuple[str, Callable[[], Any]]]:
    return [
        ("a named pipe", lambda: os.mkfifo(path)),
        ("a device", lambda: path.symlink_to("/dev/zero")),
        ("a directory", path.mkdir),
        ("a socket", lambda: socket.socket(socket.AF_UNIX).bind(str(path))),
        ("a link to a file that is not there", lambda: path.symlink_to("nothing")),
        ("a link to a file that is not there", lambda: path.symlink_to(path)),
    ]


@pytest.mark.parametrize(
    "name", ["pose_guider.pth", "image_encoder/pytorch_model.bin", "image_encoder/config.json"]
)
@pytest.mark.parametrize("number", range(6))
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_files_of_other_types_are_never_opened(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    (folder / name).unlink()
    monkeypatch.chdir((folder / name).parent)  # names of sockets are short
    what, make = other_types(Path(Path(name).name))[number]
    make()
    with pytest.raises(CheckpointError, match=f"expected a file, found {what}"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (lambda: {1: TENSOR}, "names are text, found 1"),
        (lambda: {None: TENSOR}, "names are text, found None"),
        (lambda: {("a", "b"): TENSOR}, "found a tuple as the name"),
        (lambda: {b"conv_in.weight": TENSOR}, "found _codecs encode"),
        (lambda: {"a": TENSOR.to_sparse()}, "found torch._utils _rebuild_sparse_tensor"),
        (lambda: {"a": torch.empty(3, device="meta")}, "found torch._utils _rebuild_meta_tensor"),
        (
            lambda: {"a": torch.quantize_per_tensor(TENSOR, 0.1, 0, torch.qint8)},
            "found torch.*; save the state dict alone",
        ),
        (
            lambda: {"a": TENSOR, "args": argparse.Namespace(lr=1)},
            "found argparse Namespace in it.*save the state dict",
        ),
        (
            lambda: {"a": TENSOR, "best": np.float64(1.5)},
            r"found numpy\S* scalar in it.*save the state dict alone",
        ),
        (lambda: {"a": TENSOR, "b": bytearray(3)}, "found builtins bytearray|found __builtin__ bytearray"),
        (lambda: torch.nn.Linear(2, 2), r"found torch\.nn\S* Linear in it.*save the state dict alone"),
        (lambda: {"a": 3}, "names to tensors, found a"),
        (lambda: [TENSOR], "names to tensors, found list"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_what_else_people_save(tmp_path: Path, saved: Callable[[], Any], message: str) -> None:
    path = tmp_path / "file.pth"
    torch.save(saved(), path)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_weights(path)
    line = str(caught.value)
    assert line.isprintable()
    assert "weights_only" not in line
    assert "\x1b" not in line


def test_a_scalar_for_a_convolution(folder: Path, guider: State) -> None:
    torch.save(guider | {"conv_in.weight": torch.zeros(())}, folder / "pose_guider.pth")
    with pytest.raises(CheckpointError, match=r"1 of wrong shape: conv_in\.weight \[\]"):
        load_checkpoint(folder)


def stored_zip(path: Path, sizes: dict[str, int]) -> None:
    """An archive of entries of zeros as torch.save writes them, with holes: it takes no room on the disk."""
    directory = bytearray()
    with path.open("wb") as file:
        for name, size in sizes.items():
            start, encoded = file.tell(), name.encode()
            fields = struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 0, 0, size, size, len(encoded), 0)
            file.write(b"PK\x03\x04" + fields + encoded)
            directory += b"PK\x01\x02\x14\0" + fields + struct.pack("<HHHII", 0, 0, 0, 0, start) + encoded
            file.seek(size, os.SEEK_CUR)
        start = file.tell()
        file.write(directory + b"PK\x05\x06\0\0\0\0")
        file.write(struct.pack("<HHIIH", len(sizes), len(sizes), len(directory), start, 0))


def deflated(path: Path, size: int) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02]." + bytes(size))
        archive.writestr("archive/version", "3\n")


def hole(path: Path, head: bytes, size: int) -> None:
    path.write_bytes(head)
    os.truncate(path, size)


def pickled(path: Path, program: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + program)


def header(path: Path, text: bytes) -> None:
    path.write_bytes(len(text).to_bytes(8, "little") + text)


def old(path: Path) -> None:
    torch.save({"a": TENSOR}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert content.count(b"K\x03N") == 1
    path.write_bytes(content.replace(b"K\x03N", b"J\xff\xff\xff\x7fN"))


# A pair of pairs of pairs: as a key it takes 2**60 steps to hash.
PAIRS = b"}K\x01K\x01\x86" + b"".join(b"q%ch%ch%c\x86" % (n, n, n) for n in range(60)) + b"K\x01s."
# A list of pairs, and 500,000 mappings made of it.
COPIES = b"]q\0(" + b"K\x01K\x02\x86" * 100_000 + b"eccollections\nOrderedDict\nq\x01" + b"h\0\x85R"
COPIES += b"h\x01h\0\x85R" * 500_000 + b"."
BOMBS: dict[str, Callable[[Path], None]] = {
    "deflated.pth": lambda path: deflated(path, 200 << 20),
    "pickle.pth": lambda path: stored_zip(path, {"a/data.pkl": 3 << 30}),
    "byteorder.pth": lambda path: stored_zip(path, {"a/data.pkl": 9, "a/byteorder": 3 << 30}),
    "entries.pth": lambda path: stored_zip(path, {f"a/data/{n:0100}": 0 for n in range(60_000)}),
    "zeros.pth": lambda path: hole(path, b"", 50 << 30),
    "tail.pth": lambda path: hole(path, b"PK\x03\x04", 50 << 30),
    "lists.pth": lambda path: pickled(path, b"]" * 4_000_000 + b"."),
    "array.pth": lambda path: pickled(path, b"cbuiltins\nbytearray\n\x8a\x05\0\0\0\0\x02\x85R."),
    "pairs.pth": lambda path: pickled(path, PAIRS),
    "copies.pth": lambda path: pickled(path, COPIES),
    "expanded.pth": lambda path: torch.save({"a": torch.zeros(1).expand(1 << 20, 1 << 20)}, path),
    "old.pth": old,
    "old-hole.pth": lambda path: hole(path, b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", 50 << 30),
    "long.safetensors": lambda path: hole(path, (1 << 60).to_bytes(8, "little") + b"{", 50 << 30),
    "header.safetensors": lambda path: hole(path, (90 << 20).to_bytes(8, "little") + b"{", 100 << 20),
    "deep.safetensors": lambda path: header(path, b'{"a":' + b"[" * 3_000_000),
    "shape.safetensors": lambda path: header(
        path, b'{"a":{"dtype":"F32","shape":[99999999,99999999],"data_offsets":[0,4]}}    '
    ),
}
LIMITED = """
import resource, sys, time
from pathlib import Path
from animate_rt import CheckpointError
from animate_rt.export.checkpoints.weights import read_weights
resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, 2 << 30))
for path in sorted(Path(sys.argv[1]).iterdir()):
    began = time.process_time()
    try:
        read_weights(path)
    except CheckpointError as error:
        print(f"{path.name}\\t{time.process_time() - began:.2f}\\t{error}")
"""


def test_bombs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Small files that stand for much: each is refused within 2 GB of memory and 10 s."""
    for name, make in BOMBS.items():
        make(tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path], capture_output=True, text=True, check=True
    )
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert {name for name, *_ in rows} == BOMBS.keys(), done
    with capsys.disabled():
        for name, seconds, message in rows:
            print(f"\n{name:20} {seconds} s  {message.partition(': ')[2][:90]}", end="")
    assert max(float(seconds) for _, seconds, _ in rows) < 10
    assert all(len(message) < 500 for *_, message in rows)
    assert done.stderr == ""


def damage(content: bytes, random_: random.Random, described: list[tuple[int, int]]) -> bytes:
    """Change bytes that describe tensors: all others are weights of any value."""
    found = bytearray(content)
    for _ in range(random_.randint(1, 6)):
        at = random_.randrange(*random_.choice(described)) % len(found)
        how, count = random_.randrange(4), random_.randint(1, 20)
        if how == 0:
            found[at] = random_.randrange(256)
        elif how == 1:
            del found[at : at + count]
        elif how == 2:
            found[at:at] = random_.randbytes(count)
        else:
            found[at : at + 8] = b"\xff" * 8
    return bytes(found[: random_.randrange(len(found))] if random_.random() < 0.1 else found)


def test_500_damaged_files(guider: State, tmp_path: Path) -> None:
    """Each is read or refused in one line."""
    random_, kinds, buffer = random.Random(0), {}, io.BytesIO()
    for old_format in (False, True):
        torch.save(guider, buffer := io.BytesIO(), _use_new_zipfile_serialization=not old_format)
        kinds[old_format] = buffer.getvalue()
    save_file(guider, tmp_path / "file")
    kinds["safetensors"] = (tmp_path / "file").read_bytes()
    before, messages = reset_peak(), []
    for number in range(500):
        content = random_.choice(list(kinds.values()))
        ends = [(0, 4000), (len(content) - 4000, len(content))]
        (tmp_path / "file").write_bytes(damage(content, random_, ends))
        try:
            weights = read_weights(tmp_path / "file")
            assert all(isinstance(float(tensor.sum()), float) for tensor in weights.values()), number
        except CheckpointError as error:
            messages.append(str(error))
    assert len(messages) > 350
    assert all(message.isprintable() and len(message) < 1000 for message in messages)
    assert peak_bytes() - before < 1 << 30
