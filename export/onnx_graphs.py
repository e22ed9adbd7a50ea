"""ONNX graphs of a checkpoint: opset 23, one file per graph, all weights in one file beside them.

Both variants of the denoising UNet share their weights, and ReferenceNet's graph uses some of its
projections.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import onnx_ir as ir
import torch
from torch import nn

from ..engines.contract import Contract, DType, ShapeBucket, TensorSpec, contracts
from ..errors import BuildError, OutOfMemory
from ..text import message_of, quoted
from .checkpoints.checkpoint import Checkpoint
from .checkpoints.weights import is_out_of_memory
from .graphs import graph_modules
from .weight_file import WeightFile, strip_metadata

OPSET = 23
EXPORTING = Lock()  # torch exports one graph at a time, and warnings are silenced for the whole process


def export_graphs(
    checkpoint: Checkpoint,
    bucket: ShapeBucket,
    folder: Path,
    weights: WeightFile,
    progress: Callable[[str], None] = lambda _graph: None,
    *,
    feature_cache: bool = False,
) -> None:
    """Write `<graph>.onnx` for every graph into an existing folder, and all weights into a file there.

    With `feature_cache` there are those for feature caching. The graphs compute in the checkpoint's dtype.
    `progress` is called with each graph's name before it is exported. Raises BuildError if torch cannot
    export a graph, OutOfMemory if there is no room for it.
    """
    dtype = checkpoint.denoising_unet.conv_in.weight.dtype
    graph_dtype: DType = "float16" if dtype == torch.float16 else "float32"
    expected = contracts(checkpoint.config, bucket, graph_dtype, feature_cache=feature_cache)
    modules = graph_modules(checkpoint)
    for graph, contract in expected.items():
        progress(graph)
        model = export_graph(graph, modules[graph], contract)
        weights.take_from(model)
        ir.save(model, folder / f"{graph}.onnx")


def export_graph(name: str, module: nn.Module, contract: Contract) -> ir.Model:
    """Export one module as an ONNX model with the inputs and outputs of its contract."""
    inputs = tuple(example(spec) for spec in contract.inputs)
    try:
        with EXPORTING, torch.no_grad(), quiet():
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
        cause = error.__cause__ or error  # the error itself, and what follows the first line, is advice
        if is_out_of_memory(cause):
            raise OutOfMemory(f"{name}: no room to export it; use a smaller size or window") from error
        reason = quoted(message_of(cause).partition("\n")[0], 200)
        raise BuildError(
            f"{name}: torch cannot export this graph: {type(cause).__name__}: {reason}"
        ) from error
    assert program is not None
    model: ir.Model = program.model
    model.graph.name = name
    strip_metadata(model)
    return model


def example(spec: TensorSpec) -> torch.Tensor:
    return torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype))


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
