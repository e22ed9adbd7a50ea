"""The graphs' own PyTorch modules as engines, on our streams and in our buffers.

A baseline for any device, and what stands in for TensorRT on a GPU that it does not run on.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..engines.bundle import Bundle, graph_dtype
from ..engines.contract import Contract
from ..engines.cpu import CPUStream
from ..engines.cuda import CUDAStream
from ..engines.device import Buffer, Device, Stream
from ..engines.engine import check_binding
from ..export import load_checkpoint
from ..export.graphs import graph_modules


def torch_engines(
    checkpoint: str | os.PathLike[str], inference_config: str | os.PathLike[str] | None = None
) -> Callable[[Bundle, str, Device], TorchEngine]:
    """What `Animator` loads engines with, for bundles that were built from this checkpoint."""
    modules: dict[str, nn.Module] = {}

    def load(bundle: Bundle, graph: str, _device: Device) -> TorchEngine:
        if not modules:
            dtype = getattr(torch, graph_dtype(bundle.manifest.precision))
            modules.update(graph_modules(load_checkpoint(checkpoint, inference_config, dtype)))
        return TorchEngine(bundle.manifest.graphs[graph], modules[graph])

    return load


class TorchEngine:
    def __init__(self, contract: Contract, module: nn.Module):
        self.contract, self.module = contract, module.eval()
        self.activation_bytes = 0  # PyTorch allocates as it goes
        self.runs = 0

    def context(self, _workspace: Buffer | None) -> TorchContext:
        return TorchContext(self)


class TorchContext:
    def __init__(self, engine: TorchEngine):
        self.engine = engine
        self.specs = {spec.name: spec for spec in (*engine.contract.inputs, *engine.contract.outputs)}
        self.tensors: dict[str, Tensor] = {}
        self.bound: dict[str, Buffer] = {}

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
            self.engine.module.cuda()
            with torch.cuda.stream(torch.cuda.ExternalStream(stream.handle)):
                run()

    @torch.no_grad()
    def run(self, tensors: dict[str, Tensor]) -> None:
        contract = self.engine.contract
        found = self.engine.module(*(tensors[spec.name] for spec in contract.inputs))
        for spec, output in zip(
            contract.outputs, found if isinstance(found, tuple) else (found,), strict=True
        ):
            tensors[spec.name].copy_(output)
        self.engine.runs += 1


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
