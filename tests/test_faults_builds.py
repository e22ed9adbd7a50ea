"""Builds that are killed at any moment, and folders that a build must not replace."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from animate_rt import CheckpointError, OutputError
from animate_rt import atomic as atomic_module
from animate_rt.engines.bundle import MANIFEST, new_bundle, open_bundle
from animate_rt.export import build_bundle


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def run(script: str, path: Path) -> int:
    """Run a script that has a bundle's path as `path`; return its status."""
    head = f"from pathlib import Path\nimport os, signal\npath = Path({os.fspath(path)!r})\n"
    done = subprocess.run([sys.executable, "-c", head + textwrap.dedent(script)], check=False, timeout=60)
    return done.returncode


KILLED = """
    from animate_rt.engines.bundle import new_bundle
    with new_bundle(path) as folder:
        (folder / "half").write_text("done")
        os.kill(os.getpid(), signal.SIGKILL)
"""
KILLED_BETWEEN_RENAMES = """
    from animate_rt import atomic
    from animate_rt.engines.bundle import new_bundle
    rename = Path.rename
    def killed(self, target):
        if target == path:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(self, target)
    Path.rename = killed
    atomic.exchange = lambda one, other: False
    with new_bundle(path) as folder:
        (folder / "half").write_text("done")
"""


def test_the_next_build_clears_what_a_killed_one_left(copied: Path) -> None:
    parent = copied.parent
    strangers = [".bundle.notes", ".bundle.12345678.partial.txt", ".other.12345678.partial"]
    for name in strangers:
        (parent / name).mkdir()
        (parent / name / "precious").touch()
    for _ in range(2):
        assert run(KILLED, copied) == -signal.SIGKILL
    before = (copied / MANIFEST).read_bytes()
    with new_bundle(copied) as living:
        assert entries(parent) == sorted([copied.name, living.name, *strangers])
        with new_bundle(copied):  # another build of the same name does not touch that of a living one
            assert living.is_dir()
        assert entries(parent) == sorted([copied.name, living.name, *strangers])
        shutil.copytree(copied, living, dirs_exist_ok=True)
        (living / MANIFEST).write_bytes(before)
    assert entries(parent) == sorted([copied.name, *strangers])
    assert (copied / MANIFEST).read_bytes() == before


KILLED_WHILE_LOADING = """
    from animate_rt.export import build, build_bundle
    def killed(*arguments, **options):
        os.kill(os.getpid(), signal.SIGKILL)
    build.load_checkpoint = killed
    build_bundle("CHECKPOINT", path, width=64, height=64, window=8)
"""


def test_the_next_build_clears_what_one_left_that_was_killed_while_loading(
    small: Any, tmp_path: Path
) -> None:
    """Also if the next one cannot load its checkpoint."""
    path = tmp_path / "bundle"
    assert run(KILLED_WHILE_LOADING.replace("CHECKPOINT", str(small.checkpoint)), path) == -signal.SIGKILL
    (left,) = entries(tmp_path)
    assert left.startswith(".bundle.")
    with pytest.raises(CheckpointError, match="none"):
        build_bundle(
            small.checkpoint, path, width=64, height=64, window=8, inference_config=tmp_path / "none.yaml"
        )
    assert not entries(tmp_path)


@pytest.mark.parametrize("after", ["open", "build"])
def test_a_bundle_survives_a_kill_between_two_renames(copied: Path, after: str) -> None:
    assert run(KILLED_BETWEEN_RENAMES, copied) == -signal.SIGKILL
    assert not copied.exists()
    if after == "open":
        assert open_bundle(copied).manifest.files
    with suppress(RuntimeError), new_bundle(copied):
        assert open_bundle(copied).manifest.files
        raise RuntimeError
    assert entries(copied.parent) == [copied.name]


