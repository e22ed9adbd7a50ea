"""Which layers of a saved graph are computed in 8 bits, and why the others are not.

In the graph, a quantized layer reads a FakeQuantize, and a weight that is stored in 8 bits. OpenVINO then
computes it in 8 bits.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from ...errors import BundleCorrupt
from ...text import escaped
from .saved_graph import check_saved_graph

ATTENTION = "attention: multiplies two tensors of the clip"
FIRST, LAST = "the first convolution", "the last convolution"
OTHER = "NNCF has no rule for it"
KINDS = {"Convolution", "MatMul"}
VIEWS = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Concat", "Split", "VariadicSplit"}


class Layers:
    """The convolutions and matrix products of a graph, whose results depend on an input."""

    def __init__(self, graph: Element):
        self.layers = {layer.attrib["id"]: layer for layer in graph.iter("layer")}
        edges = sorted(graph.iter("edge"), key=lambda edge: int(edge.attrib["to-port"]))
        self.reads = defaultdict(list)
        for edge in edges:
            name = edge.attrib["from-layer"]
            if name not in self.layers:
                raise ValueError(f"no layer {name}")
            self.reads[edge.attrib["to-layer"]].append(name)
        self.depending: set[str] = set()
        self.in_8_bits: set[str] = set()  # what a FakeQuantize gives, also with another shape
        for name in self.layers:  # each comes after those that it reads
            kind = self.kind(name)
            if kind == "Parameter" or not self.depending.isdisjoint(self.reads[name]):
                self.depending.add(name)
            is_view = kind in VIEWS and not self.in_8_bits.isdisjoint(self.reads[name][:1])
            if kind == "FakeQuantize" or is_view:
                self.in_8_bits.add(name)
        self.products = [name for name in self.layers if name in self.depending and self.kind(name) in KINDS]
        convolutions = [name for name in self.products if self.kind(name) == "Convolution"]
        self.ends = dict(zip((*convolutions[:1], *convolutions[1:][-1:]), (FIRST, LAST), strict=False))

    @classmethod
    def read(cls, path: Path, num_weights: int) -> Layers:
        """Read a graph as a build saves it. Raises BundleCorrupt if it is none.

        `num_weights` is the number of bytes in the file of weights.
        """
        check_saved_graph(path, num_weights)
        try:
            return cls(ElementTree.parse(path).getroot())
        except (KeyError, ValueError) as error:
            raise BundleCorrupt(
                f"{escaped(str(path))}: expected layers and edges of OpenVINO, found others; "
                "build the bundle again"
            ) from error

    def kind(self, name: str) -> str:
        return self.layers[name].attrib["type"]

    def left_in_float(self) -> list[str]:
        """Names of the layers that a build leaves in float."""
        return [self.layers[name].attrib["name"] for name in self.products if self.reason(name)]

    def table(self) -> tuple[int, dict[str, list[str]]]:
        """The number of layers in 8 bits, and the names of the others by reason."""
        left: dict[str, list[str]] = defaultdict(list)
        for name in self.products:
            if self.in_8_bits.isdisjoint(self.reads[name][:1]):
                left[self.reason(name) or OTHER].append(self.layers[name].get("name", name))
        return len(self.products) - sum(map(len, left.values())), dict(left)

    def reason(self, name: str) -> str:
        """Why a layer stays in float; empty if there is no reason."""
        return ATTENTION if self.depending.issuperset(self.reads[name][:2]) else self.ends.get(name, "")
