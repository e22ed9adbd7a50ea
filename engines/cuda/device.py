"""An NVIDIA GPU as a device: streams, events and memory are CUDA's, through cuda.core.

Errors of a GPU are sticky: after one, every call fails until the process ends. So an event's `needs` has no
meaning here, and whoever waits for anything is told.
"""

from __future__ import annotations

import ctypes
import logging
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from math import prod
from typing import Any

import numpy as np

from ...errors import AnimateError, DeviceError, OutOfMemory
from ..contract import ITEM_BYTES, DType
from ..device import Buffer, Event, Update

LOG = logging.getLogger("animate_rt.cuda")
BLOCK = 256  # threads

# What `apply` in cpu.py does. Compiled without contraction: a fused multiply-add would not round the product.
UPDATE = """
extern "C" __global__ void update(float* latents, float* total, const float* prediction, long long count,
                                  bool first, bool last, float a, float b) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const float sum = first ? prediction[i] : total[i] + prediction[i];
    if (last) latents[i] = a * latents[i] + b * sum;
    else total[i] = sum;
}
"""


class CUDADevice:
    """The first GPU that CUDA shows; the variable CUDA_VISIBLE_DEVICES chooses it.

    Memory is the device's until `close`: nothing is freed while a stream may still use it.
    """

    def __init__(self, *, timing: bool) -> None:
        try:
            from cuda.core import Device, EventOptions
        except ImportError:
            raise DeviceError(
                "backend tensorrt: expected the package cuda-core, found none; "
                "pip install 'animate-rt[tensorrt]'"
            ) from None
        with cuda_errors("expected an NVIDIA GPU and its driver, found none that works"):
            self.device = Device(0)
            self.device.set_current()
        with cuda_errors("cannot compile for the GPU; pip install 'animate-rt[tensorrt]' brings NVRTC"):
            self.kernel = compile_update()
        # A thread that waits sleeps: spinning would take a core from those that read poses and write videos.
        self.event_options = EventOptions(timing_enabled=timing, blocking_sync=True)
        self.memory: list[Any] = []
        self.closed = False
        self.allocations = self.stream("allocations")
        self.origin = self.allocations.record()
        self.origin.synchronize()  # events are timed against it

    @property
    def description(self) -> str:
        return str(self.device.name)

    @property
    def compute_capability(self) -> str:
        """In TensorRT's spelling: SM89"""
        return f"SM{self.device.arch}"

    def activate(self) -> None:
        from cuda.core import Device

        with cuda_errors("cannot use the GPU in this thread"):
            Device(0).set_current()  # a thread has its own object for the same GPU

    def stream(self, name: str) -> CUDAStream:
        return CUDAStream(name, self)

    def buffer(self, dtype: DType, shape: tuple[int, ...]) -> Buffer:
        def allocate(num_bytes: int) -> Any:
            stream = self.allocations.stream
            memory = self.device.allocate(num_bytes, stream=stream)
            stream.sync()  # the allocation is that stream's work: from here on every stream may use it
            return memory

        memory = self._allocate(allocate, dtype, shape)
        return Buffer(dtype, shape, int(memory.handle), memory=memory)

    def host_buffer(self, dtype: DType, shape: tuple[int, ...]) -> Buffer:
        from cuda.core import LegacyPinnedMemoryResource

        memory = self._allocate(LegacyPinnedMemoryResource().allocate, dtype, shape)
        address = int(memory.handle)
        content = (ctypes.c_uint8 * memory.size).from_address(address)
        array = np.frombuffer(content, np.dtype(dtype)).reshape(shape)
        return Buffer(dtype, shape, address, array=array, memory=memory, of_host=True)

    def release(self, buffer: Buffer) -> None:
        stream = self.allocations.stream
        with cuda_errors("giving memory back"):
            buffer.memory.close(stream)
            stream.sync()  # from here on it is anybody's
        self.memory = [memory for memory in self.memory if memory is not buffer.memory]

    def free_bytes(self) -> int:
        with cuda_errors("cannot ask the GPU for its free memory"):
            free, _total = call_driver("cuMemGetInfo")
        return int(free)

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        try:
            self.device.sync()  # whatever still runs uses the memory
            for memory in self.memory:
                memory.close(self.allocations.stream)
            self.allocations.stream.sync()  # only now it is anybody's
        except Exception as error:  # of work that failed: whoever waited for it has been told
            LOG.warning("the GPU was closed after an error: %s", one_line(error))
        self.memory.clear()

    def _allocate(self, allocate: Callable[[int], Any], dtype: DType, shape: tuple[int, ...]) -> Any:
        num_bytes = prod(shape) * ITEM_BYTES[dtype]
        try:
            with cuda_errors("allocating"):
                memory = allocate(num_bytes)
        except OutOfMemory as error:
            raise OutOfMemory(
                f"no room for {dtype} {shape}: expected {num_bytes / 1e6:.0f} MB, found "
                f"{self.free_bytes() / 1e6:.0f} MB free on the GPU; use a smaller size, a smaller window or "
                "fewer frames"
            ) from error
        self.memory.append(memory)
        return memory


