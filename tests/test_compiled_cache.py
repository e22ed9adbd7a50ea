"""Compiled graphs are kept for later loads, and one that is damaged or foreign is not used."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from animate_rt import BundleCorrupt, ConfigError
from animate_rt.engines.backends import load_engine, open_device
from animate_rt.engines.bundle import MANIFEST, Bundle, open_bundle, seal
from animate_rt.engines.cpu import compiled_cache, openvino
from animate_rt.engines.cpu.compiled_cache import LIMIT
from animate_rt.engines.runner import Runner
from numpy.typing import NDArray

GRAPH = "pose_guider"


class Loads:
    """Loads one graph of a bundle, and counts how often it is compiled."""

    def __init__(self, bundle: Bundle, folder: Path):
        self.bundle, self.folder, self.compiled = bundle, folder, 0

    def __call__(self, graph: str = GRAPH) -> NDArray[Any]:
        """The output of a new engine for a fixed input."""
        device = open_device("openvino")
        engine = load_engine(self.bundle, graph, device)
        inputs = {
            spec.name: np.random.default_rng(0).integers(0, 99, spec.shape).astype(spec.dtype)
            for spec in engine.contract.inputs
        }
        (output,) = Runner(engine, device, "test")(inputs).values()
        device.close()
        return output

    @property
    def entries(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if not path.name.startswith(".")]


@pytest.fixture
def loads(small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loads]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(LIMIT)
    loads = Loads(open_bundle(small_bundle), tmp_path / "animate-rt" / "compiled")
    original = openvino.compile_graph.original  # type: ignore[attr-defined]

    def compile_graph(*arguments: Any) -> Any:
        loads.compiled += 1
        return original(*arguments)

    monkeypatch.setattr(openvino, "compile_graph", compile_graph)
    yield loads
    if loads.folder.is_dir():
        assert not [path for path in loads.folder.iterdir() if path.is_dir()]  # nothing is half-written


def test_a_graph_is_compiled_once(loads: Loads) -> None:
    first = loads()
    assert loads.compiled == len(loads.entries) == 1
    assert np.array_equal(loads(), first)
    assert loads.compiled == 1
    loads("time_embedding")
    assert loads.compiled == len(loads.entries) == 2


def test_another_precision_is_compiled_again(loads: Loads) -> None:
    loads()
    loads.bundle = replace(loads.bundle, manifest=replace(loads.bundle.manifest, precision="bf16"))
    loads()
    assert loads.compiled == 2


def test_another_processor_version_or_number_of_threads_is_compiled_again(
    loads: Loads, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads()
    monkeypatch.setattr(openvino, "processor", lambda _core: "another")
    loads()
    monkeypatch.setattr(openvino.import_openvino(), "get_version", lambda: "another")
    loads()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: range(99))
    loads()
    assert loads.compiled == len(loads.entries) == 4


def first_weight(bundle: Path) -> tuple[int, int]:
    """Offset and size of the first weight of GRAPH in the file of weights."""
    text = (bundle / "engines" / f"{GRAPH}.xml").read_text()
    found = re.search(r'element_type="f16" shape="[^"]+" offset="(\d+)" size="(\d+)"', text)
    assert found
    return int(found[1]), int(found[2])


def test_other_weights_are_compiled_again(loads: Loads, tmp_path: Path) -> None:
    first = loads()
    path = Path(shutil.copytree(loads.bundle.path, tmp_path / "bundle"))
    place, size = first_weight(path)
    weights = np.memmap(path / "graphs" / "weights.bin", np.float16, "r+", place, (size // 2,))
    weights *= np.float16(1.5)
    weights.flush()
    (path / MANIFEST).unlink()
    seal(path, replace(loads.bundle.manifest, files={}))
    loads.bundle = open_bundle(path)
    assert not np.array_equal(loads(), first)
    assert loads.compiled == 2


def test_what_was_made_of_replaced_files_is_not_kept(
    loads: Loads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads.bundle = open_bundle(shutil.copytree(loads.bundle.path, tmp_path / "bundle"))
    first, compiling = loads(), openvino.compile_graph
    (entry,) = loads.entries
    entry.unlink()

    path, (place, size) = loads.bundle.path / "graphs" / "weights.bin", first_weight(loads.bundle.path)
    content = path.read_bytes()

    def while_replaced(*arguments: Any) -> Any:
        path.write_bytes(content[:place] + bytes(size) + content[place + size :])
        return compiling(*arguments)

    monkeypatch.setattr(openvino, "compile_graph", while_replaced)
    with pytest.raises(BundleCorrupt):
        loads()
    assert loads.entries == []
    monkeypatch.setattr(openvino, "compile_graph", compiling)
    path.write_bytes(content)
    loads.bundle = open_bundle(loads.bundle.path)
    assert np.array_equal(loads(), first)


@pytest.mark.parametrize(
    "damage", ["a bit", "the end", "all", "a foreign one", "a folder", "no first line", "writable by all"]
)
def test_an_entry_that_is_not_right_is_compiled_again(
    loads: Loads, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = loads()
    (entry,) = loads.entries
    content = bytearray(entry.read_bytes())
    if damage == "a bit":
        content[len(content) // 2] ^= 1
    elif damage == "the end":
        del content[-100:]
    elif damage == "no first line":
        del content[: content.index(b"\n") + 1]
    elif damage == "a foreign one":
        loads("time_embedding")
        (other,) = set(loads.entries) - {entry}
        content = bytearray(other.read_bytes())
    entry.write_bytes(b"" if damage == "all" else content)
    if damage == "writable by all":
        entry.chmod(0o622)
    if damage == "a folder":
        entry.unlink()
        entry.mkdir()
    compiled = loads.compiled
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(loads(), first)
    assert loads.compiled == compiled + 1
    assert "\n" not in caplog.records[0].getMessage()
    if damage == "a folder":
        entry.rmdir()
    else:
        assert np.array_equal(loads(), first)
        assert loads.compiled == compiled + 1  # it was replaced


def test_openvino_refuses_what_it_did_not_write(loads: Loads) -> None:
    """Also with the right digest."""
    first = loads()
    (entry,) = loads.entries
    digest = bytes.fromhex(entry.name)
    for content in (b"<x/>\n" + bytes(5000), b"<x/>\nRR_U" + bytes(range(256)) * 20):
        entry.write_bytes(content)
        compiled_cache.write_entry(entry, entry, digest)
        compiled = loads.compiled
        assert np.array_equal(loads(), first)
        assert loads.compiled == compiled + 1


def test_the_least_recently_used_entries_are_deleted(loads: Loads, monkeypatch: pytest.MonkeyPatch) -> None:
    loads("time_embedding")
    (entry,) = loads.entries
    os.utime(entry, (1, 1))
    monkeypatch.setenv(LIMIT, str((entry.stat().st_size + 1) / 1e9))
    loads()
    assert entry not in loads.entries
    assert len(loads.entries) == 1


def test_an_entry_that_is_larger_than_the_cache_is_not_kept(
    loads: Loads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor are others deleted for it."""
    loads()
    (entry,) = loads.entries
    monkeypatch.setenv(LIMIT, str((entry.stat().st_size + 1) / 1e9))
    loads("time_embedding")
    assert loads.compiled == 2
    assert loads.entries == [entry]


