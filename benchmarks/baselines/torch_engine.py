"""The graphs' own PyTorch modules as engines, on our streams and in our buffers.

A baseline for any device, and the replacement for TensorRT on a GPU it does not support. On a GPU, as with
TensorRT, a context's second run with the same buffers is captured as a CUDA graph, which later runs replay.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...engines.bundle import Bundle
from ...engines.contract import Contract, ShapeBucket, contracts
from ...engines.cpu.device import CPUStream
from ...engines.cuda.device import CUDADevice, CUDAStream
from ...engines.device import Buffer, Device, Stream
from ...engines.engine import check_binding
from ...engines.manifest import Manifest
from ...engines.precision import PRECISIONS, Precision
from ...export import load_checkpoint
from ...export.checkpoints.checkpoint import Checkpoint
from ...export.graphs import graph_modules

LOG = logging.getLogger("animate_rt.torch")
MAX_GRAPHS = 8  # per context; each holds device memory

Load = Callable[[Bundle, str, Device], "TorchEngine"]


def torch_engines(
    checkpoint: str | os.PathLike[str], inference_config: str | os.PathLike[str] | None = None
) -> Load:
    """A `load` function for `Animator`, for bundles built from this checkpoint."""
    return engines_of(lambda dtype: load_checkpoint(checkpoint, inference_config, dtype))


def engines_of(networks: Callable[[torch.dtype], Checkpoint]) -> Load:
    """Like `torch_engines`, for networks from any source."""
    modules: dict[str, nn.Module] = {}

    def load(bundle: Bundle, graph: str, device: Device) -> TorchEngine:
        if not modules:
            modules.update(
                graph_modules(networks(getattr(torch, PRECISIONS[bundle.manifest.precision].graph_dtype)))
            )
        module = modules[graph]
        if isinstance(device, CUDADevice):
            torch.backends.cudnn.allow_tf32 = False  # graphs use float32 where they need its precision
            module.cuda()
        return TorchEngine(bundle.manifest.graphs[graph], module)

    return load


def torch_bundle(
    checkpoint: str | os.PathLike[str],
    inference_config: str | os.PathLike[str] | None,
    bucket: ShapeBucket,
    precision: Precision,
) -> Bundle:
    """A bundle for these engines, which need only its manifest: it has no files."""
    return bundle_of(load_checkpoint(checkpoint, inference_config), bucket, precision)


def bundle_of(networks: Checkpoint, bucket: ShapeBucket, precision: Precision) -> Bundle:
    """Like `torch_bundle`, for networks that are loaded."""
    manifest = Manifest(
        model=networks.config,
        bucket=bucket,
        backend="tensorrt" if torch.cuda.is_available() else "openvino",  # selects the device
        backend_version=f"torch {torch.__version__}",
        compute_capabilities=(),
        precision=precision,
        weights=dict(networks.weights),
        graphs=contracts(networks.config, bucket, PRECISIONS[precision].graph_dtype),
    )
    return Bundle(Path(), manifest, digest="")


class TorchEngine:
    def __init__(self, contract: Contract, module: nn.Module):
        self.contract, self.module = contract, module.eval()
        self.activation_bytes = 0  # PyTorch allocates its own
        self.runs = 0

    def context(self, _workspace: Buffer | None) -> TorchContext:
        return TorchContext(self)


class TorchContext:
    graphs_enabled = True  # if False, every run launches kernel by kernel

    def __init__(self, engine: TorchEngine):
        self.engine = engine
        self.specs = {spec.name: spec for spec in (*engine.contract.inputs, *engine.contract.outputs)}
        self.tensors: dict[str, Tensor] = {}
        self.bound: dict[str, Buffer] = {}
        # CUDA graphs by the addresses of the buffers they use; None after the first run, until captured.
        self.graphs: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        self.memory: Any = None  # pool that all its graphs share, as only one runs at a time

    def bind(self, name: str, buffer: Buffer) -> None:
        if self.bound.get(name) is not buffer:
            check_binding(self.specs[name], buffer)
            self.bound[name], self.tensors[name] = buffer, tensor(buffer)

    def enqueue(self, stream: Stream) -> None:
        run = partial(self.run, dict(self.tensors))
        if isinstance(stream, CPUStream):
            stream.call(run)
        else:
            assert isinstance(stream, CUDAStream)
            ours = torch.cuda.ExternalStream(stream.handle)
            with torch.cuda.stream(ours):
                graph = self.graph(run, ours) if self.graphs_enabled else None
                (graph.replay if graph else run)()
        self.engine.runs += 1

    @torch.no_grad()
    def run(self, tensors: dict[str, Tensor]) -> None:
        contract = self.engine.contract
        found = self.engine.module(*(tensors[spec.name] for spec in contract.inputs))
        for spec, output in zip(
            contract.outputs, found if isinstance(found, tuple) else (found,), strict=True
        ):
            tensors[spec.name].copy_(output)

    def graph(self, run: Callable[[], None], stream: Any) -> Any:
        """The CUDA graph for the bound buffers, captured here on their second run; None on the first. PyTorch
        captures it, and so reserves the memory that the graph uses."""
        key = tuple(self.bound[name].address for name in self.specs)
        if key not in self.graphs:
            self.graphs[key] = None
            if len(self.graphs) > MAX_GRAPHS:
                self.graphs.popitem(last=False)  # the least recently used
            return None
        self.graphs.move_to_end(key)
        if self.graphs[key] is None:
            graph = torch.cuda.CUDAGraph()
            self.memory = self.memory or torch.cuda.graph_pool_handle()
            try:
                # "thread_local" lets other threads use CUDA during the capture.
                with torch.cuda.graph(graph, self.memory, stream, capture_error_mode="thread_local"):
                    run()
            except RuntimeError as error:  # if the device failed, the plain run raises
                LOG.warning("continues without CUDA graphs: %s", error)
                self.graphs_enabled = False
                self.graphs.clear()
                return None
            self.graphs[key] = graph
        return self.graphs[key]


def tensor(buffer: Buffer) -> Tensor:
    """A tensor that shares the buffer's memory."""
    if buffer.array is not None:
        return torch.from_numpy(buffer.array)
    return torch.as_tensor(Pointer(buffer), device="cuda")


class Pointer:
    """A GPU buffer with the CUDA array interface, which PyTorch reads."""

    def __init__(self, buffer: Buffer):
        self.__cuda_array_interface__: dict[str, Any] = {
            "version": 3,
            "shape": buffer.shape,
            "typestr": np.dtype(buffer.dtype).str,
            "data": (buffer.address, False),
        }
