"""The script that measures on a GPU, as far as it goes without one."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import animate_rt
import pytest
from animate_rt.__main__ import parser

from .standin import packages
from .standin.tensorrt import __version__

SCRIPT = Path(animate_rt.__file__).parent / "benchmarks" / "gpu_report.sh"


@pytest.fixture
def no_gpu() -> None:
    try:
        from cuda.core import Device

        Device(0).set_current()
    except Exception:  # cuda.core's own errors have no public class
        return
    pytest.skip("there is a GPU here")


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path: Path) -> None:
    done = subprocess.run([SCRIPT, tmp_path / "report"], capture_output=True, text=True, check=False)
    assert done.returncode == animate_rt.DeviceError.exit_status
    assert re.fullmatch(r"gpu_report: .*expected an NVIDIA GPU to build for, found none .*\n", done.stderr)
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_its_measurements_are_those_of_the_command_line(tmp_path: Path) -> None:
    measured = re.findall(r"^measure (\w+) (.*)$", SCRIPT.read_text(), re.MULTILINE)
    assert len(measured) == 4
    for name, line in measured:
        parser().parse_args(["bench", *shlex.split(line), "--output", os.fspath(tmp_path / f"{name}.json")])


COMMAND = """#!/bin/sh
echo "$(basename "$0") $*"
while [ $# -gt 1 ]; do shift; done
case "$1" in *clip.json) exit 70;; *.json) echo '{"kind": "stand-in"}' > "$1";; esac
"""


def test_a_report_of_all_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the stand-in for CUDA and TensorRT, and commands that measure nothing. One of them fails."""
    for name in ("animate-rt", "pytest"):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(COMMAND)
        path.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([os.fspath(tmp_path / "bin"), os.environ["PATH"]]))
    paths = [os.fspath(packages(tmp_path / "packages")), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    folder = tmp_path / "report"
    done = subprocess.run([SCRIPT, folder], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode == 1
    assert done.stdout.splitlines()[0] == f"Stand-in GPU, SM90, tensorrt {__version__}"
    report = json.loads((folder / "report.json").read_text())
    assert report["status"] == {"tests": 0, "peers": 0, "unet": 0, "decoder": 0, "clip": 70}
    assert report["results"].keys() == {"peers", "unet", "decoder"}
    assert report["tests"] == ["pytest -m gpu -n 0 -rs"]
    written = [os.fspath(folder / f"{name}.json") for name in report["results"]]
    shown = ["animate-rt", "bench", "report", *written, "--html", os.fspath(folder / "report.html")]
    assert (folder / "report.txt").read_text().split() == shown
