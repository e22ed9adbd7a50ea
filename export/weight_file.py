"""The weights of all graphs of a bundle in one file.

The file is content-addressed: a weight that several graphs use is stored once. External weights also keep
every graph far below protobuf's limit of 2 GB, whatever the model's size.
"""

from __future__ import annotations

import hashlib
from typing import Any, BinaryIO

import numpy as np
import onnx_ir as ir

WEIGHTS = "weights.bin"
ALIGNMENT = 64  # bytes, so that memory-mapped weights can be read with vector loads
HALVES = ir.DataType.FLOAT16, ir.DataType.BFLOAT16
OPSET_OF_BFLOAT16 = 13
EXTERNAL_BYTES = 1024  # smaller constants (shapes, scalars) stay in the graph, where tools can see them


class WeightFile:
    """Append-only file of tensors that stores equal bytes once.

    With `halve`, a float32 weight is stored in two bytes, and its graph converts it to float32, if that does
    not change any bit of it. So are the weights of checkpoints that were published in half precision.
    """

    def __init__(self, file: BinaryIO, *, halve: bool = False):
        self.file, self.halve = file, halve
        self.offsets: dict[bytes, int] = {}  # by SHA-256 of the content
        self.halved_bytes = 0  # of the weights that take two bytes each

    def take_from(self, model: ir.Model) -> None:
        """Move a model's weights into this file; the model keeps references to them."""
        initializers = model.graph.initializers
        halve = self.halve and model.opset_imports.get("", 0) >= OPSET_OF_BFLOAT16 and len(model.graph) > 0
        for value in list(initializers.values()):
            tensor = value.const_value
            if tensor is None or tensor.nbytes < EXTERNAL_BYTES:
                continue
            name = value.name or ""
            listed = value.is_graph_input()  # as old files do with their weights
            half = halved(tensor) if halve and not listed and f"{name}.half" not in initializers else None
            if half is None:
                value.const_value = self.add(tensor, name)
                continue
            size = self.size
            kept = self.add(half, f"{name}.half")
            self.halved_bytes += self.size - size
            stored = ir.Value(
                name=kept.name, shape=value.shape, type=ir.TensorType(half.dtype), const_value=kept
            )
            del initializers[name]
            value.const_value = None
            initializers.add(stored)
            to_float32 = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT.value}, outputs=[value])
            model.graph.insert_before(model.graph[0], to_float32)

    def add(self, tensor: ir.TensorProtocol, name: str) -> ir.ExternalTensor:
        content = tensor.tobytes()
        return ir.ExternalTensor(
            WEIGHTS,
            self.store(content),
            len(content),
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=name,
        )

    def store(self, content: bytes) -> int:
        """Store bytes, unless the file has them already, and return their offset in it."""
        digest = hashlib.sha256(content).digest()
        if digest not in self.offsets:
            self.file.write(bytes(-self.size % ALIGNMENT))
            self.offsets[digest] = self.size
            self.file.write(content)
        return self.offsets[digest]

    @property
    def size(self) -> int:
        return self.file.tell()

    def __str__(self) -> str:
        """How large the file is, and how much of it is in half precision."""
        halved, rest = self.halved_bytes / 1e6, (self.size - self.halved_bytes) / 1e6
        return f"{halved:.1f} MB in half precision without loss, {rest:.1f} MB as they are"


def halved(tensor: ir.TensorProtocol) -> ir.Tensor[Any] | None:
    """A float32 tensor in the first type of HALVES that changes no bit of it, or None."""
    if tensor.dtype != ir.DataType.FLOAT:
        return None
    values = np.ascontiguousarray(tensor.numpy())
    for dtype in HALVES:
        with np.errstate(over="ignore"):
            half = values.astype(dtype.numpy())
        if np.array_equal(half.astype(np.float32).view(np.uint32), values.view(np.uint32)):
            return ir.Tensor(half, dtype)
    return None


def strip_metadata(model: ir.Model) -> None:
    """Remove the exporter's metadata: stack traces with this machine's paths, and most of a graph's bytes."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for output in node.outputs:
            output.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
