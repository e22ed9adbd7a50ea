"""Graphs in OpenVINO's own format, checked before OpenVINO reads them.

    engines/<graph>.xml     operations, and where in graphs/weights.bin each constant is
    graphs/weights.bin      also the weights of the ONNX files

A build saves each graph after the passes in passes/. The text names no other file, and only operations that
OpenVINO itself has, which compute their results from their inputs and nothing else.
"""

from __future__ import annotations

import re
from math import prod
from pathlib import Path
from typing import NoReturn
from xml.parsers import expat

from ...errors import BundleCorrupt
from ...text import escaped, quoted
from ..files import read_bytes

MAX_TEXT = 1 << 25  # bytes; SD 1.5's UNet has 6 million
MAX_TAGS = 1_000_000  # an element has one or two
MAX_ELEMENT = 10_000  # bytes of one element
MAX_RANK = 16
# Each element, and the elements in it.
ELEMENTS = {
    "": {"net"},
    "net": {"layers", "edges", "rt_info"},
    "layers": {"layer"},
    "layer": {"data", "input", "output", "rt_info"},
    "input": {"port"},
    "output": {"port"},
    "port": {"dim"},
    "rt_info": {"attribute"},
    "edges": {"edge"},
}
OPSET = re.compile(r"opset([1-9]|1[0-6])")
NUMBER = re.compile(r"[0-9]{1,15}")
# Bits of one number in a constant.
BITS = {"boolean": 8, "u8": 8, "i8": 8, "f16": 16, "bf16": 16, "i32": 32, "u32": 32, "f32": 32}
BITS |= {"i64": 64, "u64": 64, "f64": 64}
# All of OpenVINO's own operations without side effects, inner graphs, states and texts.
NAMES = """
Abs Acos Acosh AdaptiveAvgPool AdaptiveMaxPool Add Asin Asinh Atan Atanh AvgPool BatchNormInference
BatchToSpace BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Broadcast Bucketize Ceiling Clamp Concat Const
Convert ConvertLike Convolution ConvolutionBackpropData Cos Cosh CumSum DeformableConvolution DepthToSpace
Divide Einsum Elu Equal Erf Exp Eye FakeQuantize Floor FloorMod Gather GatherElements GatherND Gelu Greater
GreaterEqual GridSample GroupConvolution GroupConvolutionBackpropData GroupNormalization HSigmoid HSwish
HardSigmoid Interpolate IsFinite IsInf IsNaN LRN Less LessEqual Log LogSoftmax LogicalAnd LogicalNot
LogicalOr LogicalXor MVN MatMul MaxPool Maximum Minimum Mish Mod Multiply Negative NonMaxSuppression NonZero
NormalizeL2 NotEqual OneHot PReLU Pad Parameter Power RMSNorm Range ReLU ReduceL1 ReduceL2 ReduceLogicalAnd
ReduceLogicalOr ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum Reshape Result Reverse Roll Round
ScaledDotProductAttention ScatterElementsUpdate ScatterNDUpdate ScatterUpdate Select Selu ShapeOf Sigmoid
Sign Sin Sinh Slice SoftMax SoftPlus SoftSign SpaceToBatch SpaceToDepth Split Sqrt SquaredDifference Squeeze
StridedSlice Subtract Swish Tan Tanh Tile TopK Transpose Unsqueeze VariadicSplit
"""
OPERATIONS = frozenset(NAMES.split())
HALVED = "decompression"  # marks the conversion of a weight that is stored in two bytes


def check_saved_graph(path: Path, num_weights: int) -> None:
    """Raise BundleCorrupt unless a file is a graph as a build saves it, with constants within its weights.

    `num_weights` is the number of bytes in the file of weights.
    """
    try:
        Reader(num_weights).read(read_bytes(path, MAX_TEXT))
        return
    except OSError as error:
        problem = f"cannot read it: {error.strerror}"
    except expat.ExpatError as error:
        problem = f"expected XML, found {error}; build the bundle again"
    except ValueError as error:
        problem = f"{error}; build the bundle again"
    raise BundleCorrupt(f"{escaped(str(path))}: {problem}")


class Reader:
    """Reads the text once, element by element. Raises ValueError for what a saved graph does not have."""

    def __init__(self, num_weights: int) -> None:
        self.num_weights = num_weights
        self.inside = [""]
        self.operation = ""

    def read(self, text: bytes) -> None:
        check_sizes(text)
        parser = expat.ParserCreate("utf-8")  # whatever encoding the text states: it is ASCII
        parser.StartDoctypeDeclHandler = refuse_document_type
        parser.StartElementHandler = self.begin
        parser.EndElementHandler = self.end
        parser.Parse(text, True)

    def begin(self, element: str, attributes: dict[str, str]) -> None:
        if element not in ELEMENTS.get(self.inside[-1], ()):
            raise ValueError(
                f"expected a graph of OpenVINO, found {quoted(element)} in {self.inside[-1] or 'the file'}"
            )
        self.inside.append(element)
        if element == "layer":
            self.operation = operation(attributes)
        elif element == "data" and self.operation == "Const":
            self.check_constant(attributes)
        elif element == "attribute" and attributes.get("name") != HALVED:
            raise ValueError(f"expected no attribute but {HALVED}, found {quoted(attributes.get('name'))}")

    def end(self, _element: str) -> None:
        self.inside.pop()

    def check_constant(self, attributes: dict[str, str]) -> None:
        kind = attributes.get("element_type", "")
        if kind not in BITS:
            raise ValueError(f"expected a constant of numbers, found {quoted(kind)}")
        sides = [number(side) for side in attributes.get("shape", "").split(",") if side.strip()]
        offset, size = number(attributes.get("offset")), number(attributes.get("size"))
        if len(sides) > MAX_RANK or size != prod(sides) * BITS[kind] // 8:
            raise ValueError(f"expected {prod(sides[:MAX_RANK]) * BITS[kind] // 8} bytes, found {size}")
        if offset + size > self.num_weights:
            raise ValueError(
                f"expected constants in the {self.num_weights} bytes of the file of weights, "
                f"found one that ends at {offset + size}"
            )


def check_sizes(text: bytes) -> None:
    """Raise ValueError for what would take a parser long, and for letters that parsers read differently."""
    if not text.isascii():
        raise ValueError("expected XML in ASCII, found other bytes")
    if text.count(b"<") > MAX_TAGS:
        raise ValueError(f"expected at most {MAX_TAGS:,} tags, found more")
    longest = max(map(len, text.split(b"<")))  # attributes cannot have this character
    if longest > MAX_ELEMENT:
        raise ValueError(f"expected elements of at most {MAX_ELEMENT:,} bytes, found one of {longest:,}")


def operation(attributes: dict[str, str]) -> str:
    """The type of a layer."""
    kind, version = attributes.get("type", ""), attributes.get("version", "")
    if kind not in OPERATIONS or not OPSET.fullmatch(version):
        raise ValueError(f"expected operations of OpenVINO, found {quoted(kind)} of {quoted(version)}")
    return kind


def number(text: str | None) -> int:
    if not NUMBER.fullmatch((text or "").strip()):
        raise ValueError(f"expected a whole number, found {quoted(text)}")
    return int(text or "")


def refuse_document_type(*_declared: object) -> NoReturn:
    raise ValueError("expected no document type, found one")