def test_a_file_that_cannot_be_written_does_no_harm(loads: Loads, monkeypatch: pytest.MonkeyPatch) -> None:
    compiling = openvino.compile_graph

    def compile_graph(path: Path, weights: Path, precision: Any, folder: str = "") -> Any:
        if folder:
            raise RuntimeError("Could not create file")
        return compiling(path, weights, precision)

    monkeypatch.setattr(openvino, "compile_graph", compile_graph)
    loads()
    assert loads.compiled == 1
    assert loads.entries == []


def test_the_cache_can_be_switched_off(loads: Loads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT, "0")
    loads()
    loads()
    assert loads.compiled == 2
    assert not loads.folder.exists()
    for wrong in ("much", "-1", "inf", "nan"):
        monkeypatch.setenv(LIMIT, wrong)
        with pytest.raises(ConfigError, match=f"{LIMIT}: expected gigabytes, or 0 .*, found {wrong}"):
            loads()


def test_a_cache_that_cannot_be_written_does_no_harm(loads: Loads) -> None:
    loads.folder.parent.mkdir()
    loads.folder.touch()
    first = loads()
    assert np.array_equal(loads(), first)
    loads.folder.unlink()


def test_nothing_is_cached_on_a_full_disk(loads: Loads, monkeypatch: pytest.MonkeyPatch) -> None:
    full = shutil.disk_usage(loads.bundle.path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: full)
    loads()
    assert loads.entries == []


LOAD = f"""
import sys
from animate_rt.engines.backends import load_engine, open_device
from animate_rt.engines.bundle import open_bundle
bundle = open_bundle(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
load_engine(bundle, {GRAPH!r}, open_device("openvino"))
"""


def test_processes_that_load_at_once(loads: Loads) -> None:
    command = [sys.executable, "-c", LOAD, str(loads.bundle.path)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(3)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.communicate("\n")
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(loads.entries) == 1
    loads()
    assert loads.compiled == 0
