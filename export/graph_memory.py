"""How much memory a graph in OpenVINO's format takes, computed from its text: OpenVINO does not say.

It keeps each weight in the precision that it computes in, and compiles every operation to machine code.
Tensors that are not needed at the same time share memory.
"""

from __future__ import annotations

from collections import defaultdict
from math import prod
from xml.etree.ElementTree import Element

from ..engines.contract import Memory
from ..engines.cpu.layers import Layers
from ..engines.cpu.openvino import float_type, new_core
from ..engines.cpu.passes.attention import FEW_KEYS
from ..engines.precision import Precision

CODE_BYTES = 55_000  # of one operation, compiled: measured
FLOATS = {"f32": 4, "f16": 2, "bf16": 2}  # bytes of one number in the file
NUMBERS = {"FP32": 4, "FP16": 2, "BF16": 2, "FP64": 8, "I64": 8, "U64": 8, "I32": 4, "U32": 4}
VIEWS = {"Reshape", "Squeeze", "Unsqueeze", "Convert"}  # the same memory with another shape or name
# Written over an input of the same size that nothing else needs.
IN_PLACE = {"Add", "Divide", "Gelu", "Maximum", "Minimum", "Multiply", "Power", "ReLU", "Sigmoid", "Softmax"}
IN_PLACE |= {"SoftMax", "Sqrt", "Subtract", "Swish", "Tanh", "Clamp", "Round"}


def memory_of(graph: Element, precision: Precision) -> Memory:
    """The memory of a graph that computes in this precision."""
    return Nodes(graph, 2 if float_type(new_core(), precision) == "bf16" else 4).memory()


class Nodes:
    """The operations of a graph whose results depend on an input, in their order; all others are constants.

    item_bytes: of one float that is computed.
    """

    def __init__(self, graph: Element, item_bytes: int):
        self.item_bytes = item_bytes
        layers = Layers(graph)
        self.layers, self.reads, self.kind = layers.elements, layers.reads, layers.kind
        self.names = {
            name: None for name in layers.depending if self.kind(name) not in ("Parameter", "Result")
        }  # in their order

    def memory(self) -> Memory:
        in_file = computed = 0
        for layer in self.layers.values():
            data = layer.find("data")
            if layer.attrib["type"] == "Const" and data is not None:
                size, kind = int(data.attrib["size"]), data.attrib["element_type"]
                in_file += size
                computed += size // FLOATS[kind] * self.item_bytes if kind in FLOATS else size
        code = CODE_BYTES * sum(self.kind(name) not in VIEWS for name in self.names)
        return Memory(weights=computed + code, activations=self.activations(), loading=in_file)

    def activations(self) -> int:
        """The most that all tensors between operations take at once."""
        whole = self.whole()
        place: dict[str, str] = {}  # the operation whose memory holds the result of another
        last: dict[str, str] = {}  # the last operation that reads it
        for name in self.names:
            given = [place[read] for read in self.reads[name] if read in place]
            place[name] = given[0] if given and self.kind(name) in VIEWS else name
            last |= dict.fromkeys([*given, place[name]], name)
        ending = defaultdict(list)
        for held, name in last.items():
            ending[name].append(held)
        sizes: dict[str, int] = {}
        most = now = 0
        for name in self.names:
            if place[name] == name and name in whole:
                sizes[name] = size = self.size(name)
                over = self.kind(name) in IN_PLACE and size in [sizes.get(held) for held in ending[name]]
                now += size
                most = max(most, now - size if over else now)
            now -= sum(sizes.pop(held, 0) for held in ending[name])
        return most

    def whole(self) -> set[str]:
        """All operations but those of attention to many keys, which is one kernel without whole scores."""
        inside = set()
        for name in self.names:
            if self.kind(name) in ("Softmax", "SoftMax") and self.shapes(name)[0][1][-1] > FEW_KEYS:
                score = name
                while score and self.kind(score) != "MatMul":
                    inside.add(score)
                    score = next((read for read in self.reads[score] if read in self.names), "")
                inside.add(score)
        return self.names.keys() - inside

    def size(self, name: str) -> int:
        item_bytes = 1 if self.kind(name) == "FakeQuantize" else self.item_bytes
        return sum(
            prod(shape) * (item_bytes if kind == "FP32" else NUMBERS.get(kind, 1))
            for kind, shape in self.shapes(name)
        )

    def shapes(self, name: str) -> list[tuple[str, list[int]]]:
        """Type and shape of each result."""
        return [
            (port.attrib.get("precision", "FP32"), [int(dim.text or 0) for dim in port.findall("dim")])
            for port in self.layers[name].findall("output/port")
        ]
