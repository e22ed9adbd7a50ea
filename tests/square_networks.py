"""ONNX networks of the inputs and outputs that pose tools publish, whose answer is known.

A person is a red square on grey. The detector returns a box around each; the whole-body network returns 133
points at fixed places around the one that it sees. Both compute what they return from the pixels: with a
convolution for "red", and sums for the centre and side of a square.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from animate_rt.export.pose_bundle import build_pose_bundle
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

STRIDES = (8, 16, 32)
WIDE, HIGH = 6, 12  # width and height of a person's box, in units of the side of the red square
GREY = 90
MEAN, DEVIATION = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
# The 133 points, in units of the square's side from its centre: all different, within the box.
PLACES = np.random.default_rng(5).uniform((-2.5, -5.5), (2.5, 5.5), (133, 2))


def picture(*people: tuple[int, int, int], size: tuple[int, int] = (640, 480)) -> Image.Image:
    """People by left, top and side of their red squares."""
    pixels = np.full((size[1], size[0], 3), GREY, np.uint8)
    for left, top, side in people:
        pixels[top : top + side, left : left + side] = 255, 0, 0
    return Image.fromarray(pixels)


def places(person: tuple[int, int, int]) -> NDArray[np.float64]:
    """Where the 133 points of a person are, in pixels; (0, 0) is the centre of the first pixel."""
    left, top, side = person
    return np.array([left, top]) + (side - 1) / 2 + PLACES * side


def box(person: tuple[int, int, int]) -> tuple[float, float, float, float]:
    left, top, side = person
    x, y = left + side / 2, top + side / 2
    return x - WIDE * side / 2, y - HIGH * side / 2, x + WIDE * side / 2, y + HIGH * side / 2


class Graph:
    """Nodes and weights of a graph. Each method adds one node and returns the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def __call__(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"constant_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype), name))
        return name

    def red(self, source: str, scale: Any, shift: Any) -> str:
        """1 where a picture of blue, green and red is pure red, 0 where it is grey; (1, 1, h, w).

        The picture is its values on a scale of 255, minus `shift`, divided by `scale`.
        """
        factors = np.array([-0.5, -0.5, 1]) / 255
        weight = self.constant((factors * scale).reshape(1, 3, 1, 1))
        bias = self.constant([float((factors * shift).sum())])
        zero, one = self.constant(0.0), self.constant(1.0)
        return self("Clip", self("Conv", source, weight, bias), zero, one)

    def save(self, path: Path, inputs: Any, outputs: Any, **options: Any) -> Path:
        """`outputs` are (name in the graph, published name, shape)."""
        names = {inner: name for inner, name, _ in outputs}
        for node in self.nodes:
            node.output[0] = names.get(node.output[0], node.output[0])
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for _, name, shape in outputs],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
        onnx.checker.check_model(model)
        onnx.save(model, path, **options)
        return path


def pose_bundle(folder: Path) -> Path:
    """Build a pose bundle of these networks in a folder."""
    save_detector(folder / "detector.onnx")
    save_landmarks(folder / "landmarks.onnx", 288, 384, "simcc")
    build_pose_bundle(folder, folder / "bundle")
    return folder / "bundle"


