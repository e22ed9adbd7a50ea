"""Graphs in OpenVINO's format: what a build saves, and what is refused before OpenVINO reads it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from animate_rt import BundleCorrupt, BundleMismatch
from animate_rt.engines.backends import load_engine, open_device
from animate_rt.engines.bundle import open_bundle
from animate_rt.engines.cpu import openvino
from animate_rt.engines.cpu.saved_graph import MAX_TEXT, check_saved_graph
from animate_rt.export.saved_graphs import save_graphs
from animate_rt.export.weight_file import WEIGHTS, WeightFile

from .damage import thread_cpu_s
from .manifests import edit_manifest, list_files_again

GRAPH = "time_embedding"
FIRST_CONSTANT = rb'(element_type="f32" shape="[0-9, ]+" offset=)"[0-9]+"( size=)"[0-9]+"'


def replaced(pattern: bytes, by: bytes) -> Callable[[bytes], bytes]:
    def change(text: bytes) -> bytes:
        found, count = re.subn(pattern, by, text, count=1)
        assert count
        return found

    return change


LAYERS = b"<layers>"
CHANGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a constant after the end": (
        replaced(FIRST_CONSTANT, rb'\1"999999999999"\2"4"'),
        r"expected \d+ bytes, found 4|that ends at",
    ),
    "a constant that ends after it": (
        replaced(rb' offset="[0-9]+"', rb' offset="999999999"'),
        r"constants in the \d+ bytes of the file of weights, found one that ends at \d{9,}",
    ),
    "a constant that begins before": (replaced(rb'offset="', b'offset="-'), "a whole number, found -"),
    "a huge offset": (replaced(rb'offset="', b'offset="' + b"9" * 400), "a whole number, found 999"),
    "a constant of another size": (replaced(rb' size="\d+"', b' size="3"'), r"expected \d+ bytes, found 3"),
    "a constant of texts": (
        replaced(rb'element_type="\w+"( shape="[^"]*" offset)', rb'element_type="string"\1'),
        "found string",
    ),
    "an unknown operation": (replaced(rb'type="MatMul"', b'type="Run"'), "OpenVINO, found Run of opset1"),
    "an operation with an inner graph": (replaced(rb'type="MatMul"', b'type="If"'), "found If of opset1"),
    "an operation with a state": (replaced(rb'type="MatMul"', b'type="ReadValue"'), "found ReadValue"),
    "an extension": (replaced(rb'version="opset1"', b'version="extension"'), "of extension"),
    "no operation": (replaced(rb'type="MatMul"', b""), "found  of opset1"),
    "an inner graph": (replaced(LAYERS, b"<layers><body/>"), "found body in layers"),
    "an outer element": (replaced(rb"<net ", b"<plugins location='/tmp/x.so'/><net "), "found plugins in"),
    "a path": (
        replaced(rb"<edges>", b'<rt_info><attribute name="path" value="/etc/passwd"/></rt_info><edges>'),
        "expected no attribute but decompression, found path",
    ),
    "an entity": (
        replaced(rb"\A", b'<!DOCTYPE net [<!ENTITY x SYSTEM "file:///etc/passwd">]>'),
        "expected no document type",
    ),
    "another encoding": (
        replaced(rb"\A", b'<?xml version="1.0" encoding="rot13"?>' + b"\xa0"),
        "expected XML in ASCII, found other bytes",
    ),
    "an encoding that is only stated": (
        replaced(rb"\A(<\?xml[^>]*>)?", b'<?xml version="1.0" encoding="rot13"?><nets/>'),
        "found nets in the file",
    ),
    "many attributes": (
        replaced(rb"<edges>", b"<edges " + b" ".join(b"a%d='1'" % i for i in range(400_000)) + b">"),
        r"elements of at most 10,000 bytes, found one of \d",
    ),
    "a long shape": (replaced(rb'shape="', b'shape="' + b"1," * 2_000_000), "at most 10,000 bytes"),
    "half of it": (lambda text: text[: len(text) // 2], "expected XML, found "),
    "nothing": (lambda _text: b"", "expected XML, found no element"),
    "a picture": (lambda _text: b"\x89PNG\r\n\x1a\n" + bytes(100), "expected XML in ASCII, found "),
    "levels": (replaced(LAYERS, b"<layers>" * 10_000), "found layers in layers"),
    "an escape": (replaced(rb'type="MatMul"', b'type="&#x9b;31m&#10;"'), r"found \\x9b31m of"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_graph_with_anything_else_is_refused_in_one_line(copied: Path, change: str) -> None:
    """Anyone can write a manifest with the digest of a changed file."""
    make, message = CHANGES[change]
    path = copied / "engines" / f"{GRAPH}.xml"
    path.write_bytes(make(path.read_bytes()))
    list_files_again(copied)
    bundle = open_bundle(copied)
    with pytest.raises(BundleCorrupt, match=message) as caught:
        load_engine(bundle, GRAPH, open_device("openvino"))
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).endswith("build the bundle again")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


def test_a_text_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "graph.xml"
    path.write_bytes(b"<net>")
    with path.open("r+b") as file:
        file.truncate(MAX_TEXT + 1)
    with pytest.raises(BundleCorrupt, match=f"expected at most {MAX_TEXT} bytes"):
        check_saved_graph(path, 0)


def test_a_text_of_many_tags_is_refused_soon(tmp_path: Path) -> None:
    path = tmp_path / "graph.xml"
    path.write_bytes(b"<net><edges>" + b"<edge/>" * 1_000_001)
    began = thread_cpu_s()
    with pytest.raises(BundleCorrupt, match="at most 1,000,000 tags"):
        check_saved_graph(path, 0)
    assert thread_cpu_s() - began < 1


def test_bundles_of_earlier_versions_are_refused_in_one_line(copied: Path) -> None:
    """They have no engines for OpenVINO."""
    shutil.rmtree(copied / "engines")

    def edit(document: dict[str, Any]) -> None:
        document["schema"] = 1
        document["files"] = {name: file for name, file in document["files"].items() if "engines" not in name}

    edit_manifest(copied, edit)
    with pytest.raises(BundleMismatch, match=r"schema 2, found 1; build it again with this version"):
        open_bundle(copied)


def test_graphs_name_no_path_of_the_build_machine(small_bundle: Path) -> None:
    for path in (small_bundle / "engines").glob("*.xml"):
        for folder in (small_bundle.parent, Path(torch.__file__).parent, Path.cwd()):
            assert str(folder).encode() not in path.read_bytes()


def weighted(folder: Path, kinds: dict[str, np.ndarray]) -> Path:  # type: ignore[type-arg]
    """graphs/sum.onnx of a float32 input x (64, 64), to which it adds these weights (64, 64)."""
    x = ir.Value(name="x", shape=ir.Shape((64, 64)), type=ir.TensorType(ir.DataType.FLOAT))
    total, nodes, initializers = x, [], []
    for name, array in kinds.items():
        initializers.append(ir.Value(name=name, const_value=ir.Tensor(array, name=name)))
        initializers[-1].shape, initializers[-1].type = ir.Shape((64, 64)), ir.TensorType(ir.DataType.FLOAT)
        nodes.append(ir.node("Mul" if name == "first" else "Add", [total, initializers[-1]]))
        total = nodes[-1].outputs[0]
    total.name, total.shape, total.type = "y", ir.Shape((64, 64)), ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([x], [total], nodes=nodes, initializers=initializers, opset_imports={"": 23}, name="g")
    model = ir.Model(graph, ir_version=10)
    (folder / "graphs").mkdir()
    with (folder / "graphs" / WEIGHTS).open("wb") as file:
        weights = WeightFile(file, halve=True)
        weights.take_from(model)
        ir.save(model, folder / "graphs" / "sum.onnx")
        save_graphs(folder, ["sum"], weights, "fp32", lambda _graph: None)
        assert weights.halved_bytes == 2 * 2 * 64 * 64
    return folder


def test_weights_take_two_bytes_only_if_no_bit_changes(tmp_path: Path) -> None:
    """Of float32 weights, one has values of float16, one those of bfloat16, and one neither."""
    chance = np.random.default_rng(0)
    drawn = chance.standard_normal((4, 64, 64), np.float32)
    half = drawn[0].astype(np.float16).astype(np.float32)
    brain = (drawn[1] * 1e-20).view(np.uint32) & 0xFFFF0000
    kinds = {"first": half, "second": brain.view(np.float32), "third": drawn[2]}
    folder = weighted(tmp_path, kinds)
    text = (folder / "engines" / "sum.xml").read_bytes()
    assert {kind: text.count(b'element_type="%s" shape' % kind) for kind in (b"f16", b"bf16", b"f32")} == {
        b"f16": 1,
        b"bf16": 1,
        b"f32": 1,
    }
    assert text.count(b'"decompression"') == 2
    expected = drawn[3] * half + kinds["second"] + kinds["third"]
    session = onnxruntime.InferenceSession(folder / "graphs" / "sum.onnx", providers=["CPUExecutionProvider"])
    (by_onnx,) = session.run(["y"], {"x": drawn[3]})
    compiled = openvino.compile_graph.original(  # type: ignore[attr-defined]
        folder / "engines" / "sum.xml", folder / "graphs" / WEIGHTS, "fp32"
    )
    by_openvino = compiled([drawn[3]])[0]
    assert np.array_equal(by_onnx, expected)
    assert np.abs(by_openvino - expected).max() <= 1e-6  # it may round a product and a sum at once
