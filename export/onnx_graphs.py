"""ONNX graphs of a checkpoint: opset 23, one file per graph, all weights in one file beside them.

The weight file is content-addressed: a weight that several graphs use is stored once. Both variants of the
denoising UNet share their weights, and ReferenceNet's graph uses some of its projections. External weights
also keep every graph far below protobuf's limit of 2 GB, whatever the model's size.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import onnx_ir as ir
import torch
from torch import nn

from ..engines.contract import Contract, ShapeBucket, TensorSpec, contracts
from ..errors import BuildError
from ..text import message_of, quoted
from .checkpoints.checkpoint import Checkpoint
from .graphs import graph_modules

OPSET = 23
WEIGHTS = "weights.bin"
ALIGNMENT = 64  # bytes, so that memory-mapped weights can be read with vector loads
EXTERNAL_BYTES = 1024  # smaller constants (shapes, scalars) stay in the graph, where tools can see them


def export_graphs(
    checkpoint: Checkpoint,
    bucket: ShapeBucket,
    folder: Path,
    progress: Callable[[str], None] = lambda _graph: None,
) -> None:
    """Write `<graph>.onnx` for every graph and `weights.bin` into an existing folder.

    The graphs compute in the checkpoint's dtype. `progress` is called with each graph's name before it is
    exported. Raises BuildError if torch cannot export a graph.
    """
    dtype = checkpoint.denoising_unet.conv_in.weight.dtype
    expected = contracts(checkpoint.config, bucket, "float16" if dtype == torch.float16 else "float32")
    modules = graph_modules(checkpoint)
    with (folder / WEIGHTS).open("wb") as file:
        weights = WeightFile(file)
        for graph, contract in expected.items():
            progress(graph)
            model = export_graph(graph, modules[graph], contract)
            weights.take_from(model)
            ir.save(model, folder / f"{graph}.onnx")


def export_graph(name: str, module: nn.Module, contract: Contract) -> ir.Model:
    """Export one module as an ONNX model with the inputs and outputs of its contract."""
    inputs = tuple(example(spec) for spec in contract.inputs)
    try:
        with torch.no_grad(), quiet():
            program = torch.onnx.export(
                module,
                inputs,
                dynamo=True,
                opset_version=OPSET,
                input_names=[spec.name for spec in contract.inputs],
                output_names=[spec.name for spec in contract.outputs],
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise BuildError(
            f"{name}: torch cannot export this graph: {quoted(message_of(error), 400)}"
        ) from error
    assert program is not None
    model: ir.Model = program.model
    model.graph.name = name
    strip_metadata(model)
    return model


def example(spec: TensorSpec) -> torch.Tensor:
    return torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype))


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


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporter's warnings about packages we do not use and about its own deprecated calls."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
