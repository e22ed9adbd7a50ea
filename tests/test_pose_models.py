"""`animate-rt models`: fetching models from a package index, listing them, and refusing anything else."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from animate_rt.__main__ import main
from animate_rt.engines.files import File, hashed
from animate_rt.errors import InputError, InputMissing, OutputError
from animate_rt.runtime.poses import models
from animate_rt.runtime.poses.models import MEDIAPIPE, ModelSet, fetch, find, states

NAMES = {
    "pose_detection.tflite", "pose_landmark_full.tflite", "hand_recrop.tflite", "hand_landmark_full.tflite",
    "face_landmark.tflite", "LICENSE",
}  # fmt: skip
CONTENT = b"weights"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages that takes the place of the package index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    return folder


@pytest.fixture
def small(index: Path) -> ModelSet:
    """A set of one model, in a package of that index."""
    path = index / "little-1.0-py3-none-any.whl"
    write_wheel(path, CONTENT)
    model = path.with_suffix(".model")
    model.write_bytes(CONTENT)
    files = {"little/a.model": hashed(model).file}
    return ModelSet(name="little", package="little==1.0", wheel=(), licence="MIT", files=files)


def write_wheel(path: Path, content: bytes) -> None:
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("little/a.model", content)
        wheel.writestr("little-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: little\nVersion: 1.0\n")
        wheel.writestr("little-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")


@pytest.mark.usefixtures("mediapipe_models")  # skips where the index is out of reach
def test_mediapipe_is_fetched_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "models"
    assert main(["models", "fetch", "mediapipe", "--models", str(folder)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{folder}/mediapipe-0.10.21: 6 files, 16.3 MB, taken from mediapipe==0.10.21")
    assert {path.name for path in (folder / "mediapipe-0.10.21").iterdir()} == NAMES
    assert "mediapipe" not in sys.modules
    assert find(MEDIAPIPE, folder) == folder / "mediapipe-0.10.21"
    assert main(["models", "fetch", "mediapipe", "--models", str(folder)]) == 0
    assert "already there, verified" in capsys.readouterr().out
    assert main(["models", "list", "--models", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "mediapipe==0.10.21, Apache-2.0, complete" in said
    assert said.count(" found") == 6


def test_list_says_what_is_missing_and_what_is_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "animate-rt" / "models" / "mediapipe-0.10.21"
    folder.mkdir(parents=True)
    (folder / "LICENSE").write_text("another licence")
    assert main(["models", "list"]) == 0
    said = capsys.readouterr().out
    assert f"  {folder}\n" in said
    assert "incomplete; animate-rt models fetch mediapipe" in said
    assert said.count(" missing\n") == 5 + 3  # and those of rivagan
    assert said.count(" changed\n") == 1


def test_a_set_is_fetched_whole_and_repaired(small: ModelSet, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    with pytest.raises(InputMissing, match=r"found a\.model missing; .*animate-rt models fetch little"):
        find(small, folder)
    path = fetch(small, folder)
    assert path == folder / "little-1.0"
    assert (path / "a.model").read_bytes() == CONTENT
    assert [entry.name for entry in folder.iterdir()] == ["little-1.0"]
    (path / "a.model").write_bytes(b"changed")
    with pytest.raises(InputError, match=r"found a\.model changed"):
        find(small, folder)
    fetch(small, folder)
    assert find(small, folder) == path


def test_progress_may_stop_the_download(small: ModelSet, tmp_path: Path) -> None:
    def stop(_what: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(small, tmp_path / "models", stop)
    assert list((tmp_path / "models").iterdir()) == []


def test_another_file_than_the_published_one_is_refused(small: ModelSet, index: Path, tmp_path: Path) -> None:
    for content in (b"weightS", CONTENT + b"!", b"", b"0" * 100_000):
        write_wheel(index / "little-1.0-py3-none-any.whl", content)
        with pytest.raises(
            InputError, match=r"^little==1\.0: little/a\.model: expected SHA-256 [0-9a-f]{12}"
        ):
            fetch(small, tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []


def test_a_package_without_the_file_is_refused(small: ModelSet, tmp_path: Path) -> None:
    other = dataclasses.replace(small, files={"little/b.model": File("0" * 64, 7)})
    with pytest.raises(
        InputError, match=r"^little==1\.0: expected a package with the models, cannot read it"
    ):
        fetch(other, tmp_path / "models")


def test_a_package_that_is_not_there_is_one_line(
    small: ModelSet, index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (index / "little-1.0-py3-none-any.whl").unlink()
    with pytest.raises(
        InputError, match=r"pip to download little==1\.0, it failed: ERROR.*check the connection"
    ):
        fetch(small, tmp_path / "models")
    assert main(["models", "fetch", "mediapipe", "--models", str(tmp_path / "models")]) == 65
    assert capsys.readouterr().err.count("\nanimate-rt: ") == 1
    assert list((tmp_path / "models").iterdir()) == []


def test_without_pip_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "find_spec", lambda _name: None)
    assert main(["models", "fetch", "mediapipe", "--models", str(tmp_path)]) == 64


def test_something_else_of_that_name_is_kept(small: ModelSet, tmp_path: Path) -> None:
    for kind in ("file", "folder"):
        folder = tmp_path / kind
        folder.mkdir()
        taken = folder / small.folder
        if kind == "folder":
            taken.mkdir()
        mine = taken if kind == "file" else taken / "mine.txt"
        mine.write_text("mine")
        with pytest.raises(OutputError, match=r"expected a new name or a folder of little==1\.0"):
            fetch(small, folder)
        assert mine.read_text() == "mine"


@pytest.mark.parametrize("place", ["/proc/models", "/dev/null/models"])
def test_a_folder_that_cannot_be_written_is_one_line(small: ModelSet, place: str) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        fetch(small, Path(place))


def test_links_and_folders_in_the_place_of_models_are_not_read(small: ModelSet, tmp_path: Path) -> None:
    path = tmp_path / small.folder / "a.model"
    path.mkdir(parents=True)
    assert states(small, tmp_path) == {"a.model": "changed"}
    path.rmdir()
    path.symlink_to(tmp_path / "nowhere")
    assert states(small, tmp_path) == {"a.model": "changed"}


def test_the_commands_are_described() -> None:
    done: Any = subprocess.run(
        [sys.executable, "-m", "animate_rt", "models", "--help"], capture_output=True, text=True, check=True
    )
    assert "fetch" in done.stdout
    assert "list" in done.stdout
