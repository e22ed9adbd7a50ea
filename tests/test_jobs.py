"""Job lists with bad lines: every one is reported, and nothing is started."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from animate_rt.__main__ import main

from .job_lists import job, write_job_inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bundle/, three references and pose/ of 8 pictures."""
    return write_job_inputs(tmp_path_factory.mktemp("inputs"))


def test_all_bad_lines_are_reported_at_once(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [
        ("{", "cannot read it"),
        ("[1, 2]", "expected an object"),
        ('["é"]', "expected an object"),  # written as UTF-16
        (json.dumps({"name": "x", "pose": "pose"}), "missing bundle, reference"),
        (json.dumps(job("x1", colour="red")), "unknown colour"),
        (json.dumps(job("x2", steps="many")), "steps: expected 1 to"),
        (json.dumps(job("../x")), "name: expected up to 100"),
        (json.dumps(job("good")), "found good: good.mp4 is used by line 1"),
        (json.dumps(job("x3", pose="none.mp4")), "pose: expected a video or directory of pictures, found no"),
        (json.dumps(job("x4", bundle="pose")), "expected a bundle"),
        (json.dumps(job("x5", steps=0)), "steps: expected 1 to"),
        (json.dumps(job("x6", overlap=99)), "overlap: expected 0 to 3"),
        (json.dumps(job("x7", order="time-skewed")), "expected open windows"),
        (json.dumps(job("x8", frames="9-3")), "frames: expected at least 1"),
        (json.dumps(job("x9", fps="fast")), "expected frames per second"),
        (json.dumps(job("x10", format="gif")), "format: expected mp4 or png"),
        (json.dumps(job("x11", fps="1e99999999")), "expected frames per second"),
        (json.dumps(job("good.mp4", format="png")), "good.mp4 is used by line 1"),
        (json.dumps(job("good.sheet.png", format="png")), "good.sheet.png is used by line 1"),
        (json.dumps(job("index.html", format="png")), "index.html is used by the farm"),
        (json.dumps(job("x12", steps=[249, 999])), "descending timesteps"),
        (json.dumps(job("x13", steps=["999"])), "descending timesteps"),
        (json.dumps(job("x14", guidance_interval=[0, 0.5, 1])), "guidance_interval: expected two fractions"),
        (json.dumps(job("x15", guidance_interval=[0, "1"])), "guidance_interval: expected two fractions"),
    ]
    path = inputs / "bad.jsonl"
    lines = [json.dumps(job("good")), "", *(line for line, _ in bad)]
    path.write_bytes(b"\n".join(line.encode("utf-8" if line.isascii() else "utf-16") for line in lines))
    assert main(["farm", str(path), "--output", str(tmp_path / "out")]) == 65
    *messages, last = capsys.readouterr().err.splitlines()
    assert len(messages) == len(bad)
    for number, (line, (_, part)) in enumerate(zip(messages, bad, strict=True), start=3):
        assert line.startswith(f"animate-rt: {path}:{number}: ")
        assert part in line
    assert f"found {len(bad)} invalid; nothing was started" in last
    assert list((tmp_path / "out").iterdir()) == []