KILLED_AT_EVERY_STEP = """
    import sys
    from animate_rt import atomic
    from animate_rt.engines.bundle import check_replaceable, new_bundle
    import ctypes, fcntl
    content, killed = (path / "manifest.json").read_bytes(), 0
    if EXCHANGE:
        ctypes.CDLL(None).renameat2
    else:
        atomic.exchange = lambda one, other: False
    for step in range(1, 1000):
        child = os.fork()
        if not child:
            steps = 0
            def hook(event, arguments):
                global steps
                steps += event.startswith(("open", "os.", "shutil.", "fcntl.", "ctypes.call"))
                if steps == step:
                    os.kill(os.getpid(), signal.SIGKILL)
            sys.addaudithook(hook)
            with new_bundle(path) as folder:
                (folder / "graphs").mkdir()
                (folder / "graphs" / "weights.bin").write_bytes(b"new")
                (folder / "manifest.json").write_bytes(content)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        atomic.put_back(path)
        assert (path / "manifest.json").read_bytes() == content, step
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, step
            break
        killed += 1
    assert killed > 15, killed
    assert os.listdir(path.parent) == [path.name], os.listdir(path.parent)
"""


@pytest.mark.parametrize("exchange", [True, False])
def test_a_kill_at_any_step_loses_no_bundle_and_leaves_nothing(copied: Path, exchange: bool) -> None:
    """Before every operation on files: there is a bundle, and the next build clears what is left."""
    assert run(KILLED_AT_EVERY_STEP.replace("EXCHANGE", str(exchange)), copied) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux exchanges two folders in one step")
def test_a_bundle_never_disappears_while_it_is_replaced(copied: Path) -> None:
    content, missing, over = (copied / MANIFEST).read_bytes(), [], Event()

    def watch() -> None:
        while not over.is_set():
            if not os.path.exists(copied / MANIFEST):
                missing.append(copied)

    watcher = Thread(target=watch)
    watcher.start()
    for _ in range(50):
        with new_bundle(copied) as folder:
            (folder / MANIFEST).write_bytes(content)
    over.set()
    watcher.join()
    assert not missing
    assert entries(copied.parent) == [copied.name]


def test_without_an_exchange_of_folders_two_renames_replace(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic_module, "exchange", lambda _one, _other: False)
    with new_bundle(copied) as folder:
        (folder / MANIFEST).write_text("new")
    assert (copied / MANIFEST).read_text() == "new"
    assert entries(copied.parent) == [copied.name]


STRANGERS: dict[str, dict[str, str]] = {
    "graphs of something else": {"graphs/thesis-figure.csv": "1,2"},
    "an empty folder of graphs": {"graphs/thesis/figures/1.onnx": ""},
    "a manifest of something else": {MANIFEST: '{"name": "an extension", "version": "1"}'},
    "a manifest of a list": {MANIFEST: "[1, 2]"},
    "graphs without a manifest": {"graphs/mine.onnx": "onnx"},
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_a_folder_that_is_no_bundle_is_never_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "mine"
    for name, content in STRANGERS[kind].items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content)
    with pytest.raises(OutputError, match="expected a new name"), new_bundle(path):
        pytest.fail("the build must not begin")
    assert all((path / name).read_text() == content for name, content in STRANGERS[kind].items())


def test_files_that_file_managers_leave_are_no_strangers(copied: Path) -> None:
    (copied / "@eaDir").mkdir()
    for name in (".DS_Store", "Thumbs.db", "graphs/._weights.bin", "desktop.ini", "@eaDir/x"):
        (copied / name).touch()
    assert open_bundle(copied)
    with new_bundle(copied) as folder:
        (folder / MANIFEST).write_text("new")
    assert entries(copied) == [MANIFEST]


@pytest.mark.parametrize("name", [".git/config", "notes.txt", "graphs/notes.txt", "engines/old/x.plan"])
def test_a_file_in_a_bundle_that_is_not_ours_is_never_deleted(copied: Path, name: str) -> None:
    """Also if it appears while the bundle is built."""

    def build() -> None:
        with new_bundle(copied) as folder:
            (copied / name).parent.mkdir(parents=True, exist_ok=True)
            (copied / name).write_text("precious")
            (folder / MANIFEST).write_text("new")

    with pytest.raises(OutputError, match="expected a new name"):
        build()
    with pytest.raises(OutputError, match="expected a new name"), new_bundle(copied):
        pytest.fail("the build must not begin")
    assert (copied / name).read_text() == "precious"
    assert entries(copied.parent) == [copied.name]