def save_detector(path: Path, side: int = 416, *, window: int = 63) -> Path:
    """A detector of YOLOX's form. It finds squares that are smaller than the window."""
    graph = Graph()
    red = graph.red("images", 1, 0)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    parts = []
    for stride in STRIDES:
        area, options = window_average(graph, red, stride, window)
        around, _ = window_average(graph, red, stride, 2 * window + 1)
        some = graph("Max", area, graph.constant(1e-6))
        cells = side // stride
        columns = []
        for place, axis in ((x, 3), (y, 2)):
            sums = graph("AveragePool", graph("Mul", red, graph.constant(place[None, None])), **options)
            # In YOLOX's coordinates the first pixel reaches from 0 to 1.
            centre = graph("Add", graph("Div", sums, some), graph.constant(0.5))
            cell = np.arange(cells, dtype=np.float32).reshape([-1 if i == axis else 1 for i in range(4)])
            columns.append(
                graph("Sub", graph("Div", centre, graph.constant(float(stride))), graph.constant(cell))
            )
        length = graph("Sqrt", graph("Mul", some, graph.constant(float(window**2))))
        for times in (WIDE, HIGH):
            columns.append(graph("Log", graph("Mul", length, graph.constant(times / stride))))
        # Certain only where the window holds all that is red in a larger window.
        inside = graph("Mul", area, graph.constant(float(window**2)))
        near = graph("Mul", around, graph.constant(float((2 * window + 1) ** 2)))
        part = graph("Div", inside, graph("Max", near, graph.constant(1.0)))
        sure = graph("Mul", graph("Sub", part, graph.constant(0.98)), graph.constant(50.0))
        columns.append(graph("Clip", sure, graph.constant(0.0), graph.constant(1.0)))
        columns.append(graph("Clip", inside, graph.constant(0.0), graph.constant(0.9)))
        classes = graph("Mul", inside, graph.constant(np.zeros((1, 79, 1, 1))))
        flat = graph("Concat", *columns, classes, axis=1)
        shape = graph.constant([1, 85, cells * cells], np.int64)
        parts.append(graph("Transpose", graph("Reshape", flat, shape), perm=[0, 2, 1]))
    total = sum((side // stride) ** 2 for stride in STRIDES)
    out = graph("Concat", *parts, axis=1)
    return graph.save(path, [("images", [1, 3, side, side])], [(out, "output", [1, total, 85])])


def window_average(graph: Graph, red: str, stride: int, window: int) -> tuple[str, dict[str, Any]]:
    """The average over a window around the middle of each cell, and the options of such a pooling."""
    before, after = window // 2 - stride // 2, window // 2
    options: dict[str, Any] = {
        "kernel_shape": [window, window],
        "strides": [stride, stride],
        "pads": [before, before, after, after],
        "count_include_pad": 1,
    }
    return graph("AveragePool", red, **options), options


def save_landmarks(path: Path, width: int, height: int, kind: str, *, batch: Any = 1, **options: Any) -> Path:
    """A whole-body network with SimCC outputs, as DWPose's, or with heatmaps, as ViTPose's."""
    graph = Graph()
    # DWPose's tool gives blue, green and red, normalised with the numbers of red, green and blue.
    order = slice(None) if kind == "simcc" else slice(None, None, -1)
    source = "input"
    if kind == "heatmaps":
        source = graph("Gather", source, graph.constant([2, 1, 0], np.int64), axis=1)
    red = graph.red(source, DEVIATION[order], MEAN[order])
    total = graph("ReduceSum", red, axes=[2, 3], keepdims=0)  # (1, 1)
    some = graph("Max", total, graph.constant(1e-6))
    side = graph("Sqrt", some)
    y, x = np.mgrid[:height, :width]
    centres = {}
    for name, place, column in (("x", x, 0), ("y", y, 1)):
        product = graph("Mul", red, graph.constant(place[None, None]))
        middle = graph("Div", graph("ReduceSum", product, axes=[2, 3], keepdims=0), some)
        centres[name] = graph("Add", middle, graph("Mul", side, graph.constant(PLACES[None, :, column])))
    visible = graph("Clip", total, graph.constant(0.0), graph.constant(1.0))  # nobody: no score
    sides = {"x": width, "y": height}
    axes = graph.constant([1, 133, 1], np.int64)

    def peaks(name: str, count: int, step: float, spread: float) -> str:
        """A peak of 1 at the point, along one side with `count` bins of `step` pixels; (1, 133, count)."""
        bins = graph.constant(np.arange(count).reshape(1, 1, -1) * step)
        away = graph("Div", graph("Sub", bins, graph("Reshape", centres[name], axes)), graph.constant(spread))
        return graph("Exp", graph("Neg", graph("Mul", away, away)))

    if kind == "simcc":
        outputs = []
        for name in ("x", "y"):
            scored = graph("Mul", peaks(name, 2 * sides[name], 0.5, 3.0), visible)
            outputs.append((scored, f"simcc_{name}", [batch, 133, 2 * sides[name]]))
    else:
        shapes = {"x": [1, 133, 1, width // 4], "y": [1, 133, height // 4, 1]}
        parts = [
            graph("Reshape", peaks(name, sides[name] // 4, 4.0, 8.0), graph.constant(shape, np.int64))
            for name, shape in shapes.items()
        ]
        scored = graph("Mul", graph("Mul", *parts), visible)
        outputs = [(scored, "output", [batch, 133, height // 4, width // 4])]
    return graph.save(path, [("input", [batch, 3, height, width])], outputs, **options)