class CUDAEvent:
    """Recorded once, when it is made."""

    __slots__ = ("event", "stream")

    def __init__(self, stream: CUDAStream) -> None:
        self.stream = stream
        with cuda_errors(stream.name):
            self.event = stream.stream.record(options=stream.device.event_options)

    @property
    def done(self) -> bool:
        with cuda_errors(self.stream.name):
            return bool(self.event.is_done)

    @property
    def time_s(self) -> float:
        with cuda_errors(self.stream.name):
            return float(self.event - self.stream.device.origin.event) / 1e3

    def synchronize(self) -> None:
        with cuda_errors(f"{self.stream.name}: the GPU failed; start the process again"):
            self.event.sync()


class CUDAStream:
    """A stream of CUDA's, of the kind that does not wait for the default stream."""

    def __init__(self, name: str, device: CUDADevice) -> None:
        self.name, self.device = name, device
        with cuda_errors(name):
            self.stream = device.device.create_stream()  # non-blocking unless told otherwise
        self.handle = int(self.stream.handle)

    def copy(self, *pairs: tuple[Buffer, Buffer]) -> None:
        for target, source in pairs:
            assert target.shape == source.shape, f"{target.shape} != {source.shape}"
            assert target.dtype == source.dtype, f"{target.dtype} != {source.dtype}"
        handle = self.stream.handle
        with cuda_errors(self.name):
            for target, source in pairs:
                call_driver("cuMemcpyAsync", target.address, source.address, source.num_bytes, handle)

    def update(self, updates: Sequence[Update]) -> None:
        from cuda.core import LaunchConfig, launch

        for update in updates:
            latents, total, prediction = update.latents, update.total, update.prediction
            assert {latents.dtype, prediction.dtype} == {"float32"}
            assert latents.shape == prediction.shape
            assert total is not None or (update.first and update.last)
            assert total is None or (total.dtype, total.shape) == (latents.dtype, latents.shape)
            count = prod(latents.shape)
            with cuda_errors(self.name):
                launch(
                    self.stream,
                    LaunchConfig(grid=-(-count // BLOCK), block=BLOCK),
                    self.device.kernel,
                    latents.address,
                    0 if total is None else total.address,
                    prediction.address,
                    np.int64(count),
                    np.bool_(update.first),
                    np.bool_(update.last),
                    np.float32(update.a),
                    np.float32(update.b),
                )

    def record(self) -> CUDAEvent:
        return CUDAEvent(self)

    mark = record  # failures are not an event's, but the device's

    def wait(self, event: Event, *, needs: bool) -> None:  # noqa: ARG002
        assert isinstance(event, CUDAEvent)
        if event.stream is not self:  # what this stream has done is behind it anyway
            with cuda_errors(self.name):
                self.stream.wait(event.event)

    def capture(self, work: Callable[[], None]) -> CUDAGraph:
        """What `work` puts on the stream, not run but kept. Raises DeviceError where it cannot be.

        Through the driver, as cuda.core before 1.3 crashes on a capture that fails. Thread-local, so that
        other threads may allocate and wait meanwhile.
        """
        from cuda.bindings import driver

        handle, mode = self.stream.handle, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        with cuda_errors(f"{self.name}: cannot capture"):
            call_driver("cuStreamBeginCapture", handle, mode)
            try:
                work()
            except BaseException:
                with suppress(Exception):  # the stream must leave capture, and says again that it failed
                    call_driver("cuGraphDestroy", *call_driver("cuStreamEndCapture", handle))
                raise
            (graph,) = call_driver("cuStreamEndCapture", handle)
            try:
                (executable,) = call_driver("cuGraphInstantiate", graph, 0)
            finally:
                call_driver("cuGraphDestroy", graph)
        return CUDAGraph(executable)


class CUDAGraph:
    """Captured work. It may be let go while it runs: CUDA frees it when it has ended."""

    def __init__(self, executable: Any) -> None:
        from cuda.bindings import driver

        self.executable = executable
        weakref.finalize(self, driver.cuGraphExecDestroy, executable).atexit = False

    def launch(self, stream: CUDAStream) -> None:
        """Run it all, at the addresses it was captured with, which have to be valid still."""
        with cuda_errors(stream.name):
            call_driver("cuGraphLaunch", self.executable, stream.stream.handle)


def compile_update() -> Any:
    """The sampler's kernel, for the calling thread's GPU."""
    from cuda.core import Program, ProgramOptions

    return Program(UPDATE, "c++", ProgramOptions(fma=False)).compile("cubin").get_kernel("update")


def call_driver(function: str, *arguments: Any) -> tuple[Any, ...]:
    """A call of the driver's, for what cuda.core has no words for; what it returns besides its status."""
    from cuda.bindings import driver

    status, *values = getattr(driver, function)(*arguments)
    if int(status) != 0:
        raise RuntimeError(f"{function}: {status.name}")
    return tuple(values)


@contextmanager
def cuda_errors(doing: str) -> Iterator[None]:
    """Turn the errors of cuda.core and of the driver, whose classes are not public, into ours."""
    try:
        yield
    except AnimateError:
        raise
    except Exception as error:
        reason = one_line(error)
        kind = OutOfMemory if "OUT_OF_MEMORY" in reason else DeviceError
        raise kind(f"{doing}: {reason}") from error


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())
