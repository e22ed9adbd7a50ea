"""Bundles whose files are replaced, garbled, or no files at all."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from animate_rt import AnimateError, BundleCorrupt, BundleError, BundleMismatch, DeviceError
from animate_rt.engines import backends
from animate_rt.engines import bundle as bundle_module
from animate_rt.engines.backends import load_engine, open_device
from animate_rt.engines.bundle import MANIFEST, open_bundle
from animate_rt.engines.cpu import openvino
from animate_rt.engines.files import TICK_NS, Hashed, hashed

from .manifests import list_files_again

GRAPH = "time_embedding"
GARBLED = 100


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are hashed."""
    names: list[str] = []

    def counting(path: Path) -> Hashed:
        names.append(path.name)
        return hashed(path)

    monkeypatch.setattr(bundle_module, "hashed", counting)
    return names


def test_a_bundle_is_hashed_once(copied: Path, counted: list[str]) -> None:
    time.sleep(2e-9 * TICK_NS)  # until the times of the files tell whether they change
    bundle = open_bundle(copied)
    assert sorted(counted) == sorted(Path(name).name for name in bundle.manifest.files)
    counted.clear()
    device = open_device("openvino")
    for graph in (GRAPH, "pose_guider"):
        load_engine(bundle, graph, device)
    bundle.verify()
    assert not counted
    os.utime(bundle.graph(GRAPH))
    bundle.verify()
    assert counted == [f"{GRAPH}.onnx"]


CHANGES: dict[str, Callable[[Path], object]] = {
    "written to": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\0"),
    "replaced": lambda path: (path.with_name("new").write_bytes(b"new"), path.with_name("new").replace(path)),
    "removed": lambda path: path.unlink(),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "endless": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a terabyte": lambda path: os.truncate(path, 1 << 40),
    "closed": lambda path: (path.unlink(), path.symlink_to(path.name)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_is_refused_when_opened_and_when_verified(copied: Path, change: str) -> None:
    bundle = open_bundle(copied)
    CHANGES[change](copied / "graphs" / "weights.bin")
    with pytest.raises(BundleCorrupt, match=r"replaced or changed after it was opened: graphs/weights\.bin"):
        bundle.verify()
    with pytest.raises(BundleCorrupt, match=r"graphs/weights\.bin: "):
        open_bundle(copied)


@pytest.mark.parametrize("change", ["removed", "a pipe", "endless", "a folder", "a terabyte", "closed"])
def test_a_manifest_that_is_no_file_is_refused(copied: Path, change: str) -> None:
    CHANGES[change](copied / MANIFEST)
    with pytest.raises(BundleError, match=r"cannot read manifest\.json: ."):
        open_bundle(copied)


def test_a_bundle_replaced_while_it_is_loaded_is_refused(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_bundle(copied)
    load = backends.LOADERS["openvino"]

    def replaced(*arguments: Any) -> Any:
        CHANGES["replaced"](copied / "graphs" / "vae_decoder.onnx")
        return load(*arguments)

    monkeypatch.setitem(backends.LOADERS, "openvino", replaced)
    with pytest.raises(BundleCorrupt, match="replaced or changed after it was opened"):
        load_engine(bundle, GRAPH, open_device("openvino"))


def test_weights_from_a_file_that_is_not_listed_are_refused(copied: Path) -> None:
    path = copied / "graphs" / f"{GRAPH}.onnx"
    (copied / "graphs" / "weightz.bin").write_bytes((copied / "graphs" / "weights.bin").read_bytes())
    path.write_bytes(path.read_bytes().replace(b"weights.bin", b"weightz.bin", 1))
    list_files_again(copied)
    with pytest.raises(BundleCorrupt, match=r"weights in weights\.bin, found weightz\.bin; build"):
        open_bundle(copied)


def test_a_graph_that_breaks_the_contract_is_refused(copied: Path) -> None:
    shutil.copy(copied / "engines" / "pose_guider.xml", copied / "engines" / f"{GRAPH}.xml")
    list_files_again(copied)
    with pytest.raises(BundleMismatch, match="time_embedding: frame: expected nothing, found input uint8"):
        load_engine(open_bundle(copied), GRAPH, open_device("openvino"))


def test_garbled_graphs_are_refused_in_one_line(copied: Path) -> None:
    """OpenVINO quotes a graph's names in its messages, which then may not be UTF-8."""
    path, chance = copied / "engines" / f"{GRAPH}.xml", random.Random(0)
    original, device, refused = path.read_bytes(), open_device("openvino"), 0
    for _ in range(GARBLED):
        content, digits = bytearray(original), chance.random() < 0.7  # other changes are no XML, mostly
        for _ in range(chance.choice((1, 5, 50))):
            at = chance.randrange(len(content))
            if not digits:
                content[at] = chance.randrange(256)
            elif content[at] in b"0123456789":
                content[at] = chance.choice(b"0123456789")
        path.write_bytes(content)
        list_files_again(copied)
        try:
            load_engine(open_bundle(copied), GRAPH, device)
        except AnimateError as error:
            refused += 1
            message = str(error)
            assert message.isprintable(), message
            assert len(message) < 1000
    assert refused > GARBLED / 3


@pytest.mark.parametrize(
    "error",
    [
        UnicodeDecodeError("utf-8", b"node \xff\n\x1b[31m" + b"x" * 10**5, 5, 6, "invalid start byte"),
        RuntimeError("node\n\x1b[31m" + "x" * 10**5),
        IndexError("node"),
    ],
)
def test_messages_of_openvino_become_one_bounded_line(
    small_bundle: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_arguments: Any) -> Any:
        raise error

    monkeypatch.setattr(openvino, "compile_graph", fail)
    with pytest.raises(DeviceError, match="time_embedding: openvino cannot compile it: node") as caught:
        load_engine(open_bundle(small_bundle), GRAPH, open_device("openvino"))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
