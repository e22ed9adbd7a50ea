"""The layers of a graph in OpenVINO's format: what each reads, and which results depend on an input."""

from __future__ import annotations

from collections import defaultdict
from xml.etree.ElementTree import Element


class Layers:
    """All layers of a graph by their ids, each after those that it reads.

    Raises KeyError or ValueError for a graph that OpenVINO has not written.
    """

    def __init__(self, graph: Element):
        self.elements = {layer.attrib["id"]: layer for layer in graph.iter("layer")}
        self.reads: dict[str, list[str]] = defaultdict(list)  # in the order of a layer's inputs
        for edge in sorted(graph.iter("edge"), key=lambda edge: int(edge.attrib["to-port"])):
            read, reader = edge.attrib["from-layer"], edge.attrib["to-layer"]
            if not {read, reader} <= self.elements.keys():
                raise ValueError(f"expected an edge between layers, found one from {read} to {reader}")
            self.reads[reader].append(read)
        # Those whose results depend on an input. All others are constants.
        self.depending: dict[str, None] = {}
        for name in self.elements:
            if self.kind(name) == "Parameter" or not self.depending.keys().isdisjoint(self.reads[name]):
                self.depending[name] = None

    def kind(self, name: str) -> str:
        return self.elements[name].attrib["type"]
