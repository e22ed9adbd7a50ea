"""Damaged sidecars are healed, and files of others with the name of a sidecar are not replaced."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from animate_rt.runtime.shots.making import make
from animate_rt.runtime.shots.shot import is_done

from . import shot_command
from .fixed_cost import example, open_animator
from .shot_command import names
from .slow import SLOW
from .stopped_shots import make_until

inputs, animate = shot_command.inputs, shot_command.animate


def pngs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def damages(content: bytes) -> list[bytes]:
    """What may be found instead of a sidecar; the same every time."""
    chance = random.Random(0)
    cuts = [content[: chance.randrange(len(content))] for _ in range(40)]
    flips = []
    for _ in range(40):
        flipped = bytearray(content)
        flipped[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        flips.append(bytes(flipped))
    document = json.loads(content)
    values: list[Any] = [None, 7, -1, 1.5, True, "text", [], {}, [1], {"a": 1}, [[]], 10**400]
    wrong = [json.dumps(document | {key: value}).encode() for key in document for value in values]
    fewer = [json.dumps({k: v for k, v in document.items() if k != key}).encode() for key in document]
    names = [
        json.dumps(document | {"files": {name: "0" * 64}}).encode() for name in ("../x", "/x", "", ".", "a\0")
    ]
    nested = [b"[" * 10**5, b'{"files":' * 10**5, b'{"digest": ' + b"[" * 10**5]
    others = [b"", b"{", b"{}", b"[]", b"null", b"0", b'"x"', b"\xff" * 100, bytes(1000), os.urandom(500)]
    return [*cuts, *flips, *wrong, *fewer, *names, *nested, *others]


@pytest.mark.parametrize("name", ["out.mp4", "frames"])
@pytest.mark.parametrize("share", [4, pytest.param(1, marks=SLOW)])
def test_a_damaged_sidecar_is_healed(inputs: Path, tmp_path: Path, name: str, share: int) -> None:
    """By default one in four of the damages."""
    shot = example(inputs, tmp_path / name, steps=1, frames="2")
    with open_animator(shot.bundle) as animator:
        make(shot, animator)
        content = shot.output.sidecar.read_bytes()
        result = shot.output.path.read_bytes() if shot.output.video else pngs(shot.output.path)
        found = damages(content)[::share]
        assert len(found) > 100 / share
        for damaged in found:
            shot.output.sidecar.write_bytes(damaged)
            again = example(inputs, tmp_path / name, steps=1, frames="2")  # which looks at what is there
            make(again, animator)
            assert is_done(again, again.digest()), damaged[:100]
            assert shot.output.sidecar.read_bytes() == content
            assert result == (shot.output.path.read_bytes() if shot.output.video else pngs(shot.output.path))


FOREIGN = [
    b'{"keypoints": [1, 2]}',
    b"[1, 2, 3]",
    b'{"name": "hero"}\n',
    b"# a text\n",
    b"\x89PNG...",
    b'{"a": 1',
]


@pytest.mark.parametrize("name", ["out.mp4", "frames"])
@pytest.mark.parametrize("content", FOREIGN)
def test_a_file_with_the_name_of_a_sidecar_is_not_replaced(
    animate: Callable[..., int], tmp_path: Path, name: str, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / f"{name}.json").write_bytes(content)
    assert animate(name) == 73
    assert "is no sidecar of an earlier result" in capsys.readouterr().err
    assert (tmp_path / f"{name}.json").read_bytes() == content
    assert names(tmp_path) == [f"{name}.json"]


@pytest.mark.parametrize("kind", ["folder", "pipe", "broken link"])
def test_a_sidecar_that_is_no_file(
    animate: Callable[..., int], tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sidecar = tmp_path / "out.mp4.json"
    {
        "folder": sidecar.mkdir,
        "pipe": lambda: os.mkfifo(sidecar),
        "broken link": lambda: sidecar.symlink_to("x"),
    }[kind]()
    assert animate("out.mp4") == 73
    assert "out.mp4.json exists" in capsys.readouterr().err


def test_a_large_sidecar_is_not_read(inputs: Path, tmp_path: Path) -> None:
    shot = example(inputs, tmp_path / "out.mp4", steps=1)
    shot.output.path.touch()
    with shot.output.sidecar.open("wb") as file:
        file.write(b'{\n "digest": "')
        file.truncate(1 << 40)
    assert make_until(example(inputs, tmp_path / "out.mp4", steps=1), 10**9)
    assert shot.output.sidecar.stat().st_size < 1000
