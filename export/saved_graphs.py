"""Graphs of a bundle in OpenVINO's own format, saved after the passes that a CPU needs."""

from __future__ import annotations

import errno
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np

from ..engines.contract import Memory
from ..engines.cpu.layers import Layers
from ..engines.cpu.openvino import apply_passes, compiling, import_openvino, new_core, precision_of
from ..engines.cpu.saved_graph import HALVED, check_saved_graph
from ..engines.precision import Precision
from .graph_memory import memory_of
from .weight_file import WeightFile

HALF = {"f16", "bf16"}


def save_graphs(
    folder: Path,
    graphs: Iterable[str],
    weights: WeightFile,
    precision: Precision,
    progress: Callable[[str], None],
) -> dict[str, Memory]:
    """Save `graphs/<graph>.onnx` in a bundle's folder as `engines/<graph>.xml`, one after another.

    Constants that the file of weights lacks are added to it. `progress` is called with each graph's name.
    Returns the memory that each takes when it computes in that precision.
    Raises DeviceError or OutOfMemory if OpenVINO cannot read a graph, BundleCorrupt if the graph has
    operations that are not allowed in a bundle.
    """
    (folder / "engines").mkdir()
    memory = {}
    for graph in graphs:
        progress(graph)
        weights.file.flush()
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            text, constants = Path(temporary) / "graph.xml", Path(temporary) / "graph.bin"
            with compiling(graph, "use a smaller size or window", "use another version of openvino"):
                model = apply_passes(new_core().read_model(folder / "graphs" / f"{graph}.onnx"))
                import_openvino().serialize(model, text, constants)
            target = folder / "engines" / f"{graph}.xml"
            memory[graph] = add_graph(text, constants, target, weights, precision_of(graph, precision))
    return memory


def add_graph(text: Path, constants: Path, target: Path, weights: WeightFile, precision: Precision) -> Memory:
    """Write a graph that OpenVINO has saved as a bundle's file, and return the memory that it takes."""
    try:
        saved = with_weights(text, constants, weights)
        target.write_bytes(ElementTree.tostring(saved))
    except (ElementTree.ParseError, ValueError) as error:  # a full disk does not stop it
        raise OSError(errno.ENOSPC, f"{target.stem}: OpenVINO saved only a part of it") from error
    check_saved_graph(target, weights.size)
    return memory_of(saved, precision)


def with_weights(text: Path, constants: Path, weights: WeightFile) -> Element:
    """A saved graph, with its constants in the file of weights instead of its own.

    Conversions from half precision are marked, so that OpenVINO keeps the weights in two bytes as long as it
    can. What says how the graph was made is left out.
    """
    graph = ElementTree.parse(text).getroot()
    content = np.memmap(constants, np.uint8, "r")
    for data in graph.findall("layers/layer[@type='Const']/data"):
        offset, size = int(data.attrib["offset"]), int(data.attrib["size"])
        if offset + size > len(content):
            raise ValueError("a constant that is not in the file")
        data.set("offset", str(weights.store(content[offset : offset + size].tobytes())))
    for layer in conversions_of_weights(Layers(graph)):
        mark = ElementTree.SubElement(layer, "rt_info")
        ElementTree.SubElement(mark, "attribute", name=HALVED, version="0")
    for information in graph.findall("rt_info"):
        graph.remove(information)
    return graph


def conversions_of_weights(layers: Layers) -> list[Element]:
    """Layers that convert a constant from half precision, for layers whose results depend on an input.

    The results of other layers are constants, which OpenVINO computes when it compiles the graph. Behind a
    marked conversion it would compute them in each run, with other last bits.
    """
    halves = {name for name, layer in layers.elements.items() if is_half(layer)}
    readers = defaultdict(set)
    for reader, names in layers.reads.items():
        for name in names:
            readers[name].add(reader)
    return [
        layer
        for name, layer in layers.elements.items()
        if layers.kind(name) == "Convert"
        and halves.issuperset(layers.reads[name])
        and layers.depending.keys() >= readers[name]
    ]


def is_half(layer: Element) -> bool:
    data = layer.find("data")
    return layer.get("type") == "Const" and data is not None and data.get("element_type") in HALF
