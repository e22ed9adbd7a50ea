"""Descriptions of tensors that lie: headers of safetensors and pickles of torch.save."""

from __future__ import annotations

import pickletools
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from animate_rt import CheckpointError
from animate_rt.export.checkpoints.pickles import NAMES
from animate_rt.export.checkpoints.weights import MAX_TENSORS, read_weights
from safetensors import SafetensorError
from safetensors.torch import load, save

from .damage import thread_cpu_s

PROGRAMS = 3000
HEADERS = 1000


def with_header(header: str, num_bytes: int) -> bytes:
    return len(header).to_bytes(8, "little") + header.encode() + bytes(num_bytes)


def entry(shape: str = "[1]", offsets: str = "[0, 4]", dtype: str = '"F32"') -> str:
    return f'{{"dtype": {dtype}, "shape": {shape}, "data_offsets": {offsets}}}'


def one(shape: str = "[1]", offsets: str = "[0, 4]", dtype: str = '"F32"', num_bytes: int = 4) -> bytes:
    return with_header(f'{{"a": {entry(shape, offsets, dtype)}}}', num_bytes)


LIES = {
    "fractions": one(offsets="[0.0, 4.0]"),
    "truth values": one(offsets="[false, 4]"),
    "a size of text": one(shape='["xxxxxxxxxxxxxxxx", 999999999]'),
    "a size of lists": one(shape="[[1, 2, 3], 500000000]"),
    "sizes as text": one(shape='"1"'),
    "sizes of thousands of digits": one(shape=f"[{','.join(['9' * 4290] * 900)}]"),
    "negative sizes": one(shape="[-1, -1]"),
    "negative offsets": one(offsets="[-8, -4]", num_bytes=8),
    "offsets beyond 64 bits": one(offsets="[18446744073709551616, 18446744073709551620]"),
    "offsets of infinity": one(shape="[NaN]", offsets="[0, Infinity]"),
    "three offsets": one(offsets="[0, 4, 8]"),
    "a number as type": one(dtype="7"),
    "a list as type": one(dtype='["F32"]'),
    "tensors that overlap": with_header(
        f'{{"a": {entry("[2]", "[0, 8]")}, "b": {entry("[2]", "[4, 12]")}}}', 12
    ),
    "a gap": one(offsets="[4, 8]", num_bytes=8),
    "bytes after the last tensor": one(num_bytes=8),
    "too few bytes": one(num_bytes=3),
    "a name twice": with_header(f'{{"a": {entry()}, "a": {entry(offsets="[4, 8]")}}}', 8),
    "a list": with_header("[1]" + " " * 9, 0).replace(b"[1]", b"{1]"),
    "entries of lists": with_header('{"a": [1, 2]}', 8),
    "entries of texts": with_header('{"a": "F32"}', 8),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_refused(tmp_path: Path, lie: str) -> None:
    with pytest.raises(SafetensorError):
        load(LIES[lie])
    (tmp_path / "file.safetensors").write_bytes(LIES[lie])
    began = thread_cpu_s()
    with pytest.raises(CheckpointError, match="expected weights saved by torch or safetensors"):
        read_weights(tmp_path / "file.safetensors")
    assert thread_cpu_s() - began < 2


def test_headers_that_safetensors_accepts_are_accepted(tmp_path: Path) -> None:
    """And those that it refuses are refused: 1,000 headers with another number, or two entries exchanged."""
    chance, path = random.Random(0), tmp_path / "file.safetensors"
    content = save({"a": torch.zeros(2, 3), "b": torch.zeros(0), "c": torch.zeros(()), "d": torch.ones(4)})
    length = int.from_bytes(content[:8], "little")
    digits = [i for i in range(8, 8 + length) if chr(content[i]).isdigit()]
    outcomes = {True: 0, False: 0}
    for _ in range(HEADERS):
        changed = bytearray(content)
        for _ in range(chance.choice((1, 1, 2, 3))):
            changed[chance.choice(digits)] = ord(chance.choice("0123456789-.e"))
        path.write_bytes(changed)
        try:
            expected = load(bytes(changed))
        except (SafetensorError, ValueError, KeyError):
            expected = None
        try:
            found = read_weights(path)
        except CheckpointError:
            found = None
        outcomes[expected is not None] += 1
        assert (found is None) == (expected is None), changed[8 : 8 + length]
        if found is not None and expected is not None:
            assert {key: value.shape for key, value in found.items()} == {
                k: v.shape for k, v in expected.items()
            }
    assert min(outcomes.values()) > 10


TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\n"
    b"X\x01\0\0\x000X\x03\0\0\0cpuK\x03tQK\0K\x03\x85K\x01\x85\x89}tR"
)
STATE = b"}(X\x01\0\0\0a" + TENSOR + b"X\x01\0\0\0b" + TENSOR + b"u"


