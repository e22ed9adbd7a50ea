"""Open Job Description templates, checked and run by the `openjd` command."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from animate_rt.__main__ import main
from animate_rt.errors import ConfigError
from animate_rt.runtime.farm.openjd import MAX_SHOTS, template
from animate_rt.runtime.shots.output import Output

from .fixed_cost import example, hollow_bundle


def openjd(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "openjd", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def write_jobs(folder: Path, small: Any, bundle: Path, names: list[str]) -> None:
    job = {"bundle": str(bundle), "reference": str(small.reference), "pose": str(small.pose), "steps": 1}
    lines = [json.dumps({"name": name, "frames": 2, "seed": i, **job}) for i, name in enumerate(names)]
    (folder / "jobs.jsonl").write_text("\n".join(lines))


def emit(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run `animate-rt openjd jobs.jsonl --output out > template.yaml` in a folder."""
    monkeypatch.chdir(folder)
    capsys.readouterr()
    assert main(["openjd", "jobs.jsonl", "--output", "out"]) == 0
    (folder / "template.yaml").write_text(capsys.readouterr().out)


def test_a_template_passes_openjd_check(
    small: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openjd.cli")
    write_jobs(tmp_path, small, hollow_bundle(tmp_path / "bundle"), ["s010", "s020", "yes", "1e3"])
    emit(tmp_path, capsys, monkeypatch)
    checked = openjd("check", "template.yaml", folder=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    summary = json.loads(openjd("summary", "template.yaml", "--output", "json", folder=tmp_path).stdout)
    assert (summary["total_steps"], summary["total_tasks"]) == (1, 4)


def test_too_many_shots_are_refused(tmp_path: Path) -> None:
    hollow_bundle(tmp_path / "bundle")
    shot = example(tmp_path, tmp_path / "out.mp4")
    assert isinstance(shot.output, Output)
    with pytest.raises(ConfigError, match=f"expected up to {MAX_SHOTS} shots, found {MAX_SHOTS + 1}"):
        template(tmp_path / "jobs.jsonl", tmp_path, [shot] * (MAX_SHOTS + 1))


def test_openjd_runs_a_template(
    small: Any,
    small_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The real command and engines make every shot; a second run finds them done."""
    pytest.importorskip("openjd.cli")
    if not shutil.which("animate-rt"):
        monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    write_jobs(tmp_path, small, small_bundle, ["s010", "s020"])
    emit(tmp_path, capsys, monkeypatch)
    for text in ("already_done False", "already_done True"):
        done = openjd("run", "template.yaml", folder=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count(text) == 2
        assert "openjd_progress: 100.0" in done.stdout
    names = [f"{name}{suffix}" for name in ("s010", "s020") for suffix in (".mp4", ".mp4.json", ".sheet.png")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
