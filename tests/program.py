"""A small CUDA program: the setup and the calls that tests share."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .standin import GPU

N = 64  # floats in a buffer
SIZE = 4 * N
KERNEL = """extern "C" __global__ void update(float* latents, float* total, const float* prediction,
    long long count, bool first, bool last, float a, float b)"""


class Program:
    """Sets the device, and allocates memory, copies and launches kernels on it."""

    def __init__(self, gpu: GPU):
        from cuda import core
        from cuda.bindings import driver

        self.gpu, self.core, self.driver = gpu, core, driver
        self.device = core.Device(0)
        self.device.set_current()
        self.pool = self.device.create_stream()
        self.kept: list[Any] = []

    def memory(self, size: int = SIZE) -> int:
        self.kept.append(self.device.allocate(size, stream=self.pool))
        self.pool.sync()
        return int(self.kept[-1].handle)

    def pinned(self, values: Any = None) -> tuple[int, NDArray[np.float32]]:
        buffer = self.core.LegacyPinnedMemoryResource().allocate(SIZE)
        self.kept.append(buffer)
        array = np.frombuffer((ctypes.c_uint8 * SIZE).from_address(buffer.handle), np.float32)
        if values is not None:
            array[:] = values
        return buffer.handle, array

    def copy(self, target: int, source: int, stream: Any, size: int = SIZE) -> None:
        (status,) = self.driver.cuMemcpyAsync(target, source, size, stream.handle)
        assert int(status) == 0

    def record(self, stream: Any) -> Any:
        return stream.record(options=self.core.EventOptions())

    def update(self, stream: Any, *arguments: Any, block: int = N) -> None:
        options = self.core.ProgramOptions(fma=False)
        kernel = self.core.Program(KERNEL, "c++", options).compile("cubin").get_kernel("update")
        self.core.launch(stream, self.core.LaunchConfig(grid=1, block=block), kernel, *arguments)


def capture(program: Program, stream: Any) -> None:
    mode = program.driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    (status,) = program.driver.cuStreamBeginCapture(stream.handle, mode)
    assert int(status) == 0


def instantiate(program: Program, stream: Any) -> Any:
    status, graph = program.driver.cuStreamEndCapture(stream.handle)
    assert int(status) == 0
    executable = program.driver.cuGraphInstantiate(graph, 0)[1]
    program.driver.cuGraphDestroy(graph)
    return executable