def archive(path: Path, program: bytes) -> Path:
    """A file of torch.save with one storage of three numbers, and this pickle."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", b"\x80\x02" + program + b".")
        file.writestr("a/data/0", bytes(12))
    return path


def text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def test_a_list_that_many_names_share_is_looked_through_once(tmp_path: Path) -> None:
    shared = text("list") + b"]q\0(" + b"N" * 400_000 + b"e"
    names = b"".join(text(f"{number:06}") + b"h\0" for number in range(150_000))
    began = thread_cpu_s()
    assert read_weights(
        archive(tmp_path / "a.pth", b"}(X\x01\0\0\0a" + TENSOR + shared + names + b"u")
    ).keys() == {"a"}
    mappings = b"".join(text(f"{number:06}") + b"}" + text("p") + b"h\0s" for number in range(100_000))
    with pytest.raises(CheckpointError, match=r"found list, 000000, .* more"):
        read_weights(archive(tmp_path / "b.pth", b"}(" + shared + mappings + b"u"))
    assert thread_cpu_s() - began < 10


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"N" + b"\x85" * 3_000_000, "more than 1,000,000 values"),
        (b"}" * 3_000_000, "more than 1,000,000 values"),
        (
            b"}("
            + TENSOR.join([text("a"), b"q\0"])
            + b"".join(text(str(n)) + b"h\0" for n in range(MAX_TENSORS))
            + b"u",
            "expected at most 20,000 tensors for one network, found 20,001",
        ),
    ],
    ids=["levels", "mappings", "tensors"],
)
def test_descriptions_of_far_more_than_weights(tmp_path: Path, program: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_weights(archive(tmp_path / "file.pth", program))


def test_an_archive_with_two_pickles_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "file.pth", STATE)
    assert read_weights(path).keys() == {"a", "b"}
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("b/data.pkl", b"\x80\x02}.")
    with pytest.raises(CheckpointError, match="it is damaged"):
        read_weights(path)


ARGUMENTS: dict[str, tuple[bytes, ...]] = {
    "uint1": (b"\0", b"\1", b"\xff"),
    "uint2": (b"\0\0", b"\xff\xff"),
    "int4": (b"\1\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f"),
    "uint4": (b"\1\0\0\0", b"\xff\xff\xff\xff"),
    "uint8": (b"\1" + bytes(7), b"\xff" * 8),
    "float8": (bytes(8), b"\x7f\xf0" + bytes(6), b"\x7f\xf8" + bytes(6)),
    "stringnl": (b"'a'\n", b"'\\xff'\n", b"'\n", b"'\\q'\n"),
    "stringnl_noescape": (b"0\n", b"\n"),
    "stringnl_noescape_pair": (
        *(name.replace(" ", "\n").encode() + b"\n" for name in NAMES),
        *(b"os\nsystem\n", b"builtins\neval\n", b"builtins\nbytearray\n"),
    ),
    "unicodestringnl": (b"a\n", b"\\ud800\n", b"\\u\n"),
    "decimalnl_short": (b"1\n", b"00\n", b"9" * 5000 + b"\n", b"x\n"),
    "decimalnl_long": (b"1L\n", b"9" * 5000 + b"L\n", b"x\n"),
    "floatnl": (b"1.5\n", b"1e999\n", b"x\n"),
}
TEXTS = (
    b"",
    b"a",
    b"0",
    b"cpu",
    b"storage",
    b"torch._utils",
    b"_rebuild_tensor_v2",
    b"\xff\xfe",
    b"\xed\xa0\x80",
)
LENGTHS = {"1": 1, "4": 4, "8": 8}


def instruction(opcode: Any, chance: random.Random) -> bytes:
    """One instruction of a pickle, with an argument of its kind, mostly a valid one."""
    code = bytes([ord(opcode.code)])
    if opcode.arg is None:
        return code
    if opcode.arg.name in ARGUMENTS:
        return code + chance.choice(ARGUMENTS[opcode.arg.name])
    size, content = LENGTHS[opcode.arg.name[-1]], chance.choice(TEXTS)
    number = len(content) if chance.random() < 0.9 else chance.choice((2**31 - 1, 2**62, 2**64 - 1))
    return code + (number % 256**size).to_bytes(size, "little") + content


def test_pickles_of_every_instruction(tmp_path: Path) -> None:
    """Random programs, and the pickle of a state dict with instructions put in or left out."""
    chance, read, messages = random.Random(0), 0, []
    opcodes = [opcode for opcode in pickletools.opcodes if opcode.name != "STOP"]
    starts = [start for _, _, start in pickletools.genops(STATE + b".")]
    tried = set()
    for _ in range(PROGRAMS):
        chosen = chance.choices(opcodes, k=chance.choice((1, 2, 4, 30)))
        tried |= {opcode.name for opcode in chosen}
        program = b"".join(instruction(opcode, chance) for opcode in chosen)
        if chance.random() < 0.6:
            start = chance.choice(starts)
            program = (
                STATE[:start] + program + STATE[chance.choice(starts) if chance.random() < 0.3 else start :]
            )
        try:
            weights = read_weights(archive(tmp_path / "file.pth", program))
            read += 1
            assert all(tensor.isfinite().all() for tensor in weights.values())
        except CheckpointError as error:
            messages.append(str(error))
    assert all(message.isprintable() and len(message) < 1000 for message in messages)
    assert len(tried) == len(opcodes)
    assert read > 20


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_protocols_of_pickles(tmp_path: Path, protocol: int) -> None:
    state = {
        "a": torch.arange(6.0).reshape(2, 3),
        "b": torch.nn.Parameter(torch.ones(2)),
        "long" * 99: torch.ones(1),
    }
    torch.save({"state_dict": state, "epoch": 3, "lr": 1e-5}, tmp_path / "file.pth", pickle_protocol=protocol)
    found = read_weights(tmp_path / "file.pth")
    assert found.keys() == state.keys()
    assert all(found[key].equal(value) for key, value in state.items())


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize(
    "write", [lambda state, path: torch.save(state, path), lambda state, path: path.write_bytes(save(state))]
)
def test_numbers_of_one_byte(tmp_path: Path, dtype: torch.dtype, write: Callable[..., Any]) -> None:
    tensor = torch.arange(6.0).reshape(2, 3).to(dtype)
    write({"a": tensor, "b": tensor[1].clone()}, tmp_path / "file")
    found = read_weights(tmp_path / "file")
    assert found["a"].dtype == dtype
    assert found["a"].float().equal(tensor.float())
    assert found["b"].float().equal(tensor[1].float())
