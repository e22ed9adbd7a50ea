"""The graphs' own PyTorch modules as engines, on our streams and in our buffers.

A baseline for any device, and what stands in for TensorRT on a GPU that it does not run on. There, as with
TensorRT, a context's second run with the same buffers is captured as a CUDA graph, and replayed from then on.
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

from ...engines.bundle import Bundle, Manifest
from ...engines.contract import Contract, ShapeBucket, contracts
from ...engines.cpu.device import CPUStream
from ...engines.cuda.device import CUDADevice, CUDAStream
from ...engines.device import Buffer, Device, Stream
from ...engines.engine import check_binding
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
    """What `Animator` loads engines with, for bundles that were built from this checkpoint."""
    return engines_of(lambda dtype: load_checkpoint(checkpoint, inference_config, dtype))


def engines_of(networks: Callable[[torch.dtype], Checkpoint]) -> Load:
    """The same for networks from anywhere."""
    modules: dict[str, nn.Module] = {}

    def load(bundle: Bundle, graph: str, device: Device) -> TorchEngine:
        if not modules:
            modules.update(
                graph_modules(networks(getattr(torch, PRECISIONS[bundle.manifest.precision].graph_dtype)))
            )
        module = modules[graph]
        if isinstance(device, CUDADevice):
            torch.backends.cudnn.allow_tf32 = False  # what is float32 in a graph is so for a reason
            module.cuda()
        return TorchEngine(bundle.manifest.graphs[graph], module)

    return load


def torch_bundle(
    checkpoint: str | os.PathLike[str],
    inference_config: str | os.PathLike[str] | None,
    bucket: ShapeBucket,
    precision: Precision,
) -> Bundle:
    """All that these engines need of a bundle: a manifest. There are no files."""
    return bundle_of(load_checkpoint(checkpoint, inference_config), bucket, precision)


def bundle_of(networks: Checkpoint, bucket: ShapeBucket, precision: Precision) -> Bundle:
    manifest = Manifest(
        model=networks.config,
        bucket=bucket,
        backend="tensorrt" if torch.cuda.is_available() else "openvino",  # whose device they run on
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
        self.activation_bytes = 0  # PyTorch allocates as it goes
        self.runs = 0

    def context(self, _workspace: Buffer | None) -> TorchContext:
        return TorchContext(self)


class TorchContext:
    graphs_enabled = True  # False: every run is launched kernel by kernel

    def __init__(self, engine: TorchEngine):
        self.engine = engine
        self.specs = {spec.name: spec for spec in (*engine.contract.inputs, *engine.contract.outputs)}
        self.tensors: dict[str, Tensor] = {}
        self.bound: dict[str, Buffer] = {}
        # By the addresses they were captured with; None until there is one.
        self.graphs: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        self.memory: Any = None  # of all its graphs, as only one of them runs at a time

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
        """The graph for what is bound, if that has run before; PyTorch's own capture, which keeps the
        memory that the graph uses from everyone else."""
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
                # Other threads may go on meanwhile.
                with torch.cuda.graph(graph, self.memory, stream, capture_error_mode="thread_local"):
                    run()
            except RuntimeError as error:  # if it is the device that failed, the plain run will say so
                LOG.warning("goes on without CUDA graphs: %s", error)
                self.graphs_enabled = False
                self.graphs.clear()
                return None
            self.graphs[key] = graph
        return self.graphs[key]


def tensor(buffer: Buffer) -> Tensor:
    """The buffer's memory as PyTorch sees it."""
    if buffer.array is not None:
        return torch.from_numpy(buffer.array)
    return torch.as_tensor(Pointer(buffer), device="cuda")


class Pointer:
    """Memory of the GPU's, as libraries tell each other of it."""

    def __init__(self, buffer: Buffer):
        self.__cuda_array_interface__: dict[str, Any] = {
            "version": 3,
            "shape": buffer.shape,
            "typestr": np.dtype(buffer.dtype).str,
            "data": (buffer.address, False),
        }
