"""Names and messages of any content never break a line that is printed, and reach a terminal escaped."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from animate_rt import console
from animate_rt.console import ProgressBar, SignalGuard, complain, failure_of
from animate_rt.errors import InputError, InputMissing
from animate_rt.runtime.clip.progress import Progress
from animate_rt.runtime.shots.monitor import Monitor
from animate_rt.runtime.shots.status import StatusLines
from animate_rt.text import LINE_LIMIT, encodable, field, one_line, quoted, shortened
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from . import shot_command
from .damage import thread_cpu_s
from .shot_command import names

inputs, animate = shot_command.inputs, shot_command.animate

NASTY = [
    "my clip 2",
    "",
    " ",
    "a\nanimate_error code=none retryable=0 status=0 shot=b",
    "a\nopenjd_progress: 100.0",
    "\x1b[2J\x1b]0;title\x07",
    "\x9b31m",
    "a\rb",
    "a\u2028b\u2029c\x85d\x0be",
    "\u202egnp.exe",
    "\ud800",
    "\udcff\udc80",
    'say "hi" \\ end',
    "a=b shot=c",
    "\0",
    "\ufeffname",
    "größe 東京 🎬",
    "x" * 10_000,
    "\x1b" * 5000,
]
TEXTS = st.one_of(
    st.sampled_from(NASTY),
    st.text(st.characters(), max_size=200),  # surrogates, too
    st.text(st.sampled_from("a=\" \\\n\r\t\x1b\x07\u2028\u202e\udc80{}$`'"), max_size=30),
    st.binary(max_size=100).map(os.fsdecode),
)
many = settings(
    max_examples=500,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
ERROR = re.compile(
    r"animate_error code=([a-z_]+) retryable=([01]) status=([0-9]+) "
    r'shot=([A-Za-z0-9_./+-]+|"(?:[^"\\]|\\.)*")'
)


def assert_safe(line: str, limit: int = LINE_LIMIT) -> None:
    assert line.isprintable()
    assert len(line) <= limit
    line.encode()


@many
@given(TEXTS)
def test_texts_in_messages(text: str) -> None:
    assert_safe(one_line(text))
    assert_safe(quoted(text), 120)
    assert_safe(quoted([text, {text: text}]), 120)
    assert_safe(field(text), 800)
    json.dumps(encodable(text), ensure_ascii=False).encode()
    if text.isprintable() and len(text) <= 120 and text == " ".join(text.split()):
        assert one_line(text) == quoted(text) == encodable(text) == text


def assert_can_be_taken_apart(form: str, name: str, out: str, err: str) -> None:
    """What a command prints that fails because an input is missing."""
    message, last = err.removesuffix("\n").split("\n")
    assert_safe(message, LINE_LIMIT + 20)
    assert message.startswith("animate-rt: ")
    match = ERROR.fullmatch(last)
    assert match
    found = json.loads(match[4]) if match[4].startswith('"') else match[4]
    assert match.groups()[:3] == ("input_missing", "0", "66")
    assert found == shortened(name, 120)
    if form == "openjd":
        assert_safe(out.removesuffix("\n"), 2 * LINE_LIMIT)
        assert out.startswith("openjd_fail: ")
    elif form == "json":
        assert json.loads(out)["event"] == "fail"
        assert_safe(out.removesuffix("\n"), 10**5)


@many
@given(TEXTS, st.sampled_from(["none", "json", "openjd"]))
def test_the_lines_of_a_failed_command(capsys: pytest.CaptureFixture[str], name: str, form: str) -> None:
    def run(_options: argparse.Namespace, terminal: console.Console) -> None:
        Monitor(terminal, name, form)
        raise InputMissing(f"there is no {name}")

    status = console.run_command(argparse.Namespace(run=run))
    captured = capsys.readouterr()
    assert status == 66
    assert_can_be_taken_apart(form, name, *captured)


def test_the_whole_command(animate: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    for name in NASTY:
        missing = re.sub("[\0\ud800-\udc7f\udd00-\udfff]", "", name)[:60] + "\n.mp4"
        assert animate("out.mp4", f"--pose={missing}", "--progress=json", f"--name={name}") == 66
        assert_can_be_taken_apart("json", name or "out", *capsys.readouterr())


@many
@given(TEXTS)
def test_progress(name: str) -> None:
    for form in ("openjd", "json"):
        stream = io.StringIO()
        lines = StatusLines(form, name, stream)
        lines.begin(device=name, backend=name)
        lines.progress(Progress("denoise", 1, 2))
        lines.end(output=name, frames=3)
        printed = stream.getvalue().removesuffix("\n").split("\n")
        assert len(printed) == {"openjd": 5, "json": 3}[form]
        for line in printed:
            assert_safe(line, 10**5)
            assert form == "json" or re.match("openjd_(status|progress): ", line)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@many
@given(TEXTS)
def test_the_bar(name: str) -> None:
    for stream in (io.StringIO(), Terminal()):
        bar = ProgressBar(stream)
        bar.name = quoted(name)
        bar.show(name, 1, 1, detail=name)
        bar.close()
        shown = stream.getvalue().removesuffix("\n")
        if bar.live:
            shown = shown.removeprefix("\r").removesuffix("\x1b[K")
        assert_safe(shown)


@pytest.mark.parametrize("suffix", [".mp4", ""])
def test_files_of_any_name(
    animate: Callable[..., int], inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    for number, text in enumerate(NASTY):
        allowed = text.replace("/", "_").replace("\0", "_").replace("\ud800", "_").replace("=", "-")
        name = os.fsdecode(os.fsencode(allowed)[:200].strip() or b"x") + suffix
        if Path(name).suffix != suffix:
            continue
        for folder in ("in", "out"):
            (tmp_path / str(number) / folder).mkdir(parents=True)
        reference = tmp_path / str(number) / "in" / f"{name.removesuffix(suffix)}.png"
        reference.write_bytes((inputs / "reference.png").read_bytes())
        given = [f"{number}/out/{name}", "--frames", "1", "--reference", str(reference)]
        for _ in range(2):
            assert animate(*given) == 0
            out, err = capsys.readouterr()
            for line in (out + err).removesuffix("\n").split("\n"):
                assert_safe(line)
        assert "is already done" in err
        assert sorted(os.listdir(tmp_path / str(number) / "out")) == [name, f"{name}.json"]
        json.loads((tmp_path / str(number) / "out" / f"{name}.json").read_bytes())


def test_long_messages_are_cut_in_the_middle(capsys: pytest.CaptureFixture[str]) -> None:
    message = "start " + "\x1bx" * 5_000_000 + " end"
    began = thread_cpu_s()
    complain(message)
    assert thread_cpu_s() - began < 1
    (line,) = capsys.readouterr().err.splitlines()
    assert_safe(line, LINE_LIMIT + 20)
    assert line.startswith("animate-rt: start ")
    assert line.endswith(" end")


class Unreadable(RuntimeError):
    def __str__(self) -> str:
        return b"\xff".decode()


def test_an_exception_whose_message_cannot_be_read() -> None:
    failure = failure_of(Unreadable(), SignalGuard())
    assert failure.message == "internal error: Unreadable: its message cannot be read"
    assert failure_of(InputError("a\x1b[2Jb\nc"), SignalGuard()).message == r"a\x1b[2Jb\nc"


def test_a_traceback_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    def run(*_: object) -> None:
        raise RuntimeError("\x1b[2J\udcff")

    assert console.run_command(argparse.Namespace(run=run)) == 70
    for line in capsys.readouterr().err.splitlines():
        assert_safe(line)


SCRIPT = (
    "import sys; from animate_rt.tests.fixed_cost import open_animator;"
    "from animate_rt.runtime.shots import commands; from animate_rt.__main__ import main;"
    "commands.Animator.load = open_animator; sys.exit(main(sys.argv[1:]))"
)


@pytest.mark.parametrize(
    ("streams", "pose", "status"),
    [
        ("2>/dev/full", "pose", 0),
        ("2>/dev/full", "none", 66),
        (">/dev/full", "pose", 74),
        (">/dev/full 2>&1", "pose", 74),
        (">/dev/full 2>&1", "none", 66),
    ],
)
@pytest.mark.parametrize("form", ["auto", "json"])
def test_streams_on_a_full_disk(
    inputs: Path, tmp_path: Path, streams: str, pose: str, status: int, form: str
) -> None:
    options = f"--reference reference.png --pose {pose} --steps 1 --output ../out.mp4 --progress {form}"
    done = subprocess.run(
        ["bash", "-c", f"exec {sys.executable} -c '{SCRIPT}' animate bundle {options} {streams}"],
        cwd=inputs,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    if status != 66 and form == "auto":
        assert names(tmp_path) == ["out.mp4", "out.mp4.json"]
