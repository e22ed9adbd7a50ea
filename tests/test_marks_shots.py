"""Marks of shots: on unless switched off, recorded, and the same bytes after a stop."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from animate_rt import ConfigError, MarkOptions, Payload, detect
from animate_rt.__main__ import main
from animate_rt.engines.device import Array
from animate_rt.runtime.marks.commands import CERTIFICATE, KEY
from animate_rt.runtime.marks.metadata import GENERATED
from animate_rt.runtime.marks.pattern import Pattern
from animate_rt.runtime.shots.making import make
from PIL import Image

from . import shot_command
from .certificates import write_certificate
from .fixed_cost import example, open_animator
from .stopped_shots import files, make_until, truth

inputs, animate = shot_command.inputs, shot_command.animate


def sidecar(result: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(result.with_name(f"{result.name}.json").read_text())
    return document


def frames(folder: Path) -> list[Array]:
    return [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]


def test_results_are_marked_with_their_job(animate: Callable[..., int], tmp_path: Path) -> None:
    """Frames of 64 x 64 are too small to read the bits from, so they are compared with what is expected."""
    assert animate("out.mp4") == 0
    assert animate("pngs") == 0
    assert animate("plain", "--no-watermark") == 0
    mark = Pattern().marker(64, 64, Payload.of(sidecar(tmp_path / "pngs")["digest"]))
    assert np.array_equal(frames(tmp_path / "pngs"), list(map(mark, frames(tmp_path / "plain"))))
    for result, file in (("out.mp4", "out.mp4"), ("pngs", "pngs/00003.png")):
        assert detect(tmp_path / file).metadata.source_type == GENERATED
        marks = {"watermark": "pattern-1", "metadata": True, "label": False, "c2pa": False}
        assert sidecar(tmp_path / result)["marks"] == marks


@pytest.mark.parametrize(
    ("option", "recorded"),
    [
        ("--no-watermark", {"watermark": None}),
        ("--no-metadata", {"metadata": False}),
        ("--label", {"label": True}),
    ],
)
def test_what_is_switched_off_or_on_is_recorded(
    animate: Callable[..., int], tmp_path: Path, option: str, recorded: dict[str, Any]
) -> None:
    assert animate("out.mp4", option) == 0
    assert bool(detect(tmp_path / "out.mp4").metadata.source_type) == (option != "--no-metadata")
    assert sidecar(tmp_path / "out.mp4")["marks"].items() >= recorded.items()
    before = sidecar(tmp_path / "out.mp4")["digest"]
    assert animate("out.mp4") == 0  # with the defaults it is another result
    assert sidecar(tmp_path / "out.mp4")["digest"] != before


def test_without_any_marks_the_frames_are_those_of_the_model(
    animate: Callable[..., int], inputs: Path, tmp_path: Path
) -> None:
    assert animate("plain", "--no-watermark", "--no-metadata") == 0
    with open_animator(inputs / "bundle") as animator:
        expected = list(animator.animate(inputs / "reference.png", inputs / "pose", steps=2))
    assert np.array_equal(frames(tmp_path / "plain"), expected)


@pytest.mark.parametrize("name", ["out.mp4", "frames"])
def test_a_stopped_shot_gives_the_same_bytes(inputs: Path, tmp_path: Path, name: str) -> None:
    shot = example(inputs, tmp_path / name)
    expected = truth(shot, tmp_path / "undisturbed")
    assert not make_until(shot, 14)
    assert make_until(shot, 10**9)
    assert files(shot) == expected


def test_a_signed_result_is_done(
    animate: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("c2pa", reason="c2pa-python is not installed")
    chain, key, _loaded = write_certificate(tmp_path)
    assert animate("plain.mp4") == 0
    monkeypatch.setenv(CERTIFICATE, str(chain))
    monkeypatch.setenv(KEY, str(key))
    for result, file in (("out.mp4", "out.mp4"), ("pngs", "pngs/00000.png")):
        assert animate(result) == 0
        assert detect(tmp_path / file).signature.state == "valid"
        assert sidecar(tmp_path / result)["marks"]["c2pa"]
        changed = (tmp_path / file).stat().st_mtime_ns
        assert animate(result) == 0  # is left alone
        assert (tmp_path / file).stat().st_mtime_ns == changed
    assert sidecar(tmp_path / "out.mp4")["digest"] == sidecar(tmp_path / "plain.mp4")["digest"]


@pytest.mark.parametrize("command", ["animate", "farm"])
def test_a_certificate_that_cannot_sign_is_found_before_anything_is_made(
    inputs: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("c2pa", reason="c2pa-python is not installed")
    (tmp_path / "keys").mkdir()
    chain, key, _loaded = write_certificate(tmp_path / "keys", days=-3)
    shot = example(inputs, tmp_path / "out.mp4")
    options = ["--c2pa-cert", str(chain), "--c2pa-key", str(key)]
    files = [
        "--reference",
        str(shot.reference),
        "--pose",
        str(shot.pose),
        "--output",
        str(tmp_path / "out.mp4"),
    ]
    jobs = tmp_path / "jobs.jsonl"
    line = {
        "name": "out",
        "bundle": str(shot.bundle),
        "reference": str(shot.reference),
        "pose": str(shot.pose),
    }
    jobs.write_text(json.dumps(line))
    given = [str(shot.bundle), *files] if command == "animate" else [str(jobs), "--output", str(tmp_path)]
    assert main([command, *given, *options]) == ConfigError.exit_status
    (message,) = capsys.readouterr().err.splitlines()
    assert "expected a certificate that is valid today" in message
    assert {path.name for path in tmp_path.iterdir()} == {"inputs", "keys", "jobs.jsonl"}


def test_a_certificate_that_cannot_sign_any_more_is_found_before_the_first_frame(
    inputs: Path, tmp_path: Path
) -> None:
    """As on another host of a farm, which checks it for itself."""
    pytest.importorskip("c2pa", reason="c2pa-python is not installed")
    (tmp_path / "keys").mkdir()
    chain, key, _loaded = write_certificate(tmp_path / "keys", days=-3)
    marks = MarkOptions(certificate=chain, key=key)
    shot = replace(example(inputs, tmp_path / "out.mp4"), marks=marks)
    stages: list[str] = []
    with open_animator(shot.bundle) as animator, pytest.raises(ConfigError, match="valid today"):
        make(shot, animator, progress=lambda progress: stages.append(progress.stage))
    assert stages == []
    assert {path.name for path in tmp_path.iterdir()} == {"inputs", "keys"}


def test_a_contact_sheet_says_that_it_was_generated(animate: Callable[..., int], tmp_path: Path) -> None:
    sheet, overlay = tmp_path / "sheet.png", tmp_path / "overlay.mp4"
    previews = ["--contact-sheet", str(sheet), "--overlay", str(overlay)]
    assert animate("out.mp4", *previews) == 0
    assert [detect(path).metadata.source_type for path in (sheet, overlay)] == [GENERATED] * 2
    assert animate("out.mp4", *previews, "--no-metadata") == 0
    assert [detect(path).metadata.source_type for path in (sheet, overlay)] == [""] * 2


def test_half_a_certificate_is_refused(animate: Callable[..., int], tmp_path: Path) -> None:
    assert animate("out.mp4", "--c2pa-cert", str(tmp_path / "chain.pem")) == 64
    assert not (tmp_path / "out.mp4").exists()
