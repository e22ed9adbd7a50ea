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
from .layers import Layers
from .saved_graph import check_saved_graph

ATTENTION = "attention: multiplies two tensors of the clip"
FIRST, LAST = "the first convolution", "the last convolution"
OTHER = "NNCF has no rule for it"
KINDS = {"Convolution", "MatMul"}
VIEWS = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Concat", "Split", "VariadicSplit"}


class QuantizedLayers:
    """The convolutions and matrix products of a graph whose results depend on an input."""

    def __init__(self, graph: Element):
        self.layers = layers = Layers(graph)
        self.in_8_bits: set[str] = set()  # what a FakeQuantize gives, also with another shape
        for name in layers.elements:
            kind, reads_8_bits = layers.kind(name), not self.in_8_bits.isdisjoint(layers.reads[name][:1])
            if kind == "FakeQuantize" or (kind in VIEWS and reads_8_bits):
                self.in_8_bits.add(name)
        self.products = [name for name in layers.depending if layers.kind(name) in KINDS]
        convolutions = [name for name in self.products if layers.kind(name) == "Convolution"]
        self.ends = dict(zip((*convolutions[:1], *convolutions[1:][-1:]), (FIRST, LAST), strict=False))

    @classmethod
    def read(cls, path: Path, num_weights: int) -> QuantizedLayers:
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

    def left_in_float(self) -> list[str]:
        """Names of the layers that a build leaves in float."""
        return [self.layers.elements[name].attrib["name"] for name in self.products if self.reason(name)]

    def table(self) -> tuple[int, dict[str, list[str]]]:
        """The number of layers in 8 bits, and the names of the others by reason."""
        left: dict[str, list[str]] = defaultdict(list)
        for name in self.products:
            if self.in_8_bits.isdisjoint(self.layers.reads[name][:1]):
                left[self.reason(name) or OTHER].append(self.layers.elements[name].get("name", name))
        return len(self.products) - sum(map(len, left.values())), dict(left)

    def reason(self, name: str) -> str:
        """Why a layer stays in float; empty if there is no reason."""
        is_attention = self.layers.depending.keys() >= set(self.layers.reads[name][:2])
        return ATTENTION if is_attention else self.ends.get(name, "")
