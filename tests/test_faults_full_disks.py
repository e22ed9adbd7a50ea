"""Outputs on a disk that is full or cannot be written: one line, and older results stay."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from tempfile import gettempdir

import pytest

from . import shot_command
from .forks import fork
from .stopped_shots import result

inputs, animate = shot_command.inputs, shot_command.animate

# Bytes that a file can have: too few for a mark, a frame, the video, the contact sheet.
LIMITS = [0, 1, 300, 1000, 2000, 8000, 13_000, 40_000]


def in_a_child(prepare: Callable[[], object], call: Callable[[], int]) -> tuple[int, list[str]]:
    """The status of a call in a fork of this process, after `prepare`, and what it prints."""
    read, write = os.pipe()
    if not (process := fork()):
        try:
            prepare()
            with redirect_stderr(io.StringIO()) as errors, redirect_stdout(errors):
                status = call()
            os.write(write, json.dumps([status, errors.getvalue()]).encode())
        except BaseException:
            os.write(write, json.dumps([-1, traceback.format_exc()]).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(process, 0)
    with open(read, "rb") as file:
        status, text = json.loads(file.read())
    return status, text.splitlines()


def limited(num_bytes: int) -> Callable[[], None]:
    def prepare() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))

    return prepare


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("name", ["out.mp4", "frames"])
def test_files_that_cannot_grow(animate: Callable[..., int], tmp_path: Path, name: str) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    sheet = ["--progress", "none", "--contact-sheet", str(folder / "sheet.png")]
    for seed in ("1", "2"):  # the second time there is an older result
        make = partial(animate, f"out/{name}", *sheet, "--seed", seed)
        before = result(folder)
        for limit in LIMITS:
            status, (line, last) = in_a_child(limited(limit), make)
            assert status == 73
            assert line.startswith("animate-rt: cannot write ")
            assert last.startswith("animate_error code=output retryable=0 status=73")
            assert {n: c for n, c in result(folder).items() if not n.startswith(".")} == before, limit
        assert make() == 0
        assert not [path for path in result(folder) if path.startswith(".")]


def as_nobody() -> None:
    os.setgid(65534)
    os.setuid(65534)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become somebody else")
@pytest.mark.parametrize("name", ["out.mp4", "frames"])
def test_a_folder_of_somebody_else(
    animate: Callable[..., int], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished shot is found in it, beside what a killed process has left; others are refused."""
    for parent in (tmp_path, *tmp_path.parents):
        if Path(gettempdir()) in parent.parents:
            parent.chmod(0o755)
    folder = tmp_path / "out"
    folder.mkdir(mode=0o755)
    # Somebody else may not be able to read the environment: modules and versions are loaded before.
    monkeypatch.setattr(metadata, "version", cache(metadata.version))
    for _ in range(2):
        assert animate(f"out/{name}") == 0
    (folder / f".{name}.0.partial").touch()
    (folder / f".{name}.0123abcd.partial").mkdir()
    before = result(folder)
    make = partial(animate, f"out/{name}")
    status, (line, _output) = in_a_child(as_nobody, make)
    assert status == 0
    assert "is already done" in line
    for options in (["--force"], ["--seed", "9"]):
        status, (line, _last) = in_a_child(as_nobody, partial(make, "--progress", "none", *options))
        assert status == 73
        assert "is not writable; choose another folder" in line
    assert result(folder) == before
