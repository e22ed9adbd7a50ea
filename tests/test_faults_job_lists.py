"""Job lists from strangers: every line that cannot be used is one message, soon and with little memory."""

from __future__ import annotations

import json
import os
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from animate_rt.__main__ import main
from animate_rt.errors import InputError
from animate_rt.runtime.shots import job_list
from animate_rt.runtime.shots.job_list import OPTIONAL, OPTIONS, read_jobs

from .damage import thread_cpu_s
from .job_lists import job, write_job_inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bundle/, three references and pose/ of 8 pictures."""
    return write_job_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def messages(inputs: Path, tmp_path: Path) -> Callable[[bytes], list[str]]:
    """`messages(content)`: the errors of a job list, within bounds."""

    def read(content: bytes) -> list[str]:
        path = inputs / "jobs.jsonl"
        path.write_bytes(content)
        began = thread_cpu_s()
        try:
            shots, errors = read_jobs(path, tmp_path)
        except InputError as error:
            shots, errors = [], [str(error)]
        assert thread_cpu_s() - began < 10
        assert shots or errors
        for line in errors:
            assert line.isprintable()
            assert len(line) < 3000
        return errors

    return read


def lines(*jobs: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in jobs)


GOOD = lines(job("a"), job("b"))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_are_named(messages: Callable[[bytes], list[str]], encoding: str) -> None:
    (message,) = messages(GOOD.decode().encode(encoding))
    assert "UTF-8" in message
    assert ("UTF-16" in message) == (encoding in ("utf-16", "utf-32"))


def test_a_byte_order_mark_of_utf_8_is_accepted(messages: Callable[[bytes], list[str]]) -> None:
    assert messages(b"\xef\xbb\xbf" + GOOD) == []
    assert messages(GOOD.replace(b"\n", b"\r\n")) == []


@pytest.mark.parametrize("key", sorted({*OPTIONAL, *OPTIONS} - {"pose"}))
def test_null_is_the_default(inputs: Path, tmp_path: Path, key: str) -> None:
    """As programs write it that export a table with empty cells."""
    path, line = inputs / "jobs.jsonl", job("a")
    line.pop(key, None)
    found = []
    for extra in ({}, {key: None}):
        path.write_bytes(lines(line | extra))
        found += read_jobs(path, tmp_path)[0]
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", ["pipe", "device", "link to a device", "folder", "huge", "nothing"])
def test_what_is_no_list(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    path = Path("/dev/zero") if kind == "device" else tmp_path / "jobs.jsonl"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to a device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    for command in (["farm", str(path)], ["openjd", str(path)], ["shot", str(path), "a"]):
        assert main([*command, "--output", str(tmp_path / "out")]) == (66 if kind == "nothing" else 65)
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"animate-rt: {path}: ")


LIMITS = [
    (b"[" * 50_000, "nested too deeply"),
    (b'{"a":' * 10_000, "nested too deeply"),
    (b'{"name": ' + b"9" * 5000 + b"}", "a number is too long"),
    (b'{"name": "' + b"x" * 200_000 + b'"}', "at most 100000 bytes"),
    (b'{"name": "x', "cannot read it: Unterminated string"),
    (b'{"name": "\xe9"}', "byte 11 is not UTF-8"),
    (b"\x1b[2J", "cannot read it: Expecting value"),
    (lines(job("x" * 101)), "name: expected up to 100"),
    (lines(job("..")), "name: expected up to 100"),
    (lines(job("a\n")), "name: expected up to 100"),
    (lines(job("a", reference="x" * 5000)), "1 to 4000 characters"),
    (lines(job("a", pose="")), "found an empty text"),
    (lines(job("a", reference="pose")), "reference: expected a regular file"),
    (lines(job("a", initial_noise="/dev/zero")), "initial_noise: expected a regular file"),
    (lines(job("a") | {"pose": None}), "expected one of pose, driving, keypoints, guidance, found none"),
    (lines(job("a") | {"colour": None}), "unknown colour"),
    (b'{"name": "a", "name": "b", "bundle": "bundle"}', "expected each key once, found name twice"),
    (b'{"name": {"\x1b": 1, "\x1b": 2}}', "Invalid control character"),
    (b'{"name": {"\\u001b": 1, "\\u001b": 2}}', r"expected each key once, found \x1b twice"),
    (lines(job("B")), "B.mp4 is used by line 2"),  # some file systems ignore case
    (lines(job("INDEX.html", format="png")), "INDEX.html is used by the farm"),
    (lines(job("a", reference="x" * 3000)), "found no"),
    (lines(job("a", pose="x/" * 1500)), "found no"),
    (lines(job("a", pose="a\0b")), "found no"),
    (lines(job("a", pose="\ud800")), "found no"),
    (lines(job("a", pose="\x1b[2J")), r"\x1b[2J"),
    (lines(job("a", bundle="x" * 300)), "found no"),
    (lines(job("a", initial_noise="x" * 300)), "found no"),
    (lines(job("a", format="\x1b" * 99)), "format: expected mp4 or png"),
    (lines(job("a", fps="9" * 500)), "expected frames per second"),
    (lines(job("a", fps=10**300)), "expected frames per second"),
    (lines(job("a", fps=float("nan"))), "expected frames per second"),
    (lines(job("a", frames=10**300)), "frames: expected at least 1"),
    (lines(job("a", frames="9" * 5000)), "frames: expected at least 1"),
    (lines(job("a", frames=True)), "frames: expected int or str"),
    (lines(job("a", format="png", first_number=10**300)), "first number: expected"),
    (lines(job("a", bits=10**300)), "bits: expected 8"),
    (lines(job("a", **{"\x1b[2J" * 50: 1})), "unknown"),
    (lines(job("a", **{f"k{i}": 1 for i in range(5000)})), "unknown"),
    (lines(job("a", seed=10**4000)), "seed"),
    (lines(job("a", steps=list(range(9000)))), "steps"),
    (lines(job("a", steps=10**3000)), "steps"),
    (lines(job("a", windows="x" * 9999)), "windows"),
    (lines(job("a", guidance_scale=1e308)), "guidance_scale"),
    (lines({"name": ["a"] * 9000}), "missing bundle"),
    (lines(job("a", pose={"a": ["b"] * 9000})), "pose: expected str"),
]


@pytest.mark.parametrize(("line", "part"), LIMITS, ids=range(len(LIMITS)))
def test_limits(messages: Callable[[bytes], list[str]], line: bytes, part: str) -> None:
    (message,) = messages(GOOD.replace(b'"a"', b'"c"') + line)
    assert part in message
    assert "jobs.jsonl:3: " in message
    assert "sys.set_int_max_str_digits" not in message


def test_numbers_of_lines(messages: Callable[[bytes], list[str]]) -> None:
    tracemalloc.start()
    (message,) = messages(b"\n" * 10_000_000)
    assert tracemalloc.get_traced_memory()[1] < 500e6
    tracemalloc.stop()
    assert "at most 100000 lines, found 10000000" in message
    assert len(messages(b"x\n" * 99_000)) == job_list.MAX_ERRORS
    assert messages(b"".join(lines(job(f"n{i}")) for i in range(500))) == []


def test_any_document_is_read_or_refused(messages: Callable[[bytes], list[str]]) -> None:
    """600 lists: good ones with bytes changed, keys given other values, and random JSON."""
    chance = random.Random(0)
    values: list[Any] = [
        None,
        True,
        0,
        -1,
        1.5,
        10**20,
        1e300,
        float("inf"),
        "",
        "\0",
        "\ud800",
        "x" * 500,
        [],
        {},
    ]
    values += [
        [1, 2, 3],
        [[]],
        {"a": None},
        "25-72",
        "mp4",
        "time-skewed",
        [0, 1],
        ["a"],
        "../..",
        "/",
        "~",
        "-",
    ]
    keys = [*job("a"), "windows", "order", "frames", "fps", "bits", "format", "initial_noise", "first_number"]
    keys += ["guidance_scale", "guidance_interval", "seed", "overlap", "else", ""]
    refused = 0
    for number in range(600):
        if number % 2:
            content = bytearray(GOOD)
            for _ in range(chance.randrange(1, 5)):
                content[chance.randrange(len(content))] = chance.randrange(256)
        else:
            line = job("a") | {
                chance.choice(keys): chance.choice(values) for _ in range(chance.randrange(1, 4))
            }
            content = bytearray(lines(line))
        refused += bool(messages(bytes(content)))
    assert refused > 400
