"""The weights of all graphs of a bundle in one file.

The file is content-addressed: a weight that several graphs use is stored once. External weights also keep
every graph far below protobuf's limit of 2 GB, whatever the model's size.
"""

from __future__ import annotations

import hashlib
from typing import BinaryIO

import onnx_ir as ir

WEIGHTS = "weights.bin"
ALIGNMENT = 64  # bytes, so that memory-mapped weights can be read with vector loads
EXTERNAL_BYTES = 1024  # smaller constants (shapes, scalars) stay in the graph, where tools can see them


class WeightFile:
    """Append-only file of tensors that stores equal bytes once."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.offsets: dict[bytes, int] = {}  # by SHA-256 of the content

    def take_from(self, model: ir.Model) -> None:
        """Move a model's weights into this file; the model keeps references to them."""
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and tensor.nbytes >= EXTERNAL_BYTES:
                value.const_value = self.add(tensor, value.name or "")

    def add(self, tensor: ir.TensorProtocol, name: str) -> ir.ExternalTensor:
        content = tensor.tobytes()
        digest = hashlib.sha256(content).digest()
        if digest not in self.offsets:
            self.file.write(bytes(-self.file.tell() % ALIGNMENT))
            self.offsets[digest] = self.file.tell()
            self.file.write(content)
        return ir.ExternalTensor(
            WEIGHTS,
            self.offsets[digest],
            len(content),
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=name,
        )


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
